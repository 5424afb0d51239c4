"""One lease from its grant to its release: prepare, gate, pin, launch, restore, hand in, give back."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from benchfarm_agent.boards.interface import Board
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient, Patience
from benchfarm_agent.files import is_disk_full
from benchfarm_agent.keeper import LeaseKeeper
from benchfarm_agent.kept_child import Unusable
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.quiet import Quiet
from benchfarm_agent.reports import Reports
from benchfarm_agent.runner_lines import plain_text
from benchfarm_agent.settings import Settings
from benchfarm_agent.spool import LeaseSpool, Spool
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant, ReleaseReason, ReleaseRequest
from benchfarm_core.errors import BenchfarmError, LeaseLost, NotFound, TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.leases import ailment_by
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.platforms import Platform

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

GATE_LOOK_S: Final = 0.05
GATE_LOOK_AFAR_S: Final = 0.5
"""Looking is work for the board itself."""
DRAIN_PATIENCE_S: Final = 2.0
ORPHAN_PATIENCE_S: Final = 5.0
AFTER_RESTART: Final = ReleaseRequest(reason="error", detail="the agent was killed and has started again")
HANDED_IN_LATE: Final = ReleaseRequest(reason="done", detail="handed in late: the farm was away")


class Artifacts(Protocol):
    """What prepares the batches of leases: `ArtifactCache`, whose contracts these are, or what boards open instead."""

    def prepared(
        self, items: Sequence[BatchItem], platform: Platform, on_building: Callable[[int | None], None] = ...
    ) -> AbstractAsyncContextManager[tuple[dict[int, PreparedItem], list[MeasurementResult]]]: ...

    async def canary(self, own: Canary, platform: Platform) -> Canary: ...


@dataclass(frozen=True)
class Lab:
    """What all leases of one agent share. `quiet` keeps what makes this host busy apart from launches on it, `at_work`
    names the leases in progress, `reports` tells the farm what runs in them."""

    settings: Settings
    farm: FarmClient
    artifacts: Artifacts
    spool: Spool
    canary: Canary
    quiet: Quiet = field(default_factory=Quiet)
    at_work: set[str] = field(default_factory=set)
    reports: Reports = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reports", Reports(self.farm, every_s=self.settings.started_every_s))


@dataclass
class _Ending:
    """How the lease is to be released, should nothing better be known."""

    reason: ReleaseReason = "done"
    detail: str = ""


class NextLease(NamedTuple):
    """What the end of a lease has brought: the next one of its board, asked for at `asked_s`."""

    grant: LeaseGrant
    asked_s: float


class LeaseWork:
    """The work on one lease. `run` is called once; `drain`, `lose` and `lose_board` may come at any time.

    on_gate: hears of each look at the board's gate why it is shut, and None once nothing waits for it any more.
    goes_on: whether the board is to take its next lease with the end of this one, which is `next` then.
    """

    def __init__(
        self,
        lab: Lab,
        board: Board,
        grant: LeaseGrant,
        *,
        asked_s: float,
        on_gate: Callable[[str | None], None] = lambda _: None,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lab = lab
        self._board = board
        self._grant = grant
        self._spool = lab.spool.lease(grant.lease_token)
        self._keeper = LeaseKeeper(lab.farm, grant.lease_token, on_cancelled=self._drop, on_lost=self._halt)
        self._keeper.granted(asked_s, expires_in_s=grant.expires_in_s, renew_in_s=grant.renew_in_s)
        self._launches: LeaseLaunches | None = None
        self._results: list[MeasurementResult] = []
        self._cancelled: set[int] = set()
        self._halted = asyncio.Event()
        self._draining = False
        self._gone: str | None = None  # why the board is away
        self._releasing = False
        self._begun_s = asked_s
        self._on_gate = on_gate
        self._goes_on = goes_on
        self.next: NextLease | None = None
        self.has_drifted = False
        """Whether the farm said with the end of this lease that it saw the board drift."""
        self._waits_on = False  # at the gate, in its next lease
        self._conversion_ms = 0.0
        self._gate_ms = 0.0
        self._stops: set[asyncio.Task[None]] = set()

    async def run(self) -> ReleaseReason:
        """Works until the lease is released or lost; returns why it ended. Raises BenchfarmError, OSError."""
        token = self._grant.lease_token
        self._lab.at_work.add(token)
        keeping = asyncio.create_task(self._keeper.run())
        self._lab.reports.join(token, self._keeper, on_lost=self.lose, alone=len(self._grant.items) == 1)
        try:
            return await self._work()
        finally:
            if not self._waits_on:
                self._on_gate(None)
            self._lab.at_work.discard(token)
            self._lab.reports.leave(token)
            keeping.cancel()
            (outcome,) = await asyncio.gather(keeping, return_exceptions=True)
            if isinstance(outcome, Exception):
                logger.error("what keeps the lease has failed", exc_info=outcome)
            await asyncio.to_thread(self._spool.close)  # on the loop a slow disk would hold up every other board

    async def _work(self) -> ReleaseReason:
        """Measures and hands in. A fault of the agent ends the lease too: left alone it would idle the board."""
        try:
            self._open_spool()
            ending = await self._measure()
        except Exception as fault:  # boundary: what was found before goes to the farm, and the board goes back
            logger.exception("a lease ends with a fault of the agent")
            ending = _after(fault)
        try:
            return await self._hand_in(ending)
        except Exception as fault:  # boundary: results may be lost with the spool, the board is not
            if not self._keeper.lost:
                await self._release(_after(fault))
            raise

    def drain(self) -> None:
        """Ends after the launch in progress, or after `drain_s` when that takes longer."""
        self._draining = True
        if self._launches is not None:
            self._launches.finish_early()
        asyncio.get_running_loop().call_later(self._lab.settings.drain_s, self._halt)

    def lose(self) -> None:
        """The farm says that this lease has ended. While it is being released that is no news."""
        if not self._releasing:
            self._keeper.lose()

    def lose_board(self, why: str) -> None:
        """The board is away: what it was running pays an attempt, the rest stays wanted, and the lease ends."""
        if self._gone is None:
            self._gone = why
            if self._launches is not None:
                self._launches.lose_board(why)
            self._halt()

    def ailment(self) -> str | None:
        """Why the board could not measure in this lease, which has ended as done, by a fault of its own.

        Empty where it could, None where that is not known. A workload that no runner has seen is not to blame.
        """
        if self._launches is not None and self._launches.came_to_a_visit:
            return ""
        return ailment_by(result.failure for result in self._results)

    def _halt(self) -> None:
        """Stops the board now."""
        self._halted.set()
        if self._launches is not None:
            self._launches.finish_early()
        task = asyncio.ensure_future(self._board.stop())
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    def _drop(self, measurement_ids: Iterable[int]) -> None:
        self._cancelled.update(measurement_ids)
        if self._launches is not None:
            self._launches.drop(self._cancelled)
        if self._cancelled.issuperset(item.measurement_id for item in self._grant.items):
            self._halt()

    def _open_spool(self) -> None:
        try:
            self._spool.open()
        except OSError as error:
            if not is_disk_full(error):
                raise
            logger.error("the spool's disk is full: this lease leaves no trace on it")

    async def _measure(self) -> _Ending:
        async with AsyncExitStack() as files:
            prepared = await self._unless_halted(self._prepare(files))
            if prepared is None:
                return self._ending()
            ready, failed, canary = prepared
            self._results += failed
            ending = await self._with_files(list(ready.values()), canary)
            left = len(self._grant.items) - len(ready) - len(failed)
            if left and ending.reason == "done":  # an error lets the board rest, or the same offer came at once
                return _Ending("error", f"the farm did not hand out the files of {left} measurements")
            return ending

    async def _prepare(
        self, files: AsyncExitStack
    ) -> tuple[dict[int, PreparedItem], list[MeasurementResult], Canary | None]:
        """What is ready and what cannot be, and the canary; the files are safe while `files` is open."""
        async with self._lab.quiet.working():
            begun_s = boottime_s()
            platform, items = self._grant.platform, self._grant.items
            preparation = self._lab.artifacts.prepared(items, platform, self._spool.note_running)
            ready, failed = await files.enter_async_context(preparation)
            canary = await self._canary(list(ready.values()))
            self._conversion_ms = (boottime_s() - begun_s) * 1000
        return ready, failed, canary

    async def _unless_halted(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """What some work comes to; None when the lease ended first: then it is given up, and others have their turn."""
        task = asyncio.ensure_future(work)
        halted = asyncio.ensure_future(self._halted.wait())
        try:
            await asyncio.wait((task, halted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            halted.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return None if task.cancelled() else task.result()

    async def _canary(self, items: Sequence[PreparedItem]) -> Canary | None:
        """The canary as the platform opens it; None when there is none, for which `items` have failed."""
        if not items:
            return None
        try:
            return await self._lab.artifacts.canary(self._lab.canary, self._grant.platform)
        except Unusable as error:
            self._fail(items, FailureCode.ENGINE_UNAVAILABLE, f"the canary cannot be made for it: {error.detail}")
            return None

    async def _with_files(self, items: Sequence[PreparedItem], canary: Canary | None) -> _Ending:
        if not items or canary is None or self._must_end():
            return self._ending()
        try:
            return await self._on_board(items, canary)
        except BoardUnreachable as error:
            self.lose_board(error.detail)
            return self._ending()
        except TransientDeviceError as error:
            return _Ending("error", error.detail)

    async def _on_board(self, items: Sequence[PreparedItem], canary: Canary) -> _Ending:
        """Gate, prepare, pin, launch and restore. Raises TransientDeviceError, with nothing measured."""
        why = await self._gate()
        if why is not None:
            self._waits_on = not self._must_end()
            return _Ending("gate", why) if self._waits_on else self._ending()
        self._on_gate(None)
        self._lab.reports.waited(self._grant.lease_token, self._gate_ms)
        try:
            await self._board.prepare(self._grant.lease_token)
            return await self._pinned(items, canary)
        finally:
            await self._restore()

    async def _pinned(self, items: Sequence[PreparedItem], canary: Canary) -> _Ending:
        try:
            await self._board.pin(self._grant.platform.operating_point)
        except BoardUnreachable:
            raise
        except TransientDeviceError as error:
            self._fail(items, FailureCode.PIN_NOT_VERIFIED, error.detail)
            return _Ending()
        await self._launch(items, canary)
        return self._ending()

    async def _restore(self) -> None:
        """What cannot be put back now is in the journal: the board takes no launch before it has been."""
        try:
            await self._board.restore()
        except TransientDeviceError as error:
            logger.warning("a board is not put back yet: %s", error.detail, extra={"board": self._board.name})

    async def _launch(self, items: Sequence[PreparedItem], canary: Canary) -> None:
        turn = self._lab.quiet.launching if self._board.on_this_host else nullcontext
        launches = LeaseLaunches(self._board, self._grant, items, canary, self._on_running, turn)
        launches.drop(self._cancelled)
        self._launches = launches
        try:
            if not self._must_end():
                await launches.run()
        except BoardUnreachable as error:
            self.lose_board(error.detail)
        except TransientDeviceError as error:
            launches.give_up(FailureCode.BOARD_LOST, error.detail)
        except OSError as error:
            code = FailureCode.DISK_FULL if is_disk_full(error) else FailureCode.RUNNER_DIED
            launches.give_up(code, f"the runner could not be started: {error.strerror}")
        except Exception as fault:  # boundary: whatever a runner breaks here is paid for, or it would return for ever
            logger.exception("the launches of a lease end with a fault of the agent")
            launches.break_off(FailureCode.RUNNER_DIED, _after(fault).detail)
        self._results += launches.results()

    async def _gate(self) -> str | None:
        """Waits for good conditions; None when they are there, else why they did not come in time."""
        wait_s = self._board.gate_wait_s
        begun_s = boottime_s()
        until_s = begun_s + (self._lab.settings.gate_wait_s if wait_s is None else wait_s)
        pause_s = GATE_LOOK_S if self._board.on_this_host else GATE_LOOK_AFAR_S
        while (why := await self._board.gate(self._grant.platform.operating_point)) is not None:
            self._on_gate(why)
            if boottime_s() > until_s or self._must_end():
                return why
            with suppress(TimeoutError):
                await asyncio.wait_for(self._halted.wait(), timeout=pause_s)
            self._gate_ms = (boottime_s() - begun_s) * 1000
        return None

    async def _hand_in(self, ending: _Ending) -> ReleaseReason:
        """Results to disk, then to the farm, then the board back; whatever cannot be sent stays in the spool."""
        evidence = self._launches.evidence if self._launches is not None else []
        await asyncio.to_thread(self._spool.add, self._results, evidence)
        try:
            await self._hand_over(ending)
        except LeaseLost:
            self._spool.drop()
            self._keeper.lose()
        except NotFound:
            self._keeper.lose()
        except BenchfarmError as error:
            logger.warning("results wait in the spool: %s", error.detail)
        return "lease_lost" if self._keeper.lost else ending.reason

    async def _hand_over(self, ending: _Ending) -> None:
        """What was found, and with the last of it the board. Raises BenchfarmError."""
        farm = self._lab.farm
        if not self._keeper.lost and self._spool.chunks() > 1:  # the end says by itself that nothing runs any more
            await self._lab.reports.over(self._grant.lease_token)
            await self._spool.deliver(farm, patience_s=self._patience(), but_last=True)
        if self._keeper.lost:
            return await self._spool.deliver(farm, patience_s=self._patience())
        self._releasing = True
        self._keeper.end()
        asked_s, wants_next = boottime_s(), ending.reason == "done" and self._goes_on()
        answer = await self._spool.finish(
            farm, self._release_of(ending), patience_s=self._patience(), wants_next=wants_next
        )
        if answer.lost:
            self._keeper.lose()
        self.has_drifted = answer.drifted
        if answer.next_lease is not None:
            self.next = NextLease(answer.next_lease, asked_s)
        return None

    def _patience(self) -> Patience:
        """For calls that begin now; a drain that comes while they are repeated leaves less."""
        undrained_s = ORPHAN_PATIENCE_S if self._keeper.lost else self._keeper.left_s()
        return lambda: DRAIN_PATIENCE_S if self._draining else undrained_s

    async def _release(self, ending: _Ending) -> None:
        self._releasing = True
        release = self._release_of(ending)
        await self._lab.farm.release(self._grant.lease_token, release, patience_s=self._patience())

    def _release_of(self, ending: _Ending) -> ReleaseRequest:
        return ReleaseRequest(
            reason=ending.reason,
            detail=ending.detail[:300],
            conversion_ms=self._conversion_ms,
            lease_wall_ms=(boottime_s() - self._begun_s) * 1000,
            gate_ms=self._gate_ms,
        )

    def _must_end(self) -> bool:
        return self._draining or self._halted.is_set()

    def _ending(self) -> _Ending:
        if self._gone is not None:
            return _Ending("board_lost", self._gone)
        if self._draining:
            return _Ending("drain")
        return _Ending("cancelled") if self._halted.is_set() else _Ending()

    def _on_running(self, measurement_id: int | None) -> None:
        self._spool.note_running(measurement_id)
        if measurement_id is not None:
            self._lab.reports.note(self._grant.lease_token, measurement_id)

    def _fail(self, items: Sequence[PreparedItem], code: FailureCode, detail: str) -> None:
        self._results += [
            MeasurementResult(measurement_id=item.measurement_id, outcome="failed", failure=code, detail=detail[:300])
            for item in items
        ]


def _after(fault: Exception) -> _Ending:
    return _Ending("error", plain_text(f"a fault of the agent: {fault!r}"))


async def settle_leftover(farm: FarmClient, left: LeaseSpool, release: ReleaseRequest, *, patience_s: float) -> None:
    """Sends what is left of a lease, blames what ran when the agent was killed, gives the board back as `release` says.

    Raises BenchfarmError when the farm is away; the leftover then stays.
    """
    running = left.running()
    if running is not None and running not in left.known_ids():
        left.add([_was_running(running)], ())
        left.note_settled()
    try:
        await left.deliver(farm, patience_s=patience_s)
    except LeaseLost:
        left.drop()
    try:
        await farm.release(left.lease_token, release, patience_s=patience_s)
    except (LeaseLost, NotFound):
        logger.info("a lease that something was owed for had ended already")
    left.close()


def _was_running(measurement_id: int) -> MeasurementResult:
    return MeasurementResult(
        measurement_id=measurement_id,
        outcome="failed",
        failure=FailureCode.BOARD_LOST,
        detail="the agent was killed while this was prepared or ran",
    )
