"""Profiles of engines that tell each operator's mean over all inferences so far, and nothing of single ones."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchfarm_engines.engine import NodeTime


class MeanTime(NamedTuple):
    """One operator's mean time over the inferences of a session."""

    name: str
    kind: str
    mean_ns: float
    origins: tuple[str, ...] = ()


def between(before: Mapping[str, float], runs_before: int, after: Sequence[MeanTime], runs: int) -> list[NodeTime]:
    """The mean inference of the latest `runs` ones.

    before: mean ns by operator after `runs_before` inferences. Means are known to a step of the engine's clock, which
    grows here by (2 * runs_before + runs) / runs: few inferences before, many at once.
    """
    total = runs_before + runs
    return [
        NodeTime(
            each.name,
            each.kind,
            max(0, round((each.mean_ns * total - before.get(each.name, 0.0) * runs_before) / runs)),
            each.origins,
        )
        for each in after
    ]
