"""Intervals for the median over launches and for the middle of few values, without random numbers."""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist, median

from benchfarm_core.values import Value

WANTED_COVERAGE = 0.95
ORDER_STATISTICS_FROM = 6
"""Below this many launches even the full range covers less than `WANTED_COVERAGE`."""


class Interval(Value):
    """`coverage`: the probability that the true value, mostly the median over launches, lies within [low, high]."""

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


def middle_of(values: Sequence[float], coverage: float) -> tuple[float, Interval]:
    """The Hodges-Lehmann estimate with Wilcoxon's signed-rank interval, its order statistics by the normal
    approximation (Hodges and Lehmann, Estimates of location based on rank tests, 1963): a few wild values move neither.

    The work grows with the square of the values' number. Of few values the interval is their whole range and covers
    less than `coverage`.
    """
    count = len(values)
    walsh = sorted((values[i] + values[j]) / 2 for i in range(count) for j in range(i, count))
    spread = sqrt(count * (count + 1) * (2 * count + 1) / 24)
    below = count * (count + 1) / 4 - NormalDist().inv_cdf((1 + coverage) / 2) * spread
    rank = max(0, int(below))
    covered = coverage if below >= 0 else max(0.0, 1 - 2.0 ** (1 - count))
    return median(walsh), Interval(low=walsh[rank], high=walsh[-1 - rank], coverage=covered)


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
