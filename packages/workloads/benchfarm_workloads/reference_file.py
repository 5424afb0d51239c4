"""The outputs that every board's are held against, as a file."""

from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.verdicts import shown

Array = NDArray[Any]


def write_outputs(names: Sequence[str], outputs: Sequence[Array], target: IO[bytes], max_bytes: int) -> None:
    """Writes out0..outN as .npz, in the model's order.

    Raises:
        InvalidRequest: ``invalid_workload`` for NaN, Inf or denormals, ``unsupported_dtype``, or
            ``model_too_large_for_inspection`` for outputs beyond ``max_bytes`` together.
    """
    for name, output in zip(names, outputs, strict=True):
        _refuse_sick(name, output)
    size_bytes = sum(output.nbytes for output in outputs)
    if size_bytes > max_bytes:
        raise InvalidRequest(
            f"the outputs take {size_bytes} bytes, the limit is {max_bytes}; bind smaller dimensions",
            code="model_too_large_for_inspection",
        )
    np.savez(target, **{f"out{index}": output for index, output in enumerate(outputs)})  # type: ignore[arg-type]
    target.flush()


def _refuse_sick(name: str, output: Array) -> None:
    if output.dtype.kind != "f":
        if output.dtype.kind not in "iub":
            raise InvalidRequest(f"output {shown(name)} holds {output.dtype}", code="unsupported_dtype")
        return
    sick = {
        "NaN": np.isnan(output),
        "Inf": np.isinf(output),
        "denormals": (output != 0) & (np.abs(output) < np.finfo(output.dtype).tiny),
    }
    for kind, where in sick.items():
        if where.any():
            raise InvalidRequest(
                f"output {shown(name)} holds {int(where.sum())} {kind} for the given inputs; "
                "its latency would mean nothing: check the weights, or give fills as the model expects them",
                code="invalid_workload",
            )
