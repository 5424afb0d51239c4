"""When a predictor is to be made anew: enough new results, results that it misses, a board that is another one.

A new version answers only where it is better than the active one on the same hold-outs; see `adapting.verdict`.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import exp
from statistics import median
from typing import Final, NamedTuple

NEW_ROWS_MIN: Final = 20
NEW_SHARE: Final = 0.2
"""Of the rows that it learnt from."""
LOOK_ROWS: Final = 8
"""New rows without which nothing is said of drift."""
DRIFT: Final = 0.05
"""By so much the middle of the new rows must lie beside what was predicted for them."""


class RefreshReason(StrEnum):
    """Why a predictor is made anew: new rows, another state of the board, or new rows that it misses."""

    ROWS = "rows"
    GENERATION = "generation"
    DRIFT = "drift"


class Since(NamedTuple):
    """What happened since the newest version of a predictor was made, whatever became of that version.

    `learnt`, `new`: rows that it was made of, and results that came later. `is_other_generation`: whether a board of
    the platform has begun another generation.
    """

    learnt: int
    new: int
    is_other_generation: bool


def why_due(since: Since) -> RefreshReason | None:
    """Why it is due by counts alone. None: not due, but see `may_have_drifted`."""
    if since.new < LOOK_ROWS:
        return None
    if since.is_other_generation:
        return RefreshReason.GENERATION
    return RefreshReason.ROWS if since.new >= max(NEW_ROWS_MIN, NEW_SHARE * since.learnt) else None


def may_have_drifted(since: Since) -> bool:
    """Whether there are new rows enough to hold against what is predicted for them."""
    return since.new >= LOOK_ROWS


def drift(log_ratios: Sequence[float]) -> float | None:
    """The middle of measured over predicted less one, of natural logarithms; None where there are too few."""
    return exp(median(log_ratios)) - 1 if len(log_ratios) >= LOOK_ROWS else None


def is_drifted(log_ratios: Sequence[float]) -> bool:
    """Whether new rows lie beside what was predicted for them, all in all."""
    found = drift(log_ratios)
    return found is not None and abs(found) > DRIFT
