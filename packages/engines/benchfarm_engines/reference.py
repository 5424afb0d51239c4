"""The reference child: runs generated workloads in ONNX Runtime fp32 and stores their outputs.

``python -I -m benchfarm_engines.reference LIMITS`` answers each JSON line {artifact, inputs, out} on stdin with
one JSON line. It is kept alive between workloads and confined like a runner; LIMITS is the JSON of its limits.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchfarm_core.confine import ConfinementIncomplete, confine
from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, EngineUnavailable, OpenRequest, one_line
from benchfarm_engines.launch_request import BadRequest, read_inputs, read_limits
from benchfarm_engines.runner import EXIT_CANNOT_GO_ON, claim_stdout

_ENGINE: Final = "onnxruntime"


def main(arguments: list[str]) -> int:
    """Serves until stdin ends; returns the exit status."""
    lines = claim_stdout()
    ours = str(Path(__file__).resolve().parent)
    try:
        limits = read_limits(json.loads(arguments[0]))
        confine(replace(limits, readable=(*limits.readable, ours)))
    except (IndexError, ValueError) as error:
        lines.write({"ok": False, "code": "bad_request", "detail": one_line(str(error))})
        return EXIT_CANNOT_GO_ON
    except ConfinementIncomplete as error:
        lines.write(_refusal(FailureCode.ENGINE_UNAVAILABLE, str(error)))
        return EXIT_CANNOT_GO_ON
    for line in sys.stdin.buffer:
        lines.write(_answer(line))
    return 0


def _answer(line: bytes) -> dict[str, Any]:
    try:
        task = json.loads(line)
        content = compute_reference(Path(task["artifact"]), task["inputs"], Path(task["out"]))
    except EngineFailure as failure:
        return {"ok": False, "code": str(failure.code), "detail": failure.detail}
    except MemoryError:
        return _refusal(FailureCode.OUT_OF_MEMORY, "more memory than the child may use")
    except (BadRequest, ValueError, KeyError, TypeError) as error:
        return {"ok": False, "code": "bad_request", "detail": one_line(f"{type(error).__name__}: {error}")}
    except (EngineUnavailable, OSError) as error:
        return _refusal(FailureCode.ENGINE_ERROR, str(error))
    return {"ok": True, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def _refusal(code: FailureCode, detail: str) -> dict[str, Any]:
    return {"ok": False, "code": str(code), "detail": one_line(detail)}


def compute_reference(artifact: Path, inputs: object, out: Path) -> bytes:
    """Writes out0, out1, ... to an .npz at `out` and returns its bytes; the same bytes for the same workload.

    Raises EngineFailure (invalid_workload) when an output is not finite or holds denormals.
    """
    import numpy as np

    from benchfarm_engines.gate import refuse_unfit_reference
    from benchfarm_engines.inputs import make_inputs
    from benchfarm_engines.registry import load_engine

    engine = load_engine(_ENGINE)
    # Unoptimised: the reference is what the graph says, not what a rewriting of it says.
    session = engine.open(
        OpenRequest(artifact, make_inputs(read_inputs(inputs)), "fp32", 1, {"graph_optimization": "none"})
    )
    try:
        session.run()
        outputs = session.outputs()
    finally:
        session.close()
    refuse_unfit_reference(outputs)
    arrays: dict[str, Any] = {f"out{number}": output for number, output in enumerate(outputs)}
    part = out.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    content = part.read_bytes()
    part.replace(out)  # whoever finds the file finds it whole
    return content


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
