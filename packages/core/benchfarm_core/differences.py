"""A kernel's time in situ by difference: what a carrier takes that holds it twice, less one that holds it once.

The carrier with one copy is the a side of a launch, that with two the b side (`LaunchSamples.beside`). Both hold the
same other layers and take turns in blocks of a few runs, in rounds that open both anew: what they share cancels, and so
does what changes the machine's speed for longer than a round. Luck with memory does not cancel within a round
(docs/decisions/0010), so the *round* is the unit: over a launch's rounds stands the middle of their differences with
its interval. What is left of the noise is that of two whole carriers and belongs to one kernel: a measurement whose
difference is no larger than its own uncertainty is no answer (docs/decisions/0025). That is asked of all its launches
together. One launch counts whatever it saw, also nothing or less: without the low ones the middle would be too high.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import pi, sqrt
from statistics import median, stdev
from typing import Final, NamedTuple

from benchfarm_core.intervals import middle_of
from benchfarm_core.measurements import LaunchSamples

COVERAGE: Final = 0.95
ROUNDS_MIN: Final = 3
"""Rounds that say something, without which a launch says nothing."""
ROUND_PAIRS_MIN: Final = 2
"""Undisturbed pairs, without which a round says nothing."""
STANDARD_ERRORS: Final = 1.96
"""Half an interval of `COVERAGE`, in standard errors."""
MEDIAN_COST: Final = sqrt(pi / 2)
"""How much more a median of many values scatters than their mean would."""


class Difference(NamedTuple):
    """One launch's time of the second copy, in ns of one run.

    median_ns: between typical blocks of both sides; floor_ns: between the fastest ones of each round; half_ns: half the
    interval of `COVERAGE` of the latter.
    """

    median_ns: float
    floor_ns: float
    half_ns: float

    @property
    def is_clear(self) -> bool:
        """Whether it is larger than its own uncertainty."""
        return self.floor_ns > self.half_ns and self.median_ns > 0

    @property
    def error_ns(self) -> float:
        """The standard error of `floor_ns`, by the rounds."""
        return self.half_ns / STANDARD_ERRORS

    @property
    def spread(self) -> float:
        """Its standard error as a share of itself; of clear ones only."""
        return self.error_ns / self.floor_ns


def difference_of(launch: LaunchSamples, clean: Sequence[bool]) -> Difference | None:
    """What the b side of a launch takes longer. clean: which pairs of blocks count. None where too few rounds do."""
    beside = launch.beside
    if beside is None:
        return None
    once = [ns / launch.iterations for ns in launch.blocks_ns]
    twice = [ns / beside.iterations for ns in beside.blocks_ns]
    floors: list[float] = []
    medians: list[float] = []
    for begin, end in pairwise(accumulate(beside.rounds, initial=0)):
        pairs = [i for i in range(begin, end) if clean[i]]
        if len(pairs) >= ROUND_PAIRS_MIN:
            floors.append(min(twice[i] for i in pairs) - min(once[i] for i in pairs))
            medians.append(median(twice[i] - once[i] for i in pairs))
    if len(floors) < ROUNDS_MIN:
        return None
    floor_ns, interval = middle_of(floors, COVERAGE)
    median_ns, _ = middle_of(medians, COVERAGE)
    return Difference(median_ns, floor_ns, (interval.high - interval.low) / 2)


def error_within_ns(launches: Sequence[Difference]) -> float:
    """What launches know of their own uncertainty: the middle of their standard errors, at least one launch's."""
    return median(launch.error_ns for launch in launches)


def are_clear(launches: Sequence[Difference], floors_ns: Sequence[float]) -> bool:
    """Whether what launches say together is larger than its own uncertainty: how far `floors_ns`, those that count, are
    apart, and no less than their rounds are, because launches may agree by luck."""
    apart_ns = stdev(floors_ns) if len(floors_ns) > 1 else 0.0
    error_ns = MEDIAN_COST * max(apart_ns, error_within_ns(launches)) / sqrt(len(floors_ns))
    return median(floors_ns) > STANDARD_ERRORS * error_ns and median(one.median_ns for one in launches) > 0
