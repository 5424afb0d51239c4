"""An interval for the median over launches, without random numbers."""

from math import comb
from statistics import median

from benchfarm_core.values import Value

WANTED_COVERAGE = 0.95
ORDER_STATISTICS_FROM = 6
"""Below this many launches even the full range covers less than `WANTED_COVERAGE`."""


class Interval(Value):
    """`coverage`: the probability that the true median over launches lies within [low, high]."""

    low: float
    high: float
    coverage: float


def median_interval(values: list[float]) -> Interval:
    """The range below 6 values; from 6 the narrowest symmetric order statistics that cover 95 %."""
    ordered = sorted(values)
    count = len(ordered)
    rank = 1
    if count >= ORDER_STATISTICS_FROM:
        while 2 * (rank + 1) <= count and coverage_of(count, rank + 1) >= WANTED_COVERAGE:
            rank += 1
    return Interval(low=ordered[rank - 1], high=ordered[count - rank], coverage=coverage_of(count, rank))


def coverage_of(count: int, rank: int) -> float:
    """P(x_(rank) <= true median <= x_(count+1-rank)) for independent values: a binomial sum, free of any shape."""
    if count < 2:
        return 0.0
    outside = sum(comb(count, below) for below in range(rank))
    return 1 - outside / float(2 ** (count - 1))


def half_width(values: list[float]) -> float:
    """Half the interval's width over the median; infinite for a single value."""
    if len(values) < 2:
        return float("inf")
    interval = median_interval(values)
    return (interval.high - interval.low) / 2 / median(values)
