"""The converting child: writes the file that one engine opens.

``python -I -m benchfarm_engines.converting LIMITS`` answers each JSON line {engine, precision, options, artifact,
inputs, out, edges?} on stdin with one JSON line {format, edges, sha256, size_bytes, convert_ms}. With `engine` null
the answer is the quantised ONNX graph that int8 of every engine is made from, `options` are those of int8 alone, and
`activations` (int8 unless said) is how the graph stores its 8 bits, see ``quantise``. With `opened_by`, an engine's
name, nothing is made: the answer is `SEEN`, where that engine computes the graph's products in the precision.
It runs in the environment in which the engine is installed; what has no engine is made in the agent's.
"""

import hashlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from benchfarm_core.failures import FailureCode
from benchfarm_engines.answering import serve, write_answer
from benchfarm_engines.conversion import ONNX, Activations, ConversionRequest, Converted, keeps_types, load_converter
from benchfarm_engines.engine import EngineFailure, EngineUnavailable
from benchfarm_engines.engine_options import INT8_OPTIONS, OptionValue, check_options
from benchfarm_engines.launch_request import BadRequest, InputSpec, read_edges, read_inputs
from benchfarm_engines.registry import load_engine

SEEN: Final = b"seen"
"""What is written where a graph is fit to be opened as it is."""


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    begun_ns = time.perf_counter_ns()
    onnx_bytes, inputs = Path(task["artifact"]).read_bytes(), read_inputs(task["inputs"])
    if task["engine"] is None and "opened_by" in task:
        _see(onnx_bytes, str(task["precision"]), str(task["opened_by"]))
        made = Converted(SEEN, ONNX)
    elif task["engine"] is None:
        stored = task.get("activations", "int8")
        if stored not in get_args(Activations):
            raise BadRequest(f"activations are one of {', '.join(get_args(Activations))}")
        made = _quantised(onnx_bytes, inputs, check_options(task["options"], INT8_OPTIONS), stored)
    else:
        made = _converted(task, onnx_bytes, inputs)
    write_answer(Path(task["out"]), made.content)
    return {
        "format": made.format,
        "edges": None if made.edges is None else made.edges.document(),
        "sha256": hashlib.sha256(made.content).hexdigest(),
        "size_bytes": len(made.content),
        "convert_ms": (time.perf_counter_ns() - begun_ns) / 1e6,
    }


def _see(onnx_bytes: bytes, precision: str, engine: str) -> None:
    try:
        from benchfarm_engines.products import refuse_other_products
    except ImportError as error:
        raise EngineUnavailable(f"graphs cannot be read here: {error}") from error
    refuse_other_products(onnx_bytes, precision, keeps_types=keeps_types(engine))


def _quantised(
    onnx_bytes: bytes, inputs: tuple[InputSpec, ...], options: Mapping[str, OptionValue], stored: Activations
) -> Converted:
    try:
        from benchfarm_engines.quantise import quantise
    except ImportError as error:
        raise EngineUnavailable(f"int8 cannot be made here: {error}") from error
    try:
        content, edges = quantise(onnx_bytes, inputs, options, stored)
    except (EngineFailure, MemoryError, OSError):  # OSError: the machine's fault, not the graph's
        raise
    except Exception as error:  # boundary: a stranger's graph may trip the quantisation anywhere
        raise _tripped(error) from error
    return Converted(content, ONNX, edges)


def _converted(task: Mapping[str, Any], onnx_bytes: bytes, inputs: tuple[InputSpec, ...]) -> Converted:
    name = str(task["engine"])
    converter = load_converter(name)
    if converter is None:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"{name} has no files of its own")
    known = getattr(converter, "options", None)  # where the engine itself cannot be opened in this cage
    options = check_options(task["options"], load_engine(name).options if known is None else known)
    request = ConversionRequest(onnx_bytes, str(task["precision"]), options, inputs, read_edges(task.get("edges")))
    try:
        if request.precision != "int8":  # then the graph was seen when it was quantised
            _see(onnx_bytes, request.precision, name)
        return converter.convert(request)
    except (EngineFailure, EngineUnavailable, MemoryError, OSError):  # OSError: the machine's fault, not the graph's
        raise
    except Exception as error:  # boundary: a graph may trip a converter anywhere
        raise _tripped(error) from error


def _tripped(error: Exception) -> EngineFailure:
    return EngineFailure(FailureCode.CONVERSION_FAILED, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], _answer))
