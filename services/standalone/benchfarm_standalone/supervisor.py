"""Keeps a set of processes running: starts them in order, restarts the dead, stops them in reverse order.

Nothing here sleeps for a fixed time to hope for the best: a service is up when its probe says so. A dead service is
started again after a growing pause, alone: what depends on it must cope with its absence, as it must in production. The
same service dying five times in a minute is no accident any more; then everything is stopped and the service is named.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from benchfarm_standalone.children import PROBE_EVERY_S, Service, spawn
from benchfarm_standalone.errors import FarmError, ServiceFailed
from benchfarm_standalone.logs import cut_log
from benchfarm_standalone.processes import children_of, group_runs, kill_and_reap, kill_group

log = logging.getLogger("benchfarm.standalone")

LOOK_AT_LOGS_EVERY_S = 10
REAP_WITHIN_S = 5
FULL_BELOW_BYTES = 16 * 2**20
"""With less room than this a death is the full disk's fault, and waiting helps."""


def room_at(path: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(path).free


class ChildState(StrEnum):
    """Where a supervised process stands."""

    STARTING = "starting"
    READY = "ready"
    PAUSING = "pausing"
    STOPPED = "stopped"


@dataclass(frozen=True)
class RestartRule:
    """When a dead service is started again: the first pause is ``pause_s``, each further one in the window longer by
    ``factor``, up to ``longest_pause_s``; ``deaths`` within ``window_s`` are the end of everything."""

    deaths: int = 5
    window_s: float = 60
    pause_s: float = 0.1
    factor: float = 3
    longest_pause_s: float = 5

    def recent(self, died_at_s: list[float], now_s: float) -> list[float]:
        """The deaths that still count."""
        return [at_s for at_s in died_at_s if now_s - at_s < self.window_s]

    def pause_after_s(self, recent_deaths: int) -> float:
        """Pause before the start that follows the ``recent_deaths``-th death of the window."""
        return float(min(self.longest_pause_s, self.pause_s * self.factor ** max(0, recent_deaths - 1)))


@dataclass
class Child:
    """A service under supervision, and what has become of it."""

    service: Service
    process: asyncio.subprocess.Process | None = None
    state: ChildState = ChildState.STARTING
    restarts: int = 0
    died_at_s: list[float] = field(default_factory=list)
    starved_at_s: list[float] = field(default_factory=list)
    """Deaths that a full disk takes the blame for: they lengthen the pause and nothing else."""

    @property
    def pid(self) -> int | None:
        """Process id of the present process; none while there is none."""
        return self.process.pid if self.process and self.process.returncode is None else None


class Supervisor:
    """Owns the children from the first start to the last stop. Used from one event loop.

    ``owns_orphans`` says that this process adopts orphans (``processes.adopt_orphans``) and has no children but the
    supervisor's: what a dead service leaves behind is then found and killed wherever it went, not only in its group.
    ``on_change`` is called after each change that people or tools may want to see. ``room`` tells the bytes left on the
    farm's disk: on a full one nothing gives up, it goes on trying until there is room.
    """

    def __init__(
        self,
        log_dir: Path,
        *,
        rule: RestartRule | None = None,
        owns_orphans: bool = False,
        on_change: Callable[[], None] = lambda: None,
        room: Callable[[Path], int] = room_at,
    ) -> None:
        self.children: dict[str, Child] = {}
        self._started: list[list[Child]] = []
        """By start: those that do not need each other."""
        self._log_dir = log_dir
        self._rule = rule or RestartRule()
        self._owns_orphans = owns_orphans
        self._on_change = on_change
        self._room = room
        # Held from a fork to the entry of its process id, so that no sweep takes a newborn child for an orphan.
        self._spawning = asyncio.Lock()
        self._one_shot_pids: set[int] = set()
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: FarmError | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def log_file(self, name: str) -> Path:
        """Where the output of the named service goes."""
        return self._log_dir / f"{name}.log"

    async def start(self, *services: Service) -> None:
        """Start services that do not need each other, and return when all are ready. Raises FarmError.

        In this first start a death is not forgiven: something is wrong with the set-up, and waiting hides it.
        """
        children = [Child(service) for service in services]
        self.children |= {child.service.name: child for child in children}
        self._started.append(children)
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(self._bring_up(child))
        except ExceptionGroup as failures:
            # Not by except*: what that raises comes wrapped in one more group before Python 3.11.4.
            reason = next((one for one in failures.exceptions if isinstance(one, FarmError)), failures)
            raise reason from None
        for child in children:
            self._watch(child.service.name, self._keep(child))
        self._watch("logs", self._keep_logs_short())

    async def run_to_end(self, service: Service) -> None:
        """Run a one-shot program; it must end with 0 within ``ready_within_s``. Raises ServiceFailed."""
        async with self._spawning:
            process = await spawn(service, self.log_file(service.name))
            self._one_shot_pids.add(process.pid)
        try:
            code = await asyncio.wait_for(process.wait(), service.ready_within_s)
        except TimeoutError:
            raise self._failed(service, f"did not end within {service.ready_within_s:g} s") from None
        finally:
            await self._kill_rest(process)
            self._one_shot_pids.discard(process.pid)
        if code != 0:
            raise self._failed(service, f"ended with {code}")

    async def wait(self) -> None:
        """Return when ``stop`` was called; raise what made the supervisor give up, if that came first."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def hurry(self) -> None:
        """End all grace: what has not stopped yet gets SIGKILL now."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stop everything in reverse order of the starts, what was started together at once. Safe to call again."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        for children in reversed(self._started):
            await asyncio.gather(*(self._end(child) for child in children))
        await self._sweep_orphans()
        self._ended.set()

    def _watch(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        if name in self._tasks:
            work.close()
            return
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def _bring_up(self, child: Child) -> None:
        """Start the child's process and wait until it is ready. Raises FarmError."""
        self._enter(child, ChildState.STARTING)
        began_s = time.monotonic()
        try:
            await asyncio.to_thread(child.service.prepare)
            async with self._spawning:
                child.process = await spawn(child.service, self.log_file(child.service.name))
        except OSError as error:  # a full disk, a removed folder, no process left: a death as any other
            raise self._failed(child.service, f"could not be started ({error})") from error
        await self._until_ready(child)
        self._enter(child, ChildState.READY)
        log.info("%s is ready after %.2f s", child.service.name, time.monotonic() - began_s)

    async def _until_ready(self, child: Child) -> None:
        service, process = child.service, child.process
        assert process is not None
        give_up_at_s = time.monotonic() + service.ready_within_s
        while not await asyncio.to_thread(service.ready):
            if process.returncode is not None:
                raise self._failed(service, f"ended with {process.returncode} before it was ready")
            if time.monotonic() > give_up_at_s:
                raise self._failed(service, f"was not ready within {service.ready_within_s:g} s")
            await asyncio.sleep(PROBE_EVERY_S)

    async def _keep(self, child: Child) -> None:
        """Wait for the child's death, again and again, and bring it back until the rule says that it is enough."""
        while True:
            assert child.process is not None
            code = await child.process.wait()
            died_of = f"died with {code}"
            while not await self._brought_back(child, died_of):
                died_of = "did not come back"
                if self._failure is not None:
                    return

    async def _brought_back(self, child: Child, died_of: str) -> bool:
        """One attempt after one death; tells whether the child is ready again."""
        now_s = time.monotonic()
        child.died_at_s = [*self._rule.recent(child.died_at_s, now_s), now_s]
        child.starved_at_s = self._rule.recent(child.starved_at_s, now_s)
        await self._clear_away(child)
        if self._is_full():
            child.starved_at_s.append(child.died_at_s.pop())  # this one alone: what died before had its own reasons
        if len(child.died_at_s) >= self._rule.deaths:
            self._give_up(self._failed(child.service, self._too_often(child, now_s)))
            return False
        pause_s = self._rule.pause_after_s(len(child.died_at_s) + len(child.starved_at_s))
        log.warning("%s %s, starting it again in %.1f s", child.service.name, died_of, pause_s)
        self._enter(child, ChildState.PAUSING)
        await asyncio.sleep(pause_s)
        child.restarts += 1
        try:
            await self._bring_up(child)
        except FarmError as error:
            log.warning("%s", error)
            return False
        return True

    def _too_often(self, child: Child, now_s: float) -> str:
        reason = f"died {len(child.died_at_s)} times in {self._rule.window_s:g} s"
        if not child.starved_at_s:
            return reason
        ago_s = now_s - max(child.starved_at_s)
        return f"{reason}, though the disk at {self._log_dir}, full {ago_s:.0f} s ago, has room again"

    def _is_full(self) -> bool:
        free_bytes = self._room(self._log_dir)
        if free_bytes < FULL_BELOW_BYTES:
            log.error("only %d MiB are free at %s: make room, the farm waits for it", free_bytes >> 20, self._log_dir)
        return free_bytes < FULL_BELOW_BYTES

    def _give_up(self, failure: FarmError) -> None:
        self._failure = failure
        log.error("%s: stopping everything", failure)
        self._ended.set()

    async def _clear_away(self, child: Child) -> None:
        """Kill what a dead or unready child has left, so that its successor starts on free ground."""
        if child.process is not None:
            await self._kill_rest(child.process)
        await self._sweep_orphans()

    async def _kill_rest(self, process: asyncio.subprocess.Process) -> None:
        """SIGKILL for what is left of the process' group, and wait until the kernel has taken it away."""
        kill_group(process.pid)
        await process.wait()
        give_up_at_s = time.monotonic() + REAP_WITHIN_S
        # Polled: the kernel tells nobody of the end of processes that are not our children.
        while await asyncio.to_thread(group_runs, process.pid) and time.monotonic() < give_up_at_s:  # noqa: ASYNC110
            await asyncio.sleep(PROBE_EVERY_S)

    async def _sweep_orphans(self) -> None:
        if not self._owns_orphans:
            return
        give_up_at_s = time.monotonic() + REAP_WITHIN_S
        async with self._spawning:
            orphans = self._orphans()
            while orphans and time.monotonic() < give_up_at_s:
                kill_and_reap(orphans)
                await asyncio.sleep(PROBE_EVERY_S)
                orphans = self._orphans()

    def _orphans(self) -> set[int]:
        ours = {child.process.pid for child in self.children.values() if child.process is not None}
        return children_of(os.getpid()) - ours - self._one_shot_pids

    async def _end(self, child: Child) -> None:
        """Ask the child to stop, wait for its grace or for ``hurry``, then SIGKILL what is left of its group."""
        process = child.process
        if process is None or child.state is ChildState.STOPPED:
            return
        began_s = time.monotonic()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(child.service.stop_signal)
            waits = {asyncio.create_task(process.wait()), asyncio.create_task(self._hurry.wait())}
            await asyncio.wait(waits, timeout=child.service.grace_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        in_time = process.returncode is not None
        await self._kill_rest(process)
        self._enter(child, ChildState.STOPPED)
        how = "" if in_time else " by SIGKILL"
        log.info("%s stopped%s after %.2f s", child.service.name, how, time.monotonic() - began_s)

    def _enter(self, child: Child, state: ChildState) -> None:
        child.state = state
        self._on_change()

    def _failed(self, service: Service, reason: str) -> ServiceFailed:
        return ServiceFailed(service.name, reason, self.log_file(service.name))

    async def _keep_logs_short(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_LOGS_EVERY_S)
            for name in self.children:
                try:
                    await asyncio.to_thread(cut_log, self.log_file(name))
                except OSError as error:  # the next look may find room again
                    log.warning("the log of %s is not kept short: %s", name, error)
