"""When a predictor is to be made anew, and what judges it then.

Reasons are enough new results, results that it misses, a board or a clock that is another one, other rules of what its
engine fuses, or a new version of its engine, which has none yet. A new version answers only where it is better than the
active one on the same rows; see `adapting.verdict`. Declared hold-outs are those rows. Where the board may be another
one they are measured again, and where none were declared, rows judge that came since and that neither of the two has
learnt.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from math import exp, log
from statistics import median
from typing import Final, NamedTuple

from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL, KernelRow, ModelRow, TrainingRows

NEW_ROWS_MIN: Final = 20
NEW_SHARE: Final = 0.2
"""Of the rows that it learnt from."""
LOOK_ROWS: Final = 8
"""New rows without which nothing is said of drift."""
DRIFT: Final = 0.05
"""By so much, and by more than its mean error, the middle of the new rows must lie beside what was predicted."""
CANARIES_MOVED: Final = 0.1
"""By so much the clock's canary must have moved since the newest version. Normalising takes the clock out of what
computes; what waits for memory goes another way."""
JUDGES_MIN: Final = 5
"""Rows without which nobody is judged."""
AGAIN_MAX: Final = 24
"""Hold-outs of one subject that are measured again."""
AGAIN_S: Final = 86_400.0
"""What was not measured again by then judges nobody."""
AGAIN_SHARE: Final = 0.002
"""Of a board's time that hold-outs of one subject may take by being measured again: a clock that goes to and fro calls
for them with every version, and boards have other work."""
AGAIN_LEAST_S: Final = 3600.0
"""They are measured again so often at the most, however little time they take."""
AGAIN_MOST_S: Final = 86_400.0
"""After so long they may be, however much."""
ATTEMPTS_MAX: Final = 3
"""Looks at the same rows that nobody has brought to an end."""

MADE_WITHIN_S: Final = 600.0
"""So long after its rows were read a version is published at the latest: whoever trains for longer is ended."""


class RefreshReason(StrEnum):
    """Why a predictor is made anew: new rows, another state of the board or of its clock, new rows that it misses, a
    version of its engine that has none yet, or that it learnt kernel lists by other rules of fusion than are known now.
    """

    ROWS = "rows"
    GENERATION = "generation"
    CANARIES = "canaries"
    DRIFT = "drift"
    ENGINE_VERSION = "engine_version"
    FUSION = "fusion"


BOARD_REASONS: Final = (RefreshReason.GENERATION, RefreshReason.CANARIES, RefreshReason.DRIFT)
"""Hold-outs that were measured before these may not be true any more."""


class Since(NamedTuple):
    """What happened since the newest version of a predictor was made, whatever became of that version.

    `learnt`, `new`: rows that it was made of, and workloads that were measured later. `is_other_generation`: whether a
    board of the platform has begun another generation. `canaries`: the clock's canary now over what it was, less one.
    `is_first`: there is no version yet, but one of another version of the engine. `has_new_rules`: whether it was
    measured since that the engine fuses other operators than it was made by; of predictors of whole models alone.
    """

    learnt: int
    new: int
    is_other_generation: bool = False
    canaries: float = 0.0
    is_first: bool = False
    has_new_rules: bool = False

    @property
    def have_canaries_moved(self) -> bool:
        """Whether the clock's canary is another one."""
        return abs(self.canaries) > CANARIES_MOVED


def why_due(since: Since, fresh: int) -> RefreshReason | None:
    """Why it is due by counts alone. None: not due, but see `may_have_drifted`.

    Args:
        fresh: those of the new workloads that were never measured before: the same ones every night teach little, and
            only tell a board that is another one.
    """
    if since.new < LOOK_ROWS:
        return RefreshReason.FUSION if since.has_new_rules else None
    if since.is_first:
        return RefreshReason.ENGINE_VERSION
    if since.is_other_generation:
        return RefreshReason.GENERATION
    if since.have_canaries_moved:
        return RefreshReason.CANARIES
    if since.has_new_rules:  # by other kernel lists new rows lie beside what is predicted, whatever the board does
        return RefreshReason.FUSION
    return RefreshReason.ROWS if fresh >= max(NEW_ROWS_MIN, NEW_SHARE * since.learnt) else None


