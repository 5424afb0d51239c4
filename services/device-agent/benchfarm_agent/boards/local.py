"""This host as a board: its own processor, at whatever clock it runs ("free") or at one that the agent may set."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from benchfarm_agent.boards.host_clocks import HostClocks, host_port
from benchfarm_agent.boards.host_facts import boot_id, host_model, machine_id, memory_text, read_host_facts
from benchfarm_agent.boards.interface import LINE_BYTES_MAX, Conditions, Cut, LaunchExit, LaunchOrder
from benchfarm_agent.boards.sensors import BoardGate
from benchfarm_agent.conditions import HostSensors, read_conditions, why_busy
from benchfarm_agent.engine_checks import EngineChecks
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.engine_probe import probe_engines
from benchfarm_agent.files import write_whole
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_gate import NO_GATE, LabGate, gate_limits
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.processes import kill_group, oom_kills, start_child, start_ticks
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.boards import BOOT, MEMORY_SHARE, BoardReport
from benchfarm_core.confine import CONFINED_ID
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import OperatingPoint
from benchfarm_core.values import digest
from benchfarm_engines.launch import launch_environment

STDERR_TAIL_BYTES: Final = 4096
MEMORY_FLOOR_BYTES: Final = 4 * 1024**3
"""Address space, of which libraries and thread arenas take gigabytes without using them."""
CPU_S_PER_THREAD: Final = 3600
LOCAL: Final = "local"
"""What this host is called among boards."""
RUNNER: Final = "runner"
"""The journal's name for a launch in progress: the pid and start of its process group."""


