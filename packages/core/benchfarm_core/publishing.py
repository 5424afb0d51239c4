"""What becomes of a new predictor: it answers where nothing does, or where it is shown to be better than what does.

Both are scored on the same rows, so that they are compared row by row: what the rows differ in falls out, and an
interval says whether what is left may be chance. With few rows a mean alone would let the luckier one answer.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Final, NamedTuple

from benchfarm_core.predictors import HoldoutScore

HOPELESS: Final = "worse than no answer"
"""Begins the reason for which a first version is kept as rejected."""
HOPELESS_MAPE: Final = 1.0
HOPELESS_ERROR: Final = 0.5
"""Relative; a first version with no row nearer than that is as bad as one with that mean error."""
SURE: Final = 0.95
"""How sure it must be that a new version is nearer in the mean, before it takes the place of what answers."""
# by degrees of freedom from 1 on; beyond the last one that is taken, which is on the safe side
_T_SURE: Final = (
    *(6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812),
    *(1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725),
    *(1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697),
)
"""Student's quantiles at `SURE`."""


class First(NamedTuple):
    """How far a first version is off: its score on hold-outs, else on rows of its own, and the least relative error."""

    score: HoldoutScore
    least_error: float

    @property
    def is_hopeless(self) -> bool:
        """Whether no answer at all is better."""
        return self.score.mape > HOPELESS_MAPE or self.least_error > HOPELESS_ERROR


class Verdict(NamedTuple):
    """Whether a new predictor is to answer, and the reason."""

    activate: bool
    reason: str


def verdict(
    new: HoldoutScore | None,
    before: HoldoutScore | None,
    *,
    has_active: bool,
    gains: Sequence[float] = (),
    recorded: HoldoutScore | None = None,
    first: First | None = None,
) -> Verdict:
    """What becomes of a new predictor. Scores are on the same rows; `before` is the active one's, None where its file
    is not to be read by this version: then what it scored when it was made, `recorded`, speaks for it, and the new one
    answers where it loses no more than one row by that.

    Where nothing answers yet, anything is better than nothing but what is off by factors, as `first` says: the score
    and the intervals of the others say how good they are.

    Args:
        gains: of each of these rows by how much nearer the new one is: the active one's relative error less its own.
    """
    if not has_active and first is not None and first.is_hopeless:
        told = f"{first.score.mape:.0%} mean error, the least of {first.score.count} is {first.least_error:.0%}"
        return Verdict(False, f"{HOPELESS}: {told}".replace("%", " %"))
    if not has_active:
        return Verdict(True, "the first one" + ("" if new is not None else "; no hold-out of it could be measured"))
    if new is None:
        return Verdict(False, "no hold-out could be measured, so what answers stays")
    if before is None:
        return _beside_unreadable(new, recorded)
    told = f"{new.mape:.2%} against {before.mape:.2%} mean error on the same {new.count} hold-outs".replace("%", " %")
    if is_better(new, before, gains):
        return Verdict(True, told)
    why = "not shown to be better" if new.mape < before.mape and not is_shown(gains) else "what answers is no worse"
    return Verdict(False, f"{why}: {told}")


def _beside_unreadable(new: HoldoutScore, recorded: HoldoutScore | None) -> Verdict:
    """Another process may read what this one cannot, and then a worse one must not take its place."""
    if recorded is None:
        return Verdict(True, "what answered is not to be read by this version, and was never judged")
    told = f"{new.within_10:.0%} within 10% against the {recorded.within_10:.0%} that it had".replace("%", " %")
    told = f"what answered is not to be read by this version; {told}"
    return Verdict((recorded.within_10 - new.within_10) * new.count <= 1 + 1e-9, told)


def is_better(new: HoldoutScore, active: HoldoutScore, gains: Sequence[float]) -> bool:
    """Whether a predictor may answer instead: shown to be nearer on the same rows, and within 10 % of at most one row
    fewer. `gains`: see `verdict`."""
    return is_shown(gains) and (active.within_10 - new.within_10) * new.count <= 1 + 1e-9


def is_shown(gains: Sequence[float]) -> bool:
    """Whether the mean gain of such rows is above 0, as sure as `SURE`: the lower end of Student's one-sided interval
    of paired differences is. One row shows nothing."""
    if len(gains) < 2:
        return False
    margin = _T_SURE[min(len(gains) - 1, len(_T_SURE)) - 1] * stdev(gains) / sqrt(len(gains))
    return fmean(gains) - margin > 0
