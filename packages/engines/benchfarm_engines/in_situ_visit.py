"""The visit of a carrier: one profile of it tells the time of every kernel that it carries.

The engine's operators are charged to the carrier's layers by the rule of ``attribution``; a kernel's time is its own
work and the conversions that it makes necessary, less what the profiler itself adds. Runs are grouped into blocks, so
that the profiler's clock (a step is a microsecond) is fine enough, and after what the witness said of them:
undisturbed runs with their like. Of engines that tell only means, all undisturbed blocks of a visit are one mean.
"""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.attribution import Attribution, attribute
from benchfarm_engines.blocks import warm_up
from benchfarm_engines.canary import CanarySamples
from benchfarm_engines.engine import NodeTime, ProfilingSession
from benchfarm_engines.in_step import in_step
from benchfarm_engines.launch_request import LaunchRequest, Visit
from benchfarm_engines.profile_cost import without_cost
from benchfarm_engines.profile_visit import profiled_session
from benchfarm_engines.run_watch import RunWatch, Step
from benchfarm_engines.visit import Bench, failed, told_of_carrier
from benchfarm_engines.witness import Witness

BLOCKS: Final = 8
RUNS_MIN: Final = 16
RUNS_MAX: Final = 96
_JOINT_KIND: Final = "Subgraph"
"""What OpenVINO compiles of several operators in a row, matrix products too, and names after the last one."""

WALL_SHARE: Final = 4
HOPELESS_SHARE: Final = 0.2
"""Among noisy neighbours a profile ends after this many times its planned runs, and at once where fewer than this share
of at least as many as planned were undisturbed: the rule of the summary would take nothing of it."""

RESOLVED_SHARE: Final = 0.25
"""A kernel that takes less than this share of what the profiler adds to one operator is lost in that: the addition is
known to about a tenth of itself, and the profilers' clocks have steps of half of it."""

VISITS: Final = 16
"""A carrier is profiled for this many times `visit_ms`, however many kernels it carries, but `RUNS_MIN` times."""


@dataclass(frozen=True)
class Block:
    """Some runs of a carrier: each operator's total time, what the threads waited, how often they were pushed off.

    disturbed: the witness says that the whole of it does not count.
    """

    nodes: Sequence[NodeTime]
    delay_ns: int
    switches: int
    disturbed: bool


