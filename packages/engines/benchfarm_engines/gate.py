"""The correctness gate: relative L2 of each output against the stored reference; the worst one decides."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.in_step import in_step

Array = np.ndarray[Any, Any]

_PIECE = 16_384
"""Numbers compared at once: 128 KiB in double precision."""

CODE_SHARE: Final = 0.05
"""Of the codes of an output so many may be one step off for nothing: kernels round in their own ways."""
_CODES: Final = 256


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
    squares = _all_squares(outputs, reference)
    return _ratio(sum(error for error, _ in squares), sum(norm for _, norm in squares))


def distances(outputs: Sequence[Array], reference: Sequence[Array]) -> list[float]:
    """The relative L2 of each output by itself; of one that must be 0 throughout, beside all of them.

    Outputs of 8 bits may be codes of numbers that nobody tells: theirs is at least `codes_apart`. Raises as
    `relative_l2` does.
    """
    squares = _all_squares(outputs, reference)
    whole = sum(norm for _, norm in squares)
    found = [_ratio(error, norm or whole) for error, norm in squares]
    return [
        max(distance, codes_apart(output, expected)) if _are_codes(output, expected) else distance
        for distance, output, expected in in_step(found, outputs, reference)
    ]


def codes_apart(output: Array, expected: Array) -> float:
    """How far the numbers behind 8-bit codes may be apart, relative L2, whatever scale and zero point they have.

    As codes stand they are no measure: a zero point would count as a value and hide what is wrong. About their own mean
    they are smallest, so the distance is no larger with any zero point; the scale does not matter. One step off is
    nothing for at most `CODE_SHARE` of them.
    """
    apart, codes = np.zeros(_CODES, np.int64), np.zeros(_CODES, np.int64)
    found, wanted = output.ravel(), expected.ravel()
    lowest = int(np.iinfo(wanted.dtype).min)
    for begin in range(0, found.size, _PIECE):
        piece = wanted[begin : begin + _PIECE].astype(np.int64)
        codes += np.bincount(piece - lowest, minlength=_CODES)
        steps = np.minimum(np.abs(found[begin : begin + _PIECE].astype(np.int64) - piece), _CODES - 1)
        apart += np.bincount(steps, minlength=_CODES)
    values = np.arange(_CODES, dtype=np.float64)
    forgiven = min(int(apart[1]), max(1, int(CODE_SHARE * found.size)))
    mean = float(codes @ values) / max(1, found.size)
    return _ratio(float(apart @ values**2) - forgiven, float(codes @ (values - mean) ** 2))


def _are_codes(output: Array, expected: Array) -> bool:
    return all(array.dtype.kind in "iu" and array.dtype.itemsize == 1 for array in (output, expected))


def _all_squares(outputs: Sequence[Array], reference: Sequence[Array]) -> list[tuple[float, float]]:
    """Of each output `_squares`. Raises EngineFailure (wrong_result)."""
    if [each.shape for each in outputs] != [each.shape for each in reference]:
        raise _wrong(f"output shapes {[each.shape for each in outputs]} differ from the reference")
    squares = [_squares(output, expected) for output, expected in in_step(outputs, reference)]
    for number, (output, (error, _)) in enumerate(in_step(outputs, squares)):
        if not math.isfinite(error) and not np.isfinite(output).all():
            raise _wrong(f"output {number} holds NaN or Inf")
    return squares


def _ratio(error: float, norm: float) -> float:
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
    """The largest relative L2 of an output, which is at most `limit`. Raises EngineFailure (wrong_result)."""
    return _largest(distances(outputs, reference), limit)


def check_as_one(outputs: Sequence[Array], reference: Sequence[Array], limit: float, each: float) -> float:
    """The largest relative L2 of an output, at most `each`, where that of all as one vector is at most `limit`.

    Raises EngineFailure (wrong_result).
    """
    whole = _largest([relative_l2(outputs, reference)], limit)
    return max(whole, _largest(distances(outputs, reference), each))


def check_beside(
    outputs: Sequence[Array], reference: Sequence[Array], twin: Sequence[Array], limit: float, *, as_one: bool = False
) -> float:
    """The largest relative L2 from a twin. Farther than `limit` is only what is as near to the reference as the twin.

    as_one: all outputs as one vector. Raises EngineFailure (wrong_result).
    """

    def apart(found: Sequence[Array], wanted: Sequence[Array]) -> list[float]:
        return [relative_l2(found, wanted)] if as_one else distances(found, wanted)

    far = apart(outputs, twin)
    if max(far, default=0.0) > limit:
        own = in_step(apart(outputs, reference), apart(twin, reference))
        _largest([0.0 if mine <= its else one for one, (mine, its) in in_step(far, own)], limit)
    return max(far, default=0.0)


def _largest(found: Sequence[float], limit: float) -> float:
    for number, distance in enumerate(found):
        if not distance <= limit:
            what = "against the reference" if len(found) == 1 else f"of output {number} by itself"
            raise _wrong(f"relative L2 {what} is {distance:.3g}, allowed is {limit:g}")
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
