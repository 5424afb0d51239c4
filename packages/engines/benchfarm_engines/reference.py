"""The reference child: runs workloads in ONNX Runtime fp32 and stores their outputs.

``python -I -m benchfarm_engines.reference LIMITS`` answers each JSON line {artifact, inputs, out, edges?} on stdin
with one JSON line {sha256, size_bytes}. `edges` are those of the artifact, where it is a workload's quantised graph:
what is stored are the workload's own outputs.
"""

import hashlib
import io
import sys
from pathlib import Path
from typing import Any, Final

from benchfarm_engines.answering import serve, write_answer
from benchfarm_engines.edges import Edges
from benchfarm_engines.engine import OpenRequest, Tensors
from benchfarm_engines.launch_request import InputSpec, read_edges, read_inputs

_ENGINE: Final = "onnxruntime"


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    inputs, edges = read_inputs(task["inputs"]), read_edges(task.get("edges"))
    content = compute_reference(Path(task["artifact"]), inputs, Path(task["out"]), edges)
    return {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def compute_reference(artifact: Path, specs: tuple[InputSpec, ...], out: Path, edges: Edges | None = None) -> bytes:
    """Writes out0, out1, ... to an .npz at `out` and returns its bytes; the same bytes for the same workload.

    Raises EngineFailure (invalid_workload) when an output is not finite or holds denormals, ValueError where the
    edges do not fit.
    """
    import numpy as np

    from benchfarm_engines.gate import refuse_unfit_reference
    from benchfarm_engines.inputs import make_inputs
    from benchfarm_engines.translation import to_artifact, to_workload

    inputs: Tensors = make_inputs(specs)
    outputs = _outputs(artifact, inputs if edges is None else to_artifact(inputs, edges.inputs))
    if edges is not None:
        outputs = to_workload(outputs, edges.outputs, [output.shape for output in outputs])
    refuse_unfit_reference(outputs)
    arrays: dict[str, Any] = {f"out{number}": output for number, output in enumerate(outputs)}
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    content = archive.getvalue()
    write_answer(out, content)
    return content


def _outputs(artifact: Path, inputs: Tensors) -> "list[Any]":
    """The outputs of one inference. Unoptimised: what the graph says, not what a rewriting of it says."""
    from benchfarm_engines.engine_options import check_options
    from benchfarm_engines.registry import load_engine

    engine = load_engine(_ENGINE)
    options = check_options({"graph_optimization": "none"}, engine.options)
    session = engine.open(OpenRequest(artifact, inputs, "fp32", 1, options))
    try:
        session.run()
        return session.outputs()
    finally:
        session.close()


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], _answer))