def may_be_judged_again(wanted_at: datetime | None, cost_s: float | None, now: datetime) -> bool:
    """Whether hold-outs may be measured again that were last wanted again then, for so many expected board seconds;
    None: nobody kept how many, and it is as if they took very long."""
    if wanted_at is None:
        return True
    wait_s = AGAIN_MOST_S if cost_s is None else min(max(cost_s / AGAIN_SHARE, AGAIN_LEAST_S), AGAIN_MOST_S)
    return (now - wanted_at).total_seconds() >= wait_s


def may_be_due(since: Since) -> bool:
    """Whether it is worth a look."""
    return since.has_new_rules or may_have_drifted(since)


def may_have_drifted(since: Since) -> bool:
    """Whether there are new rows enough to hold against what is predicted for them."""
    return since.new >= LOOK_ROWS


def drift(log_ratios: Sequence[float]) -> float | None:
    """The middle of measured over predicted less one, of natural logarithms; None where there are too few."""
    return exp(median(log_ratios)) - 1 if len(log_ratios) >= LOOK_ROWS else None


def is_drifted(log_ratios: Sequence[float], error: float = 0.0) -> bool:
    """Whether new rows lie beside what was predicted for them, all in all, and farther than its mean `error` on its
    hold-outs lets expect."""
    found = drift(log_ratios)
    return found is not None and abs(found) > max(DRIFT, error)


def is_other_version(one: Platform, own: Platform) -> bool:
    """Whether two platforms differ in the version of their engine alone: then one knows nearly what the other does."""
    engine = one.engine.model_copy(update={"version": own.engine.version})
    return one.engine.version != own.engine.version and one.model_copy(update={"engine": engine}) == own


def rows_of(rows: TrainingRows, subject: str) -> Sequence[KernelRow | ModelRow]:
    """The rows that a predictor of a subject predicts: whole models, or kernels of a type alone."""
    if subject == WHOLE_MODEL:
        return rows.models
    return [row for row in rows.kernels if row.kernel_type == subject and row.timing is Timing.ALONE]


def parted(rows: TrainingRows, moment: datetime) -> tuple[TrainingRows, TrainingRows]:
    """What was measured until a moment, and what later."""

    def those(is_later: bool) -> TrainingRows:
        kernels = tuple(row for row in rows.kernels if (row.measured_at > moment) == is_later)
        models = tuple(row for row in rows.models if (row.measured_at > moment) == is_later)
        return rows.model_copy(update={"kernels": kernels, "models": models})

    return those(False), those(True)


def first_since(rows: TrainingRows, subject: str, moment: datetime) -> Sequence[KernelRow | ModelRow]:
    """Rows of a subject that were measured for the first time after a moment: a version of before has not learnt them,
    as it may have what was only measured again."""
    return [row for row in rows_of(rows, subject) if (row.first_at or row.measured_at) > moment]


def judges_since(rows: TrainingRows, subject: str, moment: datetime) -> TrainingRows:
    """Rows of a subject that judge where no hold-out was declared: every second one of `first_since`, in the order of
    their ids. None where they are too few."""
    later = sorted(first_since(rows, subject, moment), key=lambda row: row.workload_id)[::2]
    chosen = later if len(later) >= JUDGES_MIN else []
    kernels = tuple(row for row in chosen if isinstance(row, KernelRow))
    models = tuple(row for row in chosen if isinstance(row, ModelRow))
    return rows.model_copy(update={"kernels": kernels, "models": models})


def is_another_board(first: TrainingRows, again: TrainingRows, subject: str) -> bool:
    """Whether hold-outs that were measured again say that the board is not what it was: a predictor may also miss new
    rows because they are of a kind that it never saw."""
    before = _times(first, subject)
    ratios = [log(ms / before[name]) for name, ms in _times(again, subject).items() if name in before]
    return len(ratios) >= JUDGES_MIN and abs(exp(median(ratios)) - 1) > DRIFT


def _times(rows: TrainingRows, subject: str) -> Mapping[str, float]:
    """In ms, by workload."""
    return {row.workload_id: row.normalised_ms for row in rows_of(rows, subject)}