class LocalBoard:
    """The host that the agent runs on. Nothing on it is changed but its clock, where that can be and is asked for."""

    def __init__(
        self,
        state: StateDir,
        journal: Journal,
        settings: Settings,
        port: Port | None = None,
        *,
        gate: LabGate = NO_GATE,
        sensors: HostSensors | None = None,
    ) -> None:
        """port: the way to its clocks; sensors: what tells its heat; by default those of this very host. gate: when it
        takes no launch, as the lab says."""
        self._state = state
        self._journal = journal
        self._settings = settings
        self._environments = EngineEnvironments(state.engines)
        self._checks = EngineChecks(self._environments, self._runner_argv, state.scratch)
        self._facts = read_host_facts()
        self._clocks = HostClocks(port or host_port(state.scratch), journal, self.name, self._facts.cores)
        self._sensors = sensors or HostSensors()
        self._limits = gate_limits(settings, len(self._facts.cores), gate=gate)
        self._gate = BoardGate(self._limits, self.name)
        self._running: asyncio.subprocess.Process | None = None
        self._cut: Cut | None = None
        self._shared: Path | None = None  # where launches of one lease find what an engine made of a model

    @property
    def name(self) -> str:
        return LOCAL

    @property
    def on_this_host(self) -> bool:
        return True

    @property
    def gate_wait_s(self) -> float | None:
        return self._limits.wait_s

    async def describe(self) -> BoardReport:
        serial = machine_id() or _own_id(self._state.hardware_id)
        await self._checks.note()
        ranges = await self._clocks.ranges()
        return BoardReport(
            kind="local",
            serial=serial,
            hardware_id=digest([self._facts.hardware, serial]),
            board_model=host_model(self._facts, serial),
            model_name=f"{self._facts.cpu_name}, {len(self._facts.cores)} cores, "
            f"{memory_text(self._facts.memory_bytes)}"[:200],
            generation=self._facts.generation,
            facts={
                "hostname": socket.gethostname()[:200],
                BOOT: boot_id(),
                **self._facts.describe(),
                **self._oddities(),
            },
            engines=await probe_engines(self._runner_argv, self._state.scratch),
            operating_points=operating_points(self._facts.physical_cores),
            clock_proof=self._clocks.proof,
            ranges=ranges,
        )

    async def renewed(self, report: BoardReport) -> BoardReport:
        """The board's report, anew where files of an engine's own environment came or went."""
        return report.model_copy(update={"engines": await self._checks.renewed(report.engines)})

    async def gate(self, point: OperatingPoint) -> str | None:
        del point  # any clock asks for no more than quiet
        if (why := await self._clocks.why_not_put_back()) is not None:
            return why
        seen = replace(self._sensors.read(), runnable_threads=None)  # one look at the load would say too much
        return self._gate.why_not_now(seen) or await why_busy(self._limits.foreign_threads)

    async def prepare(self, lease_token: str) -> None:
        del lease_token  # the state folder's lock is this host's

    async def pin(self, point: OperatingPoint) -> None:
        if point.mode != "free":
            await self._clocks.pin(point)
        elif not set(point.cores) <= set(self._facts.cores):
            raise TransientDeviceError(f"this host cannot be brought to {point.key}")
        self._shared = _folder_for_runners(self._state.scratch)

    async def restore(self) -> None:
        self._shared = None
        pid, _, ticks = self._journal.entries(self.name).get(RUNNER, "").partition(":")
        if pid and str(start_ticks(int(pid))) == ticks:
            kill_group(int(pid))
        self._journal.forget(self.name, RUNNER, durable=False)
        for left in self._state.scratch.glob("launch-*"):
            rmtree(left, ignore_errors=True)
        await self._clocks.restore()

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        if self._running is not None:
            raise TransientDeviceError("this board runs a launch already")
        with _scratch_folder(self._state.scratch) as scratch:
            request = self._request(order, scratch)
            async with self._clocks.watched(scratch) as clock:
                began_unix_s, begun_s, kills_before = time.time(), time.monotonic(), oom_kills()
                async with self._runner(str(order.request["engine"]), scratch) as process:
                    stderr_tail = await self._attend(process, request, order, on_line)
                wall_ms = (time.monotonic() - begun_s) * 1000
                seen = None if clock is None else await clock.end(wall_ms / 1000)
        assert process.returncode is not None
        return LaunchExit(
            returncode=process.returncode,
            cut=self._cut,
            out_of_memory=_is_out_of_memory(process.returncode, stderr_tail, kills=oom_kills() - kills_before),
            wall_ms=wall_ms,
            began_unix_s=began_unix_s,
            ended_unix_s=began_unix_s + wall_ms / 1000,
            stderr_tail=stderr_tail,
            clock=seen,
        )

    def _oddities(self) -> dict[str, str]:
        """Sensors that nothing is made of, for people."""
        told = [f"{sensor} says {degrees:g} degrees" for sensor, degrees in self._sensors.read().implausible]
        return {"implausible_sensors": "; ".join(told)[:200]} if told else {}

    async def stop(self) -> None:
        if self._running is not None:
            self._end(self._running, "stopped")

    async def evidence(self, point: OperatingPoint) -> Conditions:
        return read_conditions(point.cores)

    def _runner_argv(self, engine: str) -> Sequence[str]:
        return self._settings.runner_argv or self._environments.runner_argv(engine)

    def _request(self, order: LaunchOrder, scratch: Path) -> bytes:
        writable = [str(folder) for folder in (scratch, self._shared) if folder is not None]
        limits = runner_limits(int(order.request["threads"]), order.readable, writable, strict=order.strict)
        cache = None if self._shared is None else str(self._shared)
        return json.dumps({**order.request, "limits": limits, "cache": cache}).encode()

    @contextlib.asynccontextmanager
    async def _runner(self, engine: str, scratch: Path) -> AsyncIterator[asyncio.subprocess.Process]:
        """A runner that is in the journal while it lives and gone with its whole group afterwards."""
        self._cut = None
        environment = launch_environment(str(scratch))
        process = await start_child(
            self._runner_argv(engine), env=environment, folder=scratch, line_bytes_max=LINE_BYTES_MAX
        )
        self._running = process
        try:
            self._journal.remember(self.name, RUNNER, f"{process.pid}:{start_ticks(process.pid)}", durable=False)
            yield process
        finally:
            kill_group(process.pid)
            await process.wait()
            self._running = None
            with contextlib.suppress(OSError):  # a full disk: the entry names a process that is gone, which is harmless
                self._journal.forget(self.name, RUNNER, durable=False)

    async def _attend(
        self,
        process: asyncio.subprocess.Process,
        request: bytes,
        order: LaunchOrder,
        on_line: Callable[[bytes], None],
    ) -> str:
        """Feeds the request, passes lines on, waits for the exit; returns the end of what was said on stderr."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = asyncio.ensure_future(_tail_of(process.stderr))
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: its exit says why
                process.stdin.write(request)
                process.stdin.close()
            await self._pass_lines_on(process, process.stdout, order, on_line)
            await process.wait()
            return await asyncio.wait_for(stderr, timeout=1.0)
        except TimeoutError:  # a grandchild outside the group holds the pipe
            return ""
        finally:
            stderr.cancel()

    async def _pass_lines_on(
        self,
        process: asyncio.subprocess.Process,
        stdout: asyncio.StreamReader,
        order: LaunchOrder,
        on_line: Callable[[bytes], None],
    ) -> None:
        for _ in range(order.lines_max + 1):
            try:
                line = await asyncio.wait_for(stdout.readline(), timeout=order.silence_s)
            except TimeoutError:
                return self._end(process, "silent")
            except ValueError:  # a line above LINE_BYTES_MAX
                return self._end(process, "garbage")
            if not line:
                return await self._let_exit(process, order.silence_s)
            on_line(line.removesuffix(b"\n"))
        return self._end(process, "garbage")

    async def _let_exit(self, process: asyncio.subprocess.Process, silence_s: float) -> None:
        """A runner that has closed its pipe should be gone soon."""
        try:
            await asyncio.wait_for(process.wait(), timeout=silence_s)
        except TimeoutError:
            self._end(process, "silent")

    def _end(self, process: asyncio.subprocess.Process, cut: Cut) -> None:
        if process.returncode is None and self._cut is None:
            self._cut = cut
        kill_group(process.pid)


def operating_points(physical_cores: Sequence[int]) -> tuple[OperatingPoint, ...]:
    """1, 2, 4, ... threads at a free clock, each on the last cores: the first ones serve the system's interrupts."""
    points, threads = [], 1
    while threads <= len(physical_cores):
        points.append(OperatingPoint(mode="free", cores=tuple(physical_cores[-threads:]), threads=threads))
        threads *= 2
    return tuple(points)


