"""Do two ways of measuring differ by more than two runs of one of them? Bootstrap over the kernels."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles

RESAMPLES = 2000
SEED = 5
Row = dict[str, object]
Run = Mapping[str, float]
"""Kernel to its value."""


def compare(ones: tuple[Run, Run], others: tuple[Run, Run]) -> Row:
    """How far runs of one kind, and runs of two kinds, lie apart.

    The goal is met unless the 95 % interval of what the second exceeds the first by lies above zero.
    """
    common = sorted(set.intersection(*(set(run) for run in (*ones, *others))))
    logs = [[math.log(run[kernel]) for run in (*ones, *others)] for kernel in common]
    same = [[abs(a - b), abs(c - d)] for a, b, c, d in logs]
    mixed = [[abs(a - c), abs(b - d), abs(a - d), abs(b - c)] for a, b, c, d in logs]
    shift = [(c + d - a - b) / 2 for a, b, c, d in logs]
    more_median = _interval(len(common), lambda drawn: _excess(median, same, mixed, drawn))
    more_p90 = _interval(len(common), lambda drawn: _excess(_p90, same, mixed, drawn))
    return {
        "kernels": len(common),
        "within a kind: median": f"{median(_flat(same)):.2%}",
        "between: median": f"{median(_flat(mixed)):.2%}",
        "more, 95 %": _shown(more_median),
        "within a kind: p90": f"{_p90(_flat(same)):.2%}",
        "between: p90": f"{_p90(_flat(mixed)):.2%}",
        "p90 more, 95 %": _shown(more_p90),
        "shift, median": f"{median(shift):+.2%}",
        "goal": "both intervals reach zero",
        "met": more_median[0] <= 0 and more_p90[0] <= 0,
    }


def _excess(
    of: Callable[[Sequence[float]], float],
    same: Sequence[Sequence[float]],
    mixed: Sequence[Sequence[float]],
    drawn: Sequence[int],
) -> float:
    return of(_flat([mixed[n] for n in drawn])) - of(_flat([same[n] for n in drawn]))


def _interval(count: int, statistic: Callable[[Sequence[int]], float]) -> tuple[float, float]:
    chance = random.Random(SEED)
    values = [statistic([chance.randrange(count) for _ in range(count)]) for _ in range(RESAMPLES)]
    cuts = quantiles(values, n=40)
    return cuts[0], cuts[-1]


def _p90(values: Sequence[float]) -> float:
    return quantiles(values, n=10)[-1]


def _flat(groups: Sequence[Sequence[float]]) -> list[float]:
    return [value for group in groups for value in group]


def _shown(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.2%} .. {interval[1]:+.2%}"
