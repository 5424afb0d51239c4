"""Simulated boards: they answer from a latency model with noise, drift, heat and failures, and measure nothing.

What they say goes the way of every board's results. The mark `simulated` and the model's name keep it apart from those
of real boards, the engines' versions keep it apart from what is learnt of real engines. Time is a `SimulatedClock`'s,
chance a seed's: the same seed gives the same board, and the same launches in the same order the same numbers.
"""

import asyncio
import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from benchfarm_agent.boards.interface import Conditions, Cut, LaunchExit, LaunchOrder
from benchfarm_agent.boards.simulated_faults import fails_to_pin, fault_of_visit
from benchfarm_agent.boards.simulated_heat import Heat
from benchfarm_agent.boards.simulated_latency import Visiting, speed_of
from benchfarm_agent.boards.simulated_profile import SimulatedProfile
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.runner_lines import CONTRACT
from benchfarm_core.boards import BoardReport, EngineReport
from benchfarm_core.clock_proof import WATCHED_MIN_S, ClockEvidence
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.operating_ranges import accepts, default_points
from benchfarm_core.platforms import ClockProof, OperatingPoint, Precision
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.values import digest

SPEED_MAX: Final = 10_000.0
LOST: Final = "the simulated board is lost"
_EXITS: Final[dict[FailureCode, tuple[int, Cut | None, str]]] = {
    FailureCode.RUNNER_DIED: (-signal.SIGSEGV, None, ""),
    FailureCode.OUT_OF_MEMORY: (-signal.SIGABRT, None, "std::bad_alloc"),
    FailureCode.RUNNER_GARBAGE: (-signal.SIGKILL, "garbage", ""),
    FailureCode.TIMEOUT: (-signal.SIGKILL, "silent", ""),
}
"""Failures that end the runner: its return code, why it was cut, what it said last."""


class SimulatedClock(Protocol):
    """The time that simulated boards live in."""

    def now_s(self) -> float:
        """Seconds since it began."""

    def unix_s(self) -> float:
        """The same moment as wall-clock time."""

    async def sleep_until(self, moment_s: float) -> None:
        """Returns once `now_s()` has reached `moment_s`."""


class ScaledClock:
    """Real time, `speed` times as fast."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._began_s = boottime_s()
        self._began_unix_s = time.time()

    def now_s(self) -> float:
        return (boottime_s() - self._began_s) * self._speed

    def unix_s(self) -> float:
        return self._began_unix_s + self.now_s()

    async def sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, (moment_s - self.now_s()) / self._speed))


@dataclass(frozen=True)
class Unit:
    """One board of a model. owner: the agent that simulates it; number: from 1 on; seed: what all chance comes from."""

    owner: str
    number: int
    seed: int = 0

    @property
    def serial(self) -> str:
        """Its own among all agents'."""
        return f"sim-{self.owner}-{self.number:04d}"

    def chance(self, *what: object) -> Random:
        """The chance of one thing about this unit, whoever simulates it."""
        return Random("/".join(map(str, (self.seed, self.number, *what))))


