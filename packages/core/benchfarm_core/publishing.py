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
UNJUDGED: Final = "judged by too little"
UNFIT: Final = (HOPELESS, UNJUDGED)
"""Begin the reasons for which a first version is kept as rejected."""
ROWS_MIN: Final = 8
"""Rows of its own without which nothing is said of how good a predictor is, where no hold-out says it."""
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


class Compared(NamedTuple):
    """What a new predictor and the active one, `before`, score on the same rows, and of each row by how much nearer the
    new one is."""

    new: HoldoutScore
    before: HoldoutScore
    gains: Sequence[float]


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
    drawn: Compared | None = None,
) -> Verdict:
    """What becomes of a new predictor. Scores are on the same rows; `before` is the active one's, None where its file
    is not to be read by this version: then what it scored when it was made, `recorded`, speaks for it, and the new one
    answers where it loses no more than one row by that.

    Where nothing answers yet, anything is better than nothing but what is off by factors, as `first` says, and what was
    learnt from next to nothing, of which no score says how good it is. Of the others score and intervals say it.

    Args:
        gains: of each of these rows by how much nearer the new one is: the active one's relative error less its own.
        drawn: the same of those rows alone that nobody picked by what is predicted of them, where others are among them
            that were: by these what answers looks worse than it is, and they must not pay for what is lost elsewhere.
    """
    if not has_active and first is not None and first.is_hopeless:
        told = f"{first.score.mape:.0%} mean error, the least of {first.score.count} is {first.least_error:.0%}"
        return Verdict(False, f"{HOPELESS}: {told}".replace("%", " %"))
    own = 0 if first is None else first.score.count
    if not has_active and new is None and own < ROWS_MIN:
        told = f"no hold-out of it could be measured, and {own} rows of its own tell how far it is off"
        return Verdict(False, f"{UNJUDGED}: {told}; {ROWS_MIN} are the fewest that do")
    if not has_active:
        return Verdict(True, "the first one" + ("" if new is not None else "; no hold-out of it could be measured"))
    if new is None:
        return Verdict(False, "no hold-out could be measured, so what answers stays")
    if before is None:
        return _beside_unreadable(new, recorded)
    if drawn is not None and is_worse(drawn):
        return Verdict(False, f"worse where nobody picked: {_errors_text(drawn.new, drawn.before)}")
    told = _errors_text(new, before)
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


def is_worse(compared: Compared) -> bool:
    """Whether a predictor is within 10 % of more than one such row fewer, or is shown to be farther from them and that
    matters: it is within 5 % of more than one row fewer, too."""
    new, before, gains = compared
    lost_5, lost_10 = (before.within_5 - new.within_5) * new.count, (before.within_10 - new.within_10) * new.count
    return lost_10 > 1 + 1e-9 or (lost_5 > 1 + 1e-9 and is_shown([-gain for gain in gains]))


def _errors_text(new: HoldoutScore, before: HoldoutScore) -> str:
    told = f"{new.mape:.2%} against {before.mape:.2%} mean error on the same {new.count} hold-outs"
    return told.replace("%", " %")


def is_shown(gains: Sequence[float]) -> bool:
    """Whether the mean gain of such rows is above 0, as sure as `SURE`: the lower end of Student's one-sided interval
    of paired differences is. One row shows nothing."""
    if len(gains) < 2:
        return False
    margin = _T_SURE[min(len(gains) - 1, len(_T_SURE)) - 1] * stdev(gains) / sqrt(len(gains))
    return fmean(gains) - margin > 0
