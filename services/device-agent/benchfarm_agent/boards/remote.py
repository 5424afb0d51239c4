"""A board that the agent does not run on: a phone over adb, a Linux board over SSH."""

import asyncio
import contextlib
import errno
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchfarm_agent.boards.benchmark_kit import BenchmarkKit, Spoken
from benchfarm_agent.boards.board_folder import BoardFolder, rewritten
from benchfarm_agent.boards.clock_watch import ClockWatch, watched_clock
from benchfarm_agent.boards.clocks import Clocks
from benchfarm_agent.boards.interface import LINE_BYTES_MAX, Conditions, LaunchExit, LaunchOrder
from benchfarm_agent.boards.linux_facts import BOOT_ID, BoardFacts
from benchfarm_agent.boards.remote_runner import Confinement, MissingRunner, RunnerKit, command_line
from benchfarm_agent.boards.sensors import BoardGate, BoardSensors, GateLimits
from benchfarm_agent.engine_probe import read_probe, unavailable
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.board_scripts import REFUSED
from benchfarm_agent.ports.interface import LAUNCH_LIMIT_S, BoardUnreachable, Port, Streamed
from benchfarm_core.boards import ADDRESS, BOOT, MEMORY_SHARE, BoardMark, BoardReport, EngineReport
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.operating_ranges import accepts
from benchfarm_core.platforms import OperatingPoint
from benchfarm_core.values import digest

logger = logging.getLogger(__name__)

MEMORY_FLOOR_BYTES: Final = 4 * 1024**3
"""Address space, of which libraries and thread arenas take gigabytes without using them."""
CPU_S_PER_THREAD: Final = 3600
PROBE_S: Final = 60.0
LOOK_EVERY_S: Final = 5.0
NO_ROOM: Final = "has no room"
_VMSTAT: Final = "/proc/vmstat"


@dataclass(frozen=True)
class Place:
    """What the lab says of a board: how it is reached, its name for people, what its numbers are marked with."""

    kind: Literal["adb", "ssh"]
    label: str
    marks: tuple[BoardMark, ...] = ()
    note: str = ""