def measure_in_situ(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    """`sites`: by number the fields of each wanted site's `done` line. Raises EngineFailure where the carrier fails.

    A site's share of what the carrier took as a whole (opening, canaries) is that of every other site.
    """
    canary_before_ns = bench.canaries.spent_ns
    with profiled_session(visit, request, bench) as (session, facts):
        warmup_runs, fastest_ns = warm_up(session.run, request.protocol)
        runs = min(RUNS_MAX, max(RUNS_MIN, VISITS * request.protocol.visit_ms * 1_000_000 // fastest_ns))
        canaries: CanarySamples = {}
        bench.canaries.sample(canaries, 0)
        session.run()
        bench.shares.first_block_unix_s = bench.shares.first_block_unix_s or time.time()
        begun = time.perf_counter_ns()
        iterations, profiled = profiled_blocks(session, runs, bench)
        timed_ns = time.perf_counter_ns() - begun
        told = told_of_carrier(session, request)
    cost_ns = bench.operator_cost.ns() * iterations if bench.operator_cost is not None else 0.0
    blocks = without_profiler(profiled, cost_ns)
    bench.canaries.sample(canaries, len(blocks))
    bench.shares.timed_ns += timed_ns
    whole = {
        "open_ms": facts["open_ms"],
        "first_ms": facts["first_ms"],
        "timed_ms": timed_ns / 1e6,
        "canary_ms": (bench.canaries.spent_ns - canary_before_ns) / 1e6,
    }
    shares = {name: ms / len(visit.numbers) for name, ms in whole.items()}
    same = {"warmup_runs": warmup_runs, "canaries": canaries, "gate_relative_l2": facts["gate_relative_l2"], **told}
    sites = {each.visit: each.name for each in visit.sites if each.visit is not None}
    found = times_by_site(blocks, [site.name for site in visit.sites], cost_ns)
    return {
        "sites": {
            number: found[name]
            if "outcome" in found[name]
            else {"iterations": iterations, **found[name], **shares, **same}
            for number, name in sites.items()
        }
    }


def answer_of_site(answer: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The part of a visit's answer that is about one number; of a failed visit, or one of a single number, all."""
    if "sites" not in answer:
        return dict(answer)
    return {"outcome": "ok", **answer["sites"][number]}


def profiled_blocks(session: ProfilingSession, runs: int, bench: Bench) -> tuple[int, list[Block]]:
    """Runs per block, and the blocks; more inferences than `runs` where too many were disturbed."""
    size = runs // BLOCKS
    bench.witness.refresh()
    if session.tells_means:
        return size, _segments(session, size, bench.witness)
    watch = _Watch(bench.witness, enough=runs)
    inferences = session.profile(WALL_SHARE * runs, watch.mark)
    return size, grouped([_block(step, nodes) for nodes, step in in_step(inferences, watch.steps)], size)


def is_over(undisturbed: int, seen: int, enough: int) -> bool:
    """Whether more runs, or blocks, would not make a profile better."""
    return undisturbed >= enough or (seen >= enough and undisturbed < HOPELESS_SHARE * seen)


@dataclass
class _Watch(RunWatch):
    """Ends the profile when `enough` runs were undisturbed, or hardly any is."""

    enough: int = 0

    def mark(self) -> bool:
        """As ``RunWatch.mark``; whether these were enough."""
        super().mark()
        return is_over(self.undisturbed, len(self.steps), self.enough)


def _block(step: Step, nodes: Sequence[NodeTime]) -> Block:
    return Block(nodes, step.delay_ns, step.switches, step.disturbed)


def _segments(session: ProfilingSession, runs: int, witness: Witness) -> list[Block]:
    """Blocks of `runs` inferences each, of an engine that tells means, until `BLOCKS` were undisturbed."""
    blocks: list[Block] = []
    undisturbed = 0
    while len(blocks) < WALL_SHARE * BLOCKS and not is_over(undisturbed, len(blocks), BLOCKS):
        watch = _Watch(witness, enough=runs)
        mean = session.profile(runs, watch.mark)[0]
        undisturbed += not watch.whole().disturbed
        blocks.append(_block(watch.whole(), [node._replace(ns=node.ns * runs) for node in mean]))
    return evened(blocks)


def without_profiler(blocks: Sequence[Block], cost_ns: float) -> list[Block]:
    """The blocks less what the profiler adds to each operator in all runs of a block."""
    return [replace(block, nodes=without_cost(block.nodes, cost_ns)) for block in blocks]


def evened(blocks: Sequence[Block]) -> list[Block]:
    """The mean of all undisturbed blocks in each of them, and that of all others in each of those.

    By itself a block is known to many steps of the clock only, and may be below zero: it must not become a floor
    where every block counts.
    """
    means = {}
    for disturbed in (False, True):
        alike = [block.nodes for block in blocks if block.disturbed is disturbed]
        means[disturbed] = [node._replace(ns=node.ns // len(alike)) for node in summed(alike)]
    return [replace(block, nodes=means[block.disturbed]) for block in blocks]


def grouped(runs: Sequence[Block], size: int) -> list[Block]:
    """Blocks of `size` runs each, disturbed runs apart from the others; runs that fill no block are left out."""
    blocks = []
    for disturbed in (False, True):
        alike = [run for run in runs if run.disturbed is disturbed]
        for start in range(0, len(alike) - size + 1, size):
            part = alike[start : start + size]
            delay_ns, switches = sum(run.delay_ns for run in part), sum(run.switches for run in part)
            blocks.append(Block(summed([run.nodes for run in part]), delay_ns, switches, disturbed))
    return blocks


def summed(inferences: Sequence[Sequence[NodeTime]]) -> list[NodeTime]:
    """Each operator with its total time, in the order of the first inference; names may come several times."""
    totals: dict[tuple[str, str, int], NodeTime] = {}
    for nodes in inferences:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for node in nodes:
            key = (node.name, node.kind, seen[node.name, node.kind])
            seen[node.name, node.kind] += 1
            known = totals.get(key)
            totals[key] = node if known is None else known._replace(ns=known.ns + node.ns)
    return list(totals.values())


def times_by_site(blocks: Sequence[Block], names: Sequence[str], cost_ns: float = 0.0) -> dict[str, dict[str, Any]]:
    """By site `blocks_ns`, `delays_ns` and `switches`, or the failure `fused_away` or `below_clock`.

    `names` in the order of the graph; `cost_ns`: what the profiler added to each operator in a block.
    What was waited in an undisturbed block is shared out by time. In a disturbed one nobody can tell whose wait it
    was, so every site carries all of it.
    """
    parts = [attribute(block.nodes, names) for block in blocks]
    within = _joined(blocks[0].nodes, names) | _fused_away(parts[0])
    failures = {name: _below_clock() for name in _unresolved(parts, names, cost_ns)}
    failures |= {name: _no_time(by) for name, by in within.items()}
    return {name: failures.get(name) or _site_fields(blocks, parts, name) for name in names}


def _unresolved(parts: Sequence[Attribution], names: Sequence[str], cost_ns: float) -> list[str]:
    """Sites of which too little is left: what the profiler tells of them is its own cost."""
    limit_ns = RESOLVED_SHARE * cost_ns
    return [name for name in names if median(part.sites[name].total_ns for part in parts) <= limit_ns]


def _below_clock() -> dict[str, Any]:
    return failed(FailureCode.BELOW_CLOCK, "it takes less than the engine's profiler can tell from its own cost")


def _fused_away(found: Attribution) -> dict[str, str]:
    return {name: by or "a layer beside it" for name, by in found.fused.items() if found.sites[name].total_ns <= 0}


def _joined(nodes: Sequence[NodeTime], names: Sequence[str]) -> dict[str, str]:
    """Sites that share a node in which none is the main one, each with another of them."""
    known, joined = set(names), dict[str, str]()
    for node in nodes:
        if node.kind == _JOINT_KIND:
            heads = (re.split(r"[/_]", origin, maxsplit=1)[0] for origin in node.origins)
            sites = list(dict.fromkeys(head for head in heads if head in known))
            if len(sites) > 1:
                joined |= {site: sites[0] if site != sites[0] else sites[1] for site in sites}
    return joined


def _no_time(within: str) -> dict[str, Any]:
    detail = f"the engine computes it together with {within}: it has no time of its own"
    return failed(FailureCode.FUSED_AWAY, detail)


def _site_fields(blocks: Sequence[Block], parts: Sequence[Attribution], name: str) -> dict[str, Any]:
    blocks_ns = [max(1, part.sites[name].total_ns) for part in parts]
    return {
        "blocks_ns": blocks_ns,
        "delays_ns": [
            block.delay_ns if block.disturbed else block.delay_ns * ns // max(1, part.total_ns)
            for block, part, ns in in_step(blocks, parts, blocks_ns)
        ],
        "switches": [block.switches if block.disturbed else 0 for block in blocks],
    }
