"""How long a workload takes on a simulated board, and the samples that a visit of it would see.

A run is the longer of its arithmetic and its traffic (the roofline of S. Williams, A. Waterman and D. Patterson, 2009)
and an overhead. Noise only adds time, as that of real machines does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from benchfarm_agent.boards.simulated_profile import SimulatedProfile
from benchfarm_core.quiet_blocks import CLOCK_RUNS_PER_ROW
from benchfarm_core.workloads import Cost

SGEMM_SIZE: Final = 192
_MOBILENET_FLOPS: Final = 25_000_000
_MOBILENET_BYTES: Final = 3_000_000
_CANARIES_RUN_TWICE: Final = 2
"""Each is run once untimed before it is timed."""
_BLOCK_MARGIN: Final = 1.05
_PAIR_ROUNDS: Final = 4
_DELAY_SHARES: Final = (0.05, 0.5)
"""How much of a disturbed block somebody else had the core, from and to."""
_PROCESS_BYTES: Final = 60_000_000
"""What a process takes before it has opened a model."""
_PROTOCOL: Final[dict[str, int | str]] = {
    "visit_ms": 10,
    "block_min_us": 200,
    "blocks_min": 5,
    "blocks_max": 600,
    "warmup_min_runs": 3,
    "warmup_min_ms": 2,
    "canary_every_ms": 20,
    "purpose": "latency",
}


@dataclass(frozen=True)
class Work:
    """What one run of a workload costs. family: its kernel type or the name of its model."""

    flops: int = 0
    traffic_bytes: int = 0
    weight_bytes: int = 0
    family: str = ""

    @staticmethod
    def of(cost: Cost, family: str) -> "Work":
        """The work of a workload's cost."""
        return Work(cost.flops, cost.total_bytes, cost.weight_bytes, family)

    @staticmethod
    def in_visit(visit: Mapping[str, Any]) -> "Work":
        """The work that a launch's request names in the place of inputs; none where it names none."""
        inputs = visit.get("inputs") or [{}]
        return Work(**inputs[0])

    def document(self) -> dict[str, Any]:
        """As it stands in a request."""
        return dict(vars(self))


SGEMM: Final = Work(2 * SGEMM_SIZE**3, 3 * 4 * SGEMM_SIZE**2)
MOBILENET: Final = Work(_MOBILENET_FLOPS, _MOBILENET_BYTES)


@dataclass(frozen=True)
class Speed:
    """A board as it runs now: arithmetic of the threads that compute, traffic, overhead; slowness of this unit."""

    flops_per_s: float
    bytes_per_s: float
    overhead_ns: float
    slowness: float = 1.0

    def run_ns(self, work: Work) -> float:
        """One undisturbed run."""
        busy_s = max(work.flops / self.flops_per_s, work.traffic_bytes / self.bytes_per_s)
        return max(1.0, (busy_s * 1e9 + self.overhead_ns) * self.slowness)


def speed_of(
    profile: SimulatedProfile,
    request: Mapping[str, Any],
    core_khz: Mapping[int, float],
    *,
    slowness: float = 1.0,
    precision: str | None = None,
) -> Speed:
    """The speed of a launch; core_khz: the clock of each of its cores; precision: where it is not the launch's own."""
    per_cycle = {core: one.flops_per_cycle for one in profile.cluster for core in one.cores}
    rates = sorted((khz * 1e3 * per_cycle.get(core, 1.0) for core, khz in core_khz.items()), reverse=True)
    used = rates[: int(request["threads"])]
    engine = next((one.speed for one in profile.engine if one.name == request["engine"]), 1.0)
    precision_speed = profile.latency.speed_of(precision or str(request["precision"]))
    flops_per_s = (used[0] + profile.latency.thread_share * sum(used[1:])) * engine * precision_speed
    return Speed(flops_per_s, profile.latency.bytes_per_s, profile.latency.overhead_us * 1e3, slowness)


@dataclass
class VisitSamples:
    """What a visit sees: the fields of its `done` line, and how long it takes."""

    fields: dict[str, Any]
    lasts_s: float


