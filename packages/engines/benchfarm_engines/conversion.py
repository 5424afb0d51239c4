"""Conversion: from a workload's ONNX graph to the file that one engine opens, in the precision of a platform.

It runs on the agent's host in a confined child (``converting``), never on the board and never during a launch. A
module ``<engine>_convert`` offers ``CONVERTER``; an engine without one opens the ONNX file itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Final, Literal, Protocol

from benchfarm_engines.edges import Edges
from benchfarm_engines.engine import EngineUnavailable, one_line
from benchfarm_engines.engine_options import OptionValue
from benchfarm_engines.launch_request import InputSpec

ONNX: Final = "onnx"

Activations = Literal["int8", "int8_symmetric", "uint8"]
"""How a quantised graph stores the 8 bits of what flows through it. int8 and uint8 are the same numbers, their zero
points 128 apart; int8_symmetric has zero points of 0 and coarser steps where a range is lopsided."""


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert.

    onnx_bytes: the graph; for ``int8`` the quantised one (static QDQ, see ``quantise``). precision: the
    platform's. options: the engine's, complete. inputs: the workload's, every dimension bound. edges: those of
    ``onnx_bytes`` where it is the quantised graph.
    """

    onnx_bytes: bytes
    precision: str
    options: Mapping[str, OptionValue]
    inputs: Sequence[InputSpec]
    edges: Edges | None = None


@dataclass(frozen=True)
class Converted:
    """An artifact: one file, its format as engines name it, and its edges (None: those of the ONNX graph)."""

    content: bytes
    format: str
    edges: Edges | None = None


class Converter(Protocol):
    """Writes one engine's files."""

    def convert(self, request: ConversionRequest) -> Converted:
        """The same bytes for the same request.

        Raises EngineFailure: ``unsupported_operator`` with the operator as its subject, or ``conversion_failed``.
        """


_SYMMETRIC: Final = frozenset({"ncnn"})
"""Engines whose activations have no zero point: steps with one are other numbers than theirs."""


def activations_for(engine: str) -> Activations:
    """How the quantised graph that an engine's int8 is made from stores its 8 bits."""
    if engine in _SYMMETRIC:
        return "int8_symmetric"
    return "int8" if has_converter(engine) else "uint8"


_KEEPS_TYPES: Final = frozenset({"onnxruntime", "onnxruntime_cuda", "torch", "torch_cuda"})
"""Engines that compute in the types that the graph says; others bring every number to the platform's precision."""


def keeps_types(engine: str) -> bool:
    """Whether a product of float64 stays one in this engine, whatever the platform's precision."""
    return engine in _KEEPS_TYPES


_FILES_OF: Final = {"litert_benchmark_model": "litert"}


def files_of(engine: str) -> str:
    """The engine whose files an engine opens: its own, but of another program for the same files."""
    return _FILES_OF.get(engine, engine)


def has_converter(engine: str) -> bool:
    """Whether the engine opens files of its own; nothing of the engine is imported."""
    return find_spec(f"benchfarm_engines.{files_of(engine)}_convert") is not None


def load_converter(engine: str) -> Converter | None:
    """The engine's converter, None where it opens ONNX itself. Raises EngineUnavailable where it cannot be imported."""
    if not has_converter(engine):
        return None
    try:
        converter: Converter = import_module(f"benchfarm_engines.{engine}_convert").CONVERTER
    except (ImportError, OSError) as error:
        raise EngineUnavailable(one_line(f"files for {engine} cannot be made here: {error}")) from error
    return converter