def runner_limits(threads: int, readable: Sequence[Path], writable: Sequence[str], *, strict: bool) -> dict[str, Any]:
    """The cage of one runner on this host: another user when the agent is root, memory, time, its files alone."""
    physical_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    as_root = os.geteuid() == 0
    return {
        "memory_bytes": max(MEMORY_FLOOR_BYTES, int(physical_bytes * MEMORY_SHARE)),
        "cpu_s": CPU_S_PER_THREAD * threads,
        "readable": [str(path) for path in readable],
        "writable": list(writable),
        "network": False,
        "uid": CONFINED_ID if as_root else None,
        "gid": CONFINED_ID if as_root else None,
        "strict": strict,
    }


def _own_id(path: Path) -> str:
    """The id that this agent gave a host without one."""
    if not path.exists():
        write_whole(path, uuid.uuid4().hex.encode())
    return path.read_text()


@contextlib.contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder that the runner's user may write to, removed afterwards."""
    folder = _folder_for_runners(parent)
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def _folder_for_runners(parent: Path) -> Path:
    """A new folder for a runner, whichever user it ends up as; its name can be neither listed nor guessed."""
    folder = Path(tempfile.mkdtemp(prefix="launch-", dir=parent))
    folder.chmod(0o777)
    return folder


async def _tail_of(stream: asyncio.StreamReader) -> str:
    tail = b""
    while part := await stream.read(2**14):
        tail = (tail + part)[-STDERR_TAIL_BYTES:]
    return tail.decode(errors="replace")


def _is_out_of_memory(returncode: int, stderr_tail: str, *, kills: int) -> bool:
    """The kernel ended it for want of memory, or an allocation above its limit did."""
    if returncode == -signal.SIGKILL:
        return kills > 0
    return returncode != 0 and ("bad_alloc" in stderr_tail or "MemoryError" in stderr_tail)