@dataclass(frozen=True)
class Visiting:
    """Visits of one launch: its protocol, how fast the board is, its noise and the chance that it is drawn with."""

    profile: SimulatedProfile
    request: Mapping[str, Any]
    speed: Speed
    chance: Random

    def samples(self, visit: Mapping[str, Any], beside: Speed | None = None) -> VisitSamples:
        """One visit, of a pair, by difference or of one workload; beside: the speed of a pair's b side."""
        protocol = _PROTOCOL | dict(self.request.get("protocol") or {})
        work = Work.in_visit(visit)
        if protocol["purpose"] == "memory":
            return self._cold_starts(work, protocol)
        if "beside" in visit and beside is not None:
            return self._pair(work, self.speed, Work.in_visit(visit["beside"]), beside, protocol)
        if "twice" in visit:
            return self._pair(work, self.speed, Work.in_visit(visit["twice"]), self.speed, protocol)
        run_ns = self.speed.run_ns(work)
        seen, lasts_ns = self._side(run_ns, protocol, _blocks(run_ns, protocol))
        canaries, canary_ns = self._canaries(protocol, seen["blocks_ns"])
        if protocol["purpose"] == "latency" and "sites" not in visit and protocol.get("clock_every_ms"):
            canary_ns += self._clock_points(protocol, seen["blocks_ns"], canaries["sgemm"])
        profiled = {"nodes": [self._node(work, run_ns)]} if protocol["purpose"] == "profile" else {}
        fields = {**seen, "canaries": canaries, "canary_ms": canary_ns / 1e6, **profiled}
        return VisitSamples(fields, (lasts_ns + _CANARIES_RUN_TWICE * canary_ns) / 1e9)

    def _side(self, run_ns: float, protocol: Mapping[str, Any], count: int) -> tuple[dict[str, Any], float]:
        """The blocks of one workload and all that comes before them, and how long that takes in ns."""
        noise, latency = self.profile.noise, self.profile.latency
        iterations = _iterations(run_ns, protocol)
        warmup_runs = max(int(protocol["warmup_min_runs"]), math.ceil(protocol["warmup_min_ms"] * 1e6 / run_ns))
        typical_ns = run_ns * iterations * (1 + abs(self.chance.gauss(0, noise.launch_sigma)))
        blocks, delays, switches = self._timed(typical_ns, count)
        open_ns = latency.open_ms * 1e6
        fields = {
            "iterations": iterations,
            "blocks_ns": blocks,
            "delays_ns": delays,
            "switches": switches,
            "open_ms": latency.open_ms,
            "first_ms": 2 * run_ns / 1e6,
            "warmup_runs": warmup_runs,
            "gate_relative_l2": 0.0,
            "timed_ms": sum(blocks) / 1e6,
        }
        return fields, open_ns + (2 + warmup_runs) * run_ns + sum(blocks)

    def _timed(self, typical_ns: float, count: int) -> tuple[list[int], list[int], list[int]]:
        """Blocks, run-queue delays and switches, in ns."""
        noise, chance = self.profile.noise, self.chance
        blocks, delays, switches = [], [], []
        for _ in range(count):
            block_ns = typical_ns * (1 + abs(chance.gauss(0, noise.block_sigma)))
            is_disturbed = chance.random() < noise.disturbed_share
            delay_ns = block_ns * chance.uniform(*_DELAY_SHARES) if is_disturbed else 0.0
            blocks.append(max(1, round(block_ns + delay_ns)))
            delays.append(round(delay_ns))
            switches.append(int(is_disturbed))
        return blocks, delays, switches

    def _canaries(self, protocol: Mapping[str, Any], blocks_ns: list[int]) -> tuple[dict[str, Any], float]:
        """Both canaries before the first block and then as often as the protocol says, and their time in ns.

        Undisturbed ones: a disturbed canary would only make its launch count as one that was not quiet.
        """
        stretches = max(1, math.ceil(sum(blocks_ns) / (protocol["canary_every_ms"] * 1e6)))
        places = sorted({len(blocks_ns) * number // stretches for number in range(stretches)})
        sigma, chance = self.profile.noise.block_sigma, self.chance
        found: dict[str, list[list[int]]] = {}
        for name, work in (("sgemm", SGEMM), ("mobilenet", MOBILENET)):
            typical_ns = self.speed.run_ns(work)
            found[name] = [[place, round(typical_ns * (1 + abs(chance.gauss(0, sigma))))] for place in places]
        return found, sum(ns for samples in found.values() for _, ns in samples)

    def _clock_points(self, protocol: Mapping[str, Any], blocks_ns: list[int], taken: list[list[int]]) -> float:
        """Adds the clock's canary between the blocks, and behind the last, to those before them; its time in ns."""
        typical_ns = self.speed.run_ns(SGEMM)
        row_ns = max(protocol["clock_every_ms"] * 1e6, CLOCK_RUNS_PER_ROW * typical_ns)
        known = {place for place, _ in taken}
        since_ns, places = 0.0, [len(blocks_ns)]
        for place, block_ns in enumerate(blocks_ns):
            if since_ns >= row_ns or place in known:
                places += [] if place in known else [place]
                since_ns = 0.0
            since_ns += block_ns
        sigma, chance = self.profile.noise.block_sigma, self.chance
        added = [[place, round(typical_ns * (1 + abs(chance.gauss(0, sigma))))] for place in sorted(places)]
        taken += added
        taken.sort()
        return float(sum(ns for _, ns in added))

    def _pair(self, a: Work, a_speed: Speed, b: Work, b_speed: Speed, protocol: Mapping[str, Any]) -> VisitSamples:
        """Both sides in turn, over rounds that open them anew."""
        a_ns, b_ns = a_speed.run_ns(a), b_speed.run_ns(b)
        pair_ns = sum(run_ns * _iterations(run_ns, protocol) for run_ns in (a_ns, b_ns))
        wanted = max(int(protocol["blocks_min"]), math.ceil(protocol["visit_ms"] * 1e6 / pair_ns))
        of_round = max(1, math.ceil(min(wanted, int(protocol["blocks_max"])) / _PAIR_ROUNDS))
        of_a, a_lasts_ns = self._side(a_ns, protocol, of_round * _PAIR_ROUNDS)
        of_b, b_lasts_ns = self._side(b_ns, protocol, of_round * _PAIR_ROUNDS)
        canaries, canary_ns = self._canaries(protocol, of_a["blocks_ns"])
        beside = {**of_b, "rounds": [of_round] * _PAIR_ROUNDS, "threads": int(self.request["threads"])}
        fields = {**of_a, "canaries": canaries, "canary_ms": canary_ns / 1e6, "beside": beside}
        return VisitSamples(fields, (a_lasts_ns + b_lasts_ns + _CANARIES_RUN_TWICE * canary_ns) / 1e9)

    def _cold_starts(self, work: Work, protocol: Mapping[str, Any]) -> VisitSamples:
        """A cold start as the one block there is, and what the process takes."""
        latency = self.profile.latency
        run_ns = self.speed.run_ns(work)
        start_ns = latency.open_ms * 1e6 + 2 * run_ns
        blocks, delays, switches = self._timed(start_ns, 1)
        loaded = _PROCESS_BYTES + work.weight_bytes + work.traffic_bytes
        memory = {
            "base_pss_bytes": _PROCESS_BYTES,
            "loaded_pss_bytes": loaded,
            "peak_pss_bytes": loaded + work.traffic_bytes,
            "peak_rss_bytes": loaded + work.traffic_bytes,
            "mapped_weights_bytes": work.weight_bytes,
        }
        fields = {
            "iterations": 1,
            "blocks_ns": blocks,
            "delays_ns": delays,
            "switches": switches,
            "canaries": {},
            "open_ms": latency.open_ms,
            "first_ms": 2 * run_ns / 1e6,
            "warmup_runs": 0,
            "gate_relative_l2": 0.0,
            "timed_ms": blocks[0] / 1e6,
            "canary_ms": 0.0,
            "memory": memory,
        }
        return VisitSamples(fields, (blocks[0] + int(protocol["warmup_min_runs"]) * run_ns) / 1e9)

    def _node(self, work: Work, run_ns: float) -> dict[str, Any]:
        name = work.family or "node"
        return {"name": name, "kind": name, "ns": round(run_ns)}


def _iterations(run_ns: float, protocol: Mapping[str, Any]) -> int:
    """Runs of a block, as `benchfarm_engines.blocks.iterations_for` counts them."""
    least_ns = int(protocol["block_min_us"]) * 1000
    return 1 if run_ns >= least_ns else math.ceil(least_ns * _BLOCK_MARGIN / run_ns)


def _blocks(run_ns: float, protocol: Mapping[str, Any]) -> int:
    """Blocks that fill a visit's time."""
    filling = math.ceil(float(protocol["visit_ms"]) * 1e6 / (run_ns * _iterations(run_ns, protocol)))
    return min(int(protocol["blocks_max"]), max(int(protocol["blocks_min"]), filling))