class SimulatedBoard:
    """One simulated board. max_temperature_c: the agent's own limit, beside the profile's gate."""

    on_this_host = False
    gate_wait_s = None

    def __init__(
        self, profile: SimulatedProfile, unit: Unit, clock: SimulatedClock, *, max_temperature_c: float = math.inf
    ) -> None:
        self._profile = profile
        self._unit = unit
        self._clock = clock
        self._gate_c = min(profile.heat.gate_c, max_temperature_c)
        self._heat = Heat(profile.heat, clock.now_s())
        self._slowness = 1 + abs(unit.chance("unit").gauss(0, profile.noise.unit_sigma))
        self._point: OperatingPoint | None = None
        self._launches = 0
        self._leases = 0
        self._running: asyncio.Task[_Ended] | None = None
        self._lost = asyncio.Event()
        self._back_s = 0.0

    @property
    def name(self) -> str:
        return self._unit.serial

    async def describe(self) -> BoardReport:
        profile, ranges = self._profile, self._profile.ranges
        engines = [
            EngineReport(
                name=one.name,
                available=True,
                version=one.told_version,
                precisions=tuple(map(Precision, one.precisions)),
                options={},
                by_difference=in_situ_by(one.name, Precision.FP32) == "difference",
            )
            for one in profile.engine
        ]
        return BoardReport(
            kind="simulated",
            serial=self._unit.serial,
            hardware_id=digest(["simulated", self._unit.owner, self._unit.number]),
            board_model=profile.board_model,
            model_name=f"{profile.name or profile.model} (simulated)",
            generation=digest([profile.model_dump(mode="json"), self._unit.seed], length=16),
            facts={
                "cores": len(profile.cores),
                "memory_bytes": profile.memory_bytes,
                "seed": self._unit.seed,
                "unit": self._unit.number,
            },
            engines=tuple(engines),
            operating_points=default_points(ranges),
            clock_proof=ClockProof.VERIFIED,
            ranges=ranges,
            marks=("simulated",),
        )

    async def away(self) -> None:
        """Returns once the board is lost."""
        await self._lost.wait()

    def come_back(self) -> None:
        """The board is there again if it was away long enough. Raises TransientDeviceError while it is not."""
        if self._clock.now_s() < self._back_s:
            raise TransientDeviceError("the simulated board is away")
        self._lost.clear()

    async def gate(self, point: OperatingPoint) -> str | None:
        del point  # a hot board is too hot for each of them
        self._pass_time(busy=False)
        hot_c = self._heat.temperature_c
        return f"{hot_c:.0f} degrees are above {self._gate_c:.0f}" if hot_c > self._gate_c else None

    async def prepare(self, lease_token: str) -> None:
        del lease_token  # nobody else can hold it
        self._reach()
        self._leases += 1

    async def pin(self, point: OperatingPoint) -> None:
        self._reach()
        if not accepts(self._profile.ranges, point):
            raise TransientDeviceError(f"this simulated board cannot be brought to {point.key}")
        if point.mode == "pinned" and fails_to_pin(self._profile, self._unit.chance("lease", self._leases)):
            raise TransientDeviceError(f"this simulated board does not obey: {point.key}")
        self._point = point

    async def restore(self) -> None:
        self._point = None

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        if self._running is not None:
            raise TransientDeviceError("this board runs a launch already")
        self._reach()
        self._pass_time(busy=False)
        self._launches += 1
        began_s, began_unix_s, throttles_before = self._clock.now_s(), self._clock.unix_s(), self._heat.throttle_count
        self._running = asyncio.ensure_future(self._run(order, on_line))
        try:
            await asyncio.wait([self._running])
            ended = _STOPPED if self._running.cancelled() else self._running.result()
        finally:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
            self._pass_time(busy=True)
        lasted_s = self._clock.now_s() - began_s
        return LaunchExit(
            returncode=ended.returncode,
            cut=ended.cut,
            out_of_memory="bad_alloc" in ended.stderr_tail,
            wall_ms=lasted_s * 1000,
            began_unix_s=began_unix_s,
            ended_unix_s=began_unix_s + lasted_s,
            stderr_tail=ended.stderr_tail,
            clock=self._seen(lasted_s, self._heat.throttle_count - throttles_before),
        )

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def evidence(self, point: OperatingPoint) -> Conditions:
        self._pass_time(busy=False)
        return Conditions(
            freq_khz=tuple(round(khz) for khz in self._core_khz(point.cores).values()),
            governor="userspace" if self._is_pinned else "schedutil",
            temperature_c=round(self._heat.temperature_c, 1),
            throttle_count=self._heat.throttle_count,
        )

    @property
    def _is_pinned(self) -> bool:
        return self._point is not None and self._point.mode == "pinned"

    def _pass_time(self, *, busy: bool) -> None:
        self._heat.pass_to(self._clock.now_s(), busy=busy)

    def _reach(self) -> None:
        if self._lost.is_set():
            raise BoardUnreachable(LOST)

    def _core_khz(self, cores: tuple[int, ...]) -> dict[int, float]:
        """The clock of some cores as it is now."""
        asked = self._point.freq_khz[0] if self._point is not None and self._point.freq_khz else None
        highest = {core: one.freq_khz[-1] for one in self._profile.cluster for core in one.cores}
        slowest = min(highest.values())
        return {core: (asked or highest.get(core, slowest)) * self._heat.clock_share for core in cores}

    def _seen(self, lasted_s: float, throttles: int) -> ClockEvidence:
        """What was seen of the clock over a launch; a watch lasts as long as it needs to prove something."""
        asked = self._point.freq_khz if self._point is not None else ()
        return ClockEvidence(
            asked_khz=asked,
            residency=(0.5 if throttles else 1.0) if asked else None,
            watched_s=max(lasted_s, WATCHED_MIN_S),
            throttle_events=throttles,
        )

    async def _run(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> "_Ended":
        """A launch's lines, each in its time. Raises BoardUnreachable."""
        request, chance = order.request, self._unit.chance("launch", self._launches)
        due_s = self._clock.now_s() + self._profile.latency.import_ms / 1000
        await self._work_until(due_s)
        on_line(_line(event="ready", **self._readiness(request)))
        first_block_unix_s = self._clock.unix_s()
        for visit in request["visits"]:
            for number in _numbers(visit):
                on_line(_line(event="started", visit=number))
                fault = fault_of_visit(self._profile, request, visit, chance)
                if fault is FailureCode.BOARD_LOST:
                    self._lose()
                if fault is FailureCode.TIMEOUT:
                    await self._work_until(self._clock.now_s() + order.silence_s)
                if fault in _EXITS:
                    return _Ended(*_EXITS[fault])
                if fault is not None:
                    on_line(_line(event="done", visit=number, outcome="failed", code=fault, detail="simulated"))
                    continue
                due_s += await self._visit(number, visit, request, chance, due_s, on_line)
        on_line(_line(event="end", peak_rss_bytes=_PEAK_RSS_BYTES, first_block_unix_s=first_block_unix_s))
        return _Ended(0)

    async def _visit(
        self,
        number: int,
        visit: Mapping[str, Any],
        request: Mapping[str, Any],
        chance: Random,
        begins_s: float,
        on_line: Callable[[bytes], None],
    ) -> float:
        """One good visit, which ends so long after it began as it says: its length in s."""
        core_khz = self._core_khz(tuple(request["cores"]))
        slowness = self._slowness * (1 + self._profile.noise.drift_per_hour * self._clock.now_s() / 3600)
        speed = speed_of(self._profile, request, core_khz, slowness=slowness)
        beside = visit.get("beside")
        b_speed = None
        if beside is not None:
            precision = beside.get("precision")
            b_speed = speed_of(self._profile, request, core_khz, slowness=slowness, precision=precision)
        seen = Visiting(self._profile, request, speed, chance).samples(visit, b_speed)
        await self._work_until(begins_s + seen.lasts_s)
        of_its_own = not visit.keys() & {"beside", "twice", "sites"}  # a graph of which one precision can be told
        told = {"effective_precision": request["precision"]} if of_its_own else {}
        on_line(_line(event="done", visit=number, outcome="ok", **seen.fields, **told))
        return seen.lasts_s

    async def _work_until(self, moment_s: float) -> None:
        await self._clock.sleep_until(moment_s)
        self._pass_time(busy=True)

    def _lose(self) -> None:
        """The board is away for a while. Raises BoardUnreachable."""
        self._back_s = self._clock.now_s() + self._profile.lost.away_s
        self._lost.set()
        raise BoardUnreachable(LOST)

    def _readiness(self, request: Mapping[str, Any]) -> dict[str, Any]:
        engine = next((one for one in self._profile.engine if one.name == request["engine"]), None)
        return {
            "contract": CONTRACT,
            "engine": request["engine"],
            "engine_version": "none" if engine is None else engine.told_version,
            "precision": request["precision"],
            "threads": request["threads"],
            "threads_observed": request["threads"],
            "affinity": request["cores"],
            "confinement": ["simulated"],
            "witness_cost_ns": 0,
            "import_ms": self._profile.latency.import_ms,
            "canary_open_ms": self._profile.latency.open_ms,
        }


@dataclass(frozen=True)
class _Ended:
    """How a simulated runner ended, as `LaunchExit` has it."""

    returncode: int
    cut: Cut | None = None
    stderr_tail: str = ""


_STOPPED: Final = _Ended(-signal.SIGKILL, "stopped")
_PEAK_RSS_BYTES: Final = 60_000_000


def _numbers(visit: Mapping[str, Any]) -> list[int]:
    """The measurements of a visit: of a carrier all its wanted kernels."""
    carried = [site["visit"] for site in visit.get("sites", ()) if site["visit"] is not None]
    return carried or [visit["visit"]]


def _line(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