class RemoteBoard:
    """A board behind a port, at the time of one boot. One that comes back is another object with the same name."""

    on_this_host = False

    def __init__(
        self,
        place: Place,
        port: Port,
        facts: BoardFacts,
        folder: BoardFolder,
        kit: RunnerKit | MissingRunner,
        journal: Journal,
        limits: GateLimits,
        *,
        tool: BenchmarkKit | None = None,
        way_back: str = "",
        gates: dict[str, BoardGate] | None = None,
    ) -> None:
        """way_back: how the board is reached, for the journal. gates: what is remembered of boards' heat, by name."""
        self._tool = tool
        self._way_back = way_back
        self._place = place
        self._port = port
        self._facts = facts
        self._folder = folder
        self._journal = journal
        self._clocks = Clocks(facts)
        self._sensors = BoardSensors(port, facts)
        self._parts = facts.report_parts(place.label, place.marks)
        # one that comes back hot is no board at rest
        self._gate = ({} if gates is None else gates).setdefault(self.name, BoardGate(limits, self.name))
        self.gate_wait_s = limits.wait_s
        self.equip(kit)
        self._lease: str | None = None
        self._point: OperatingPoint | None = None
        self._shared: str | None = None  # where launches of one lease find what an engine made of a model
        self._streaming: asyncio.Task[Streamed] | None = None
        self._is_launching = False
        self._stopped = False
        self._lost: asyncio.Event = asyncio.Event()
        self._why_lost = ""

    @property
    def name(self) -> str:
        return f"{self._place.kind}-{digest([self._parts['serial'], self._parts['hardware_id']], length=12)}"

    def equip(self, kit: RunnerKit | MissingRunner) -> None:
        """From now on this measures on the board: at its beginning, or in the place of a runner that was missing."""
        self._kit = kit
        if kit.timing:
            self._parts["generation"] = digest([self._parts["generation"], kit.timing], length=16)

    async def describe(self) -> BoardReport:
        report = BoardReport(**self._parts, kind=self._place.kind, engines=await self._engines())
        told = {"note": self._place.note[:200], BOOT: (self._facts.boot_id or "")[:60]}
        noted = {name: text for name, text in told.items() if text}
        return report.model_copy(update={"facts": {**report.facts, ADDRESS: self._port.name[:200], **noted}})

    async def away(self) -> str:
        """Returns why once the board is out of reach or has started anew. While it is leased only launches look."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), timeout=LOOK_EVERY_S)
            if self._lost.is_set():
                return self._why_lost
            if self._lease is None and not self._is_launching:
                await self._look()

    async def gate(self, point: OperatingPoint) -> str | None:
        with self._noting_loss():
            return await self._why_not_put_back() or self._gate.why_not_now(await self._sensors.read(point.cores))

    async def _why_not_put_back(self) -> str | None:
        """What an earlier lease changed is put back first; why that fails, None when all is as it was found."""
        if self._lease is not None or not self._journal.entries(self.name):
            return None
        try:
            await self.restore()
        except BoardUnreachable:
            raise
        except TransientDeviceError as error:
            return error.detail
        return None

    async def prepare(self, lease_token: str) -> None:
        if self._tool is None:
            self._runner()
        with self._noting_loss():
            try:
                for kit in (self._kit, self._tool):
                    if kit is not None and not isinstance(kit, MissingRunner):
                        await kit.ensure(self._port, self._folder)
                await self._folder.take(lease_token)
                self._lease = lease_token
                self._shared = await self._folder.make_scratch()
            except OSError as error:
                raise TransientDeviceError(f"{self._port.name}: {error.strerror}") from error

    async def pin(self, point: OperatingPoint) -> None:
        if not accepts(self._parts["ranges"], point):
            raise TransientDeviceError(f"this board cannot be brought to {point.key}")
        self._journal.note_way(self.name, self._way_back)
        with self._noting_loss():
            await self._clocks.pin(self._port, point, self._journal, self.name)
        self._point = point

    async def restore(self) -> None:
        self._lease = self._shared = self._point = None
        with self._noting_loss():
            await Clocks.restore(self._port, self._journal, self.name)
            await self._folder.sweep()

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        if self._is_launching:
            raise TransientDeviceError("this board runs a launch already")
        self._is_launching, self._stopped = True, False
        try:
            with self._noting_loss():
                places = await self._folder.put(self._opened(order))
                if self._lease is not None:
                    await self._folder.take(self._lease)  # renewed: a long lease is no stale one
                async with self._scratch() as scratch:
                    return await self._launched(order, places, scratch, on_line)
        finally:
            self._is_launching = False

    async def stop(self) -> None:
        self._stopped = True
        if self._streaming is not None:
            self._streaming.cancel()

    async def evidence(self, point: OperatingPoint) -> Conditions:
        with self._noting_loss():
            return await self._sensors.read(point.cores)

    async def _launched(
        self, order: LaunchOrder, places: dict[str, str], scratch: str, on_line: Callable[[bytes], None]
    ) -> LaunchExit:
        spoken = self._spoken(order, places, scratch, on_line)
        kills_before = await self._oom_kills()
        async with self._clock(scratch) as clock:
            began_unix_s, begun_s = time.time(), time.monotonic()
            streamed = await self._stream(order, spoken, scratch)
            wall_ms = (time.monotonic() - begun_s) * 1000
            lasted_s = wall_ms / 1000 if streamed.ran_s is None else streamed.ran_s  # without the way to the board
            seen = None if clock is None else await clock.end(lasted_s)
        returncode = _signed(streamed.returncode)
        kills = await self._oom_kills() - kills_before if returncode == -signal.SIGKILL else 0
        return LaunchExit(
            returncode=returncode,
            cut=streamed.cut,
            out_of_memory=_is_out_of_memory(returncode, streamed.stderr_tail, kills=kills),
            wall_ms=wall_ms,
            began_unix_s=began_unix_s,
            ended_unix_s=began_unix_s + wall_ms / 1000,
            stderr_tail=streamed.stderr_tail,
            clock=seen,
        )

    @contextlib.asynccontextmanager
    async def _clock(self, scratch: str) -> AsyncIterator[ClockWatch | None]:
        """What watches the clock of the point that the board was brought to."""
        if self._point is None:
            yield None
        else:
            async with watched_clock(self._port, self._facts, self._point, scratch) as clock:
                yield clock

    def _tool_for(self, order: LaunchOrder) -> BenchmarkKit | None:
        """The operator's program, where a launch is one of it."""
        return self._tool if self._tool is not None and order.request["engine"] == self._tool.engine else None

    def _opened(self, order: LaunchOrder) -> Sequence[Path]:
        """The files that a launch opens on the board."""
        if self._tool_for(order) is None:
            return order.readable
        return [Path(visit["artifact"]) for visit in order.request["visits"]]

    def _spoken(
        self, order: LaunchOrder, places: dict[str, str], scratch: str, on_line: Callable[[bytes], None]
    ) -> Spoken:
        if (tool := self._tool_for(order)) is not None:
            return tool.spoken(order, places, self._folder, on_line)
        argv = self._runner().launch_argv(self._folder, launch_limit_s(order))
        return Spoken(argv, self._request(order, places, scratch), on_line, order.lines_max)

    async def _stream(self, order: LaunchOrder, spoken: Spoken, scratch: str) -> Streamed:
        """The launch; cut ("stopped") when `stop` ended it. Nothing of it is left on the board afterwards."""
        stream = self._port.stream(
            command_line(spoken.argv, scratch),
            stdin=spoken.stdin,
            on_line=spoken.on_line,
            line_bytes_max=LINE_BYTES_MAX,
            silence_s=order.silence_s,
            lines_max=spoken.lines_max,
            limit_s=launch_limit_s(order),
        )
        self._streaming = asyncio.ensure_future(stream)
        try:
            if self._stopped:  # while its files were put on the board
                self._streaming.cancel()
            await asyncio.wait([self._streaming])
            if self._streaming.cancelled():
                return Streamed(None, "stopped")
            streamed = self._streaming.result()
            if streamed.returncode == REFUSED and NO_ROOM in streamed.stderr_tail:
                raise OSError(errno.ENOSPC, "the board's storage is full")
            return streamed
        finally:
            self._streaming.cancel()
            await asyncio.gather(self._streaming, return_exceptions=True)
            self._streaming = None

    def _request(self, order: LaunchOrder, places: dict[str, str], scratch: str) -> bytes:
        writable = [folder for folder in (scratch, self._shared) if folder is not None]
        confinement = Confinement(
            memory_bytes=max(MEMORY_FLOOR_BYTES, int(self._facts.memory_bytes * MEMORY_SHARE)),
            cpu_s=CPU_S_PER_THREAD * int(order.request["threads"]),
            is_root=self._facts.is_root,
            readable=sorted(set(places.values())),
            writable=writable,
            strict=order.strict,
        )
        request: Any = rewritten(order.request, places)
        limits = self._runner().limits(confinement)
        return json.dumps({**request, "limits": limits, "cache": self._shared}).encode()

    def _runner(self) -> RunnerKit:
        """Raises TransientDeviceError where there is none: then no engine was offered either."""
        if isinstance(self._kit, MissingRunner):
            raise TransientDeviceError(self._kit.why)
        return self._kit

    async def _engines(self) -> tuple[EngineReport, ...]:
        """What each engine says about itself on the board. Raises BoardUnreachable."""
        return await self._engines_of_kit() + await self._engines_of_tool()

    async def _engines_of_tool(self) -> tuple[EngineReport, ...]:
        if self._tool is None:
            return ()
        try:
            await self._tool.ensure(self._port, self._folder)
            return (await self._tool.probe(self._port, self._folder),)
        except BoardUnreachable:
            raise
        except (TransientDeviceError, OSError) as error:
            return _without_engines([self._tool.engine], str(error))

    async def _engines_of_kit(self) -> tuple[EngineReport, ...]:
        if isinstance(self._kit, MissingRunner):
            return _without_engines(self._kit.engines, self._kit.why)
        try:
            await self._kit.ensure(self._port, self._folder)
        except BoardUnreachable:
            raise
        except (TransientDeviceError, OSError) as error:
            return _without_engines(self._kit.engines, str(error))
        return tuple([await self._probe(self._kit, name) for name in self._kit.engines])

    async def _probe(self, kit: RunnerKit, name: str) -> EngineReport:
        async with self._scratch() as scratch:
            argv = command_line([*kit.argv(self._folder), "--probe", name], scratch)
            ran = await self._port.run(argv, timeout_s=PROBE_S)
        return read_probe(name, ran.stdout, ran.stderr, ran.returncode)

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[str]:
        """A folder on the board; it goes with what it was for, or with the next sweep."""
        path = await self._folder.make_scratch()
        try:
            yield path
        finally:
            with contextlib.suppress(TransientDeviceError):
                await self._folder.remove(path)

    @contextlib.contextmanager
    def _noting_loss(self) -> Iterator[None]:
        try:
            yield
        except BoardUnreachable as error:
            self._lose(error.detail)
            raise

    def _lose(self, why: str) -> None:
        self._why_lost = self._why_lost or why
        self._lost.set()

    async def _look(self) -> None:
        try:
            boot_id = (await self._port.read([BOOT_ID]))[BOOT_ID]
        except BoardUnreachable as error:
            self._lose(error.detail)
        else:
            if boot_id != self._facts.boot_id:
                self._lose("it has started anew")

    async def _oom_kills(self) -> int:
        """How many processes the board's kernel has ended for want of memory; 0 where it does not say."""
        text = (await self._port.read([_VMSTAT]))[_VMSTAT] or ""
        counts = [line.split()[1] for line in text.splitlines() if line.startswith("oom_kill ")]
        return int(counts[0]) if counts and counts[0].isdecimal() else 0


def launch_limit_s(order: LaunchOrder) -> float:
    """The longest that a launch can take: it speaks at least every `silence_s`, and no more than so many lines."""
    return min(LAUNCH_LIMIT_S, order.silence_s * order.lines_max)


def _without_engines(names: Iterable[str], why: str) -> tuple[EngineReport, ...]:
    return tuple(unavailable(name, why) for name in names)


def _signed(returncode: int | None) -> int:
    """A shell's return code as a Python child's: 128 + n is signal n. What was cut was killed."""
    if returncode is None:
        return -signal.SIGKILL
    return 128 - returncode if 128 < returncode <= 128 + signal.NSIG else returncode


def _is_out_of_memory(returncode: int, stderr_tail: str, *, kills: int) -> bool:
    """The kernel ended it for want of memory, or an allocation above its limit did."""
    if returncode == -signal.SIGKILL:
        return kills > 0
    return returncode != 0 and ("bad_alloc" in stderr_tail or "MemoryError" in stderr_tail)
