"""The reference output of an uploaded model: one run in ONNX Runtime, fp32, one thread, no rewriting."""

from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import InputSpec
from benchfarm_workloads.fills import filled
from benchfarm_workloads.reference_file import write_outputs
from benchfarm_workloads.verdicts import cleaned

Array = NDArray[Any]

_OUT_OF_MEMORY: Final = ("bad_alloc", "Failed to allocate memory", "not enough memory", "std::length_error")
_NOT_IMPLEMENTED: Final = ("NOT_IMPLEMENTED", "is not a registered function/op", "Could not find an implementation")


def write_reference(content: bytes, inputs: Sequence[InputSpec], target: IO[bytes], max_bytes: int) -> int:
    """Runs the model once and writes out0..outN as .npz, in graph output order; returns how many there are.

    Raises:
        InvalidRequest: ``invalid_workload`` for NaN, Inf or denormals, ``unknown_operator`` for one that ONNX
            Runtime does not have, ``model_too_large_for_inspection``, or ``inspection_failed`` with its message.
    """
    names, outputs = _run(content, {spec.name: filled(spec) for spec in inputs})
    write_outputs(names, outputs, target, max_bytes)
    return len(outputs)


def _run(content: bytes, feeds: dict[str, Array]) -> tuple[list[str], list[Array]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # memory stays what one run needs
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")  # would hold every weight twice
    # unoptimised: the reference is what the graph says, not what a rewriting of it says
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = [np.asarray(output) for output in session.run(names, feeds)]
    except MemoryError:
        raise
    except Exception as error:  # boundary: the engine's exceptions share no class but this one
        raise _refusal(str(error)) from error
    return names, outputs


def _refusal(message: str) -> InvalidRequest:
    said = cleaned(message.rsplit(") : ", maxsplit=1)[-1], 300)
    if any(mark in message for mark in _OUT_OF_MEMORY):
        return InvalidRequest(
            "running the model once takes more memory than an inspection may use; bind smaller dimensions",
            code="model_too_large_for_inspection",
        )
    if any(mark in message for mark in _NOT_IMPLEMENTED):
        return InvalidRequest(f"ONNX Runtime lacks an operator of this model: {said}", code="unknown_operator")
    return InvalidRequest(f"ONNX Runtime cannot run this model: {said}", code="inspection_failed")
