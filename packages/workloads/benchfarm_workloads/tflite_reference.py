"""The reference output of an uploaded .tflite file: one run in LiteRT's own kernels, one thread, no delegate.

No other engine reads such a file as it is, so its reference is the same file in the kernels that LiteRT calls its
reference, or in the faster built-in ones where the file has too much to compute: what is measured is held against that.
"""

from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import InputSpec
from benchfarm_workloads.fills import filled
from benchfarm_workloads.reference_file import write_outputs
from benchfarm_workloads.verdicts import MAX_RANK, cleaned

Array = NDArray[Any]

_PLAIN: Final = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
REFERENCE_FLOPS_MAX: Final = 2_000_000_000
"""What LiteRT's reference kernels compute in a few seconds: they are 10 to 20 times slower than its others."""
_MISSING: Final = (
    "Didn't find op",
    "unresolved custom op",
    "builtin_code",
    "Select TensorFlow op",
    "failed to prepare",
)
_OUT_OF_MEMORY: Final = ("bad_alloc", "ailed to allocate", "out of memory", "std::length_error")


class ReferenceRun:
    """The model with its inputs bound, run once."""

    def __init__(self, content: bytes, inputs: Sequence[InputSpec], *, by_reference: bool = False) -> None:
        """by_reference: in LiteRT's reference kernels, which are written for what they mean and not for speed.

        Raises InvalidRequest: ``truncated_model``, ``unknown_operator``, ``model_too_large_for_inspection``, or
        ``inspection_failed`` with LiteRT's message.
        """
        try:
            self._interpreter = _opened(content, inputs, OpResolverType.BUILTIN_REF if by_reference else _PLAIN)
            self._interpreter.invoke()
        except MemoryError:
            raise
        except Exception as error:  # boundary: the engine's exceptions share no class but this one
            raise _refusal(error) from error

    def shapes(self) -> dict[int, tuple[int, ...]]:
        """The shape of every tensor after the run, by its number."""
        details = self._interpreter.get_tensor_details()
        return {int(each["index"]): tuple(int(size) for size in each["shape"][: 8 * MAX_RANK]) for each in details}

    def write(self, target: IO[bytes], max_bytes: int) -> int:
        """Writes the outputs and returns how many there are. Raises as ``write_outputs``."""
        details = self._interpreter.get_output_details()
        outputs = [np.array(self._interpreter.get_tensor(each["index"])) for each in details]
        write_outputs([each["name"] for each in details], outputs, target, max_bytes)
        return len(outputs)


def by_reference_kernels(
    run: ReferenceRun, content: bytes, inputs: Sequence[InputSpec], flops: int | None
) -> ReferenceRun:
    """The run that makes the reference: anew in the reference kernels where those are fast enough and have it all."""
    if flops is None or flops > REFERENCE_FLOPS_MAX:
        return run
    try:
        return ReferenceRun(content, inputs, by_reference=True)
    except InvalidRequest:
        return run  # the plain kernels have run it, so it is no fault of the file


def operator_names() -> dict[int, str]:
    """The names of the schema's operators by their codes."""
    return {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def _opened(content: bytes, inputs: Sequence[InputSpec], kernels: OpResolverType) -> Any:
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
    given = {spec.name: spec for spec in inputs}
    details = interpreter.get_input_details()
    for each in details:
        if -1 in each["shape_signature"]:
            interpreter.resize_tensor_input(each["index"], list(given[each["name"]].shape))
    interpreter.allocate_tensors()
    for each in details:
        interpreter.set_tensor(each["index"], filled(given[each["name"]]))
    return interpreter


def _refusal(error: Exception) -> InvalidRequest:
    message = str(error).strip()
    silent = isinstance(error, RuntimeError) and not message  # so it fails where its memory cannot be had
    if silent or any(mark in message for mark in _OUT_OF_MEMORY):
        return InvalidRequest(
            "running the model once takes more memory than an inspection may use; bind smaller dimensions",
            code="model_too_large_for_inspection",
        )
    said = cleaned(message, 300)
    if "valid Flatbuffer" in message:
        return InvalidRequest("damaged TensorFlow Lite file: upload it again", code="truncated_model")
    if any(mark in message for mark in _MISSING):
        return InvalidRequest(f"LiteRT lacks an operator of this model: {said}", code="unknown_operator")
    return InvalidRequest(f"LiteRT cannot run this model: {said}", code="inspection_failed")
