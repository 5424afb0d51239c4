"""The correctness gate: relative L2 over the whole output, or over each one, against the stored reference."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.in_step import in_step

Array = np.ndarray[Any, Any]

_PIECE = 16_384
"""Numbers compared at once: 128 KiB in double precision."""


# numpy answers a file of another kind with an array (which is no archive: TypeError, AttributeError) and a
# header of garbage with SyntaxError; a damaged archive speaks through zipfile.
_UNREADABLE = (OSError, ValueError, LookupError, EOFError, TypeError, AttributeError, SyntaxError, BadZipFile)


class BadReference(Exception):
    """The stored reference cannot be read: the farm's fault, not the workload's."""


def load_reference(path: Path) -> list[Array]:
    """The arrays out0, out1, ... in graph order. Raises BadReference."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[f"out{number}"] for number in range(len(archive.files))]
    except _UNREADABLE as error:
        raise BadReference("the reference is no readable .npz of out0, out1, ...") from error


def relative_l2(outputs: Sequence[Array], reference: Sequence[Array]) -> float:
    """||outputs - reference|| / ||reference||, all outputs taken as one vector.

    Raises EngineFailure (wrong_result) when a shape differs or an output is not finite.
    """
    if [each.shape for each in outputs] != [each.shape for each in reference]:
        raise _wrong(f"output shapes {[each.shape for each in outputs]} differ from the reference")
    error = norm = 0.0
    for number, (output, expected) in enumerate(in_step(outputs, reference)):
        apart, size = _squares(output, expected)
        if not math.isfinite(apart) and not np.isfinite(output).all():
            raise _wrong(f"output {number} holds NaN or Inf")
        error, norm = error + apart, norm + size
    if norm == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / norm)


def _squares(output: Array, expected: Array) -> tuple[float, float]:
    """The sums of squares of the difference and of what was expected; not finite where an output is not.

    In pieces that stay in a core's cache: whole copies in double precision cost a visit more than opening its model.
    """
    found, wanted = output.ravel(), expected.ravel()
    error = norm = 0.0
    for begin in range(0, found.size, _PIECE):
        piece = wanted[begin : begin + _PIECE].astype(np.float64)
        norm += float(piece @ piece)
        piece -= found[begin : begin + _PIECE]
        error += float(piece @ piece)
    return error, norm


def check_outputs(outputs: Sequence[Array], reference: Sequence[Array], limit: float) -> float:
    """The relative L2, which is at most `limit`. Raises EngineFailure (wrong_result)."""
    found = relative_l2(outputs, reference)
    if not found <= limit:
        raise _wrong(f"relative L2 against the reference is {found:.3g}, allowed is {limit:g}")
    return found


def check_each(outputs: Sequence[Array], reference: Sequence[Array], limit: float) -> float:
    """The largest relative L2 of a single output, which is at most `limit`. Raises EngineFailure (wrong_result)."""
    found = [relative_l2([one], [expected]) for one, expected in in_step(outputs, reference)]
    for number, distance in enumerate(found):
        if not distance <= limit:
            raise _wrong(f"relative L2 of output {number} by itself is {distance:.3g}, allowed is {limit:g}")
    return max(found, default=0.0)


def refuse_unfit_reference(outputs: Sequence[Array]) -> None:
    """Raises EngineFailure (invalid_workload) for outputs that nothing can be compared with."""
    for number, output in enumerate(outputs):
        if not np.issubdtype(output.dtype, np.floating):
            continue
        if not np.isfinite(output).all():
            raise EngineFailure(FailureCode.INVALID_WORKLOAD, f"output {number} holds NaN or Inf")
        magnitude = np.abs(output)
        if ((magnitude > 0) & (magnitude < np.finfo(output.dtype).tiny)).any():
            raise EngineFailure(FailureCode.INVALID_WORKLOAD, f"output {number} holds denormal numbers")


def _wrong(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.WRONG_RESULT, detail)
