"""Profiles of engines that tell each operator's mean over all inferences so far, and nothing of single ones."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from benchfarm_engines.engine import NodeTime

_CUT_OFF_NS: Final = 1000
"""Two halves of a microsecond."""


class MeanTime(NamedTuple):
    """One operator's mean time over the inferences of a session."""

    name: str
    kind: str
    mean_ns: float
    origins: tuple[str, ...] = ()


def between(before: Mapping[str, float], runs_before: int, after: Sequence[MeanTime], runs: int) -> list[NodeTime]:
    """The mean inference of the latest `runs` ones.

    before: mean ns by operator after `runs_before` inferences. The engine cuts off every single time and again the
    mean to whole steps of its clock, half a step each on average, which are added here. What is known of a mean grows
    coarser by (2 * runs_before + runs) / runs: few inferences before, many at once. A short operator
    may come out below zero; what is added up over consecutive calls is known to one step again.
    """
    total = runs_before + runs
    return [
        NodeTime(
            each.name,
            each.kind,
            round((each.mean_ns * total - before.get(each.name, 0.0) * runs_before) / runs) + _CUT_OFF_NS,
            each.origins,
        )
        for each in after
    ]
