"""What profiling itself costs: about the same for every operator, so that a plain run of the same graph tells it."""

from collections.abc import Sequence

from benchfarm_engines.engine import NodeTime


def cost_per_operator_ns(nodes: Sequence[NodeTime], plain_ns: float) -> float:
    """What each operator of a profiled inference takes too long, where the same graph unprofiled takes `plain_ns`.

    Below 0 where the profiler leaves out what lies between two operators, which a plain run has too. 0 without nodes.
    """
    return (sum(node.ns for node in nodes) - plain_ns) / len(nodes) if nodes else 0.0


def without_cost(nodes: Sequence[NodeTime], cost_ns: float) -> list[NodeTime]:
    """The operators less `cost_ns` each, none below 0."""
    return [node._replace(ns=max(0, round(node.ns - cost_ns))) for node in nodes]
