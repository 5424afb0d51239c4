"""The boards that an agent drives now: they come and go, and none waits for another.

A *way* leads to one board that may be there or not: this host, a phone's serial, an SSH host. Each is followed by a
task of its own: it opens the board, puts back what the journal says, asks it what it is, offers it until it is gone.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from benchfarm_agent.ailments import Ailments
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.pauses import Pauses
from benchfarm_agent.ports.interface import BoardUnreachable, HostKeyChanged, HostKeyUnknown, KeyRefused
from benchfarm_agent.standings import Standing
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.boards import BoardName, BoardReport
from benchfarm_core.errors import BenchfarmError

logger = logging.getLogger(__name__)

OPEN_S: Final = 20.0
RESTORE_S: Final = 20.0
DESCRIBE_S: Final = 180.0
"""A board may have to be given another runner over a slow line, and each engine may take a while to answer."""
TRY_AGAIN_S: Final = 5.0
AILING: Final = "ailing"
"""The standing of a board that answers and cannot measure, while something is done for it."""
RENEWED: Final = "it tells something else of itself"
"""Not why a board is gone: it is there, and to be described anew."""
RECOVERED_WITHIN_S: Final = 60.0
GOING_S: Final = 10.0
"""How long a board that was told to reboot may still answer."""
DOOR_CLOSED: Final = (HostKeyUnknown, HostKeyChanged, KeyRefused)
"""A board that cannot be reached although it answers."""


@dataclass(frozen=True)
class PresentBoard:
    """A board that is there and in order."""

    board: Board
    report: BoardReport


class Way(Protocol):
    """A way to one board."""

    @property
    def label(self) -> str:
        """Names it for people: `local`, a serial, an SSH host's name."""

    @property
    def is_fixed(self) -> bool:
        """Whether the agent's start waits for it."""

    async def open(self) -> Board:
        """The board at its end. Raises TransientDeviceError when there is none now, PermanentDeviceError when never."""

    async def gone(self, board: Board) -> str:
        """Returns why once the board is away, or is another than it was; `RENEWED` where it is there and tells more."""

    async def close(self) -> None:
        """Lets go of whatever reaches the board. It is not opened again."""


class Source(Protocol):
    """Where ways are found; those that are not board's ways now it tells as standings."""

    async def follow(self, watch: "BoardWatch") -> None:
        """Adds and removes ways of the watch until cancelled."""


class BoardWatch:
    """The set of boards that are there and in order, kept up to date while it is open.

    `on_change` is called after each change of the set, `on_note` when something else is known of a board; what they
    do must be short.
    """

    def __init__(
        self, ways: Iterable[Way] = (), sources: Iterable[Source] = (), *, recovery: Source | None = None
    ) -> None:
        """recovery: what reaches into boards that stay away; it ends before boards are put back, the sources after."""
        self._fixed = tuple(ways)
        self._sources = tuple(sources)
        self._recovery = recovery
        self._recovering: list[asyncio.Task[None]] = []
        self._held_back: list[str] = []  # kinds, once for each that holds them
        self._ways: dict[str, Way] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._following: list[asyncio.Task[None]] = []
        self._present: dict[str, PresentBoard] = {}
        self._untried: set[str] = {way.label for way in self._fixed if way.is_fixed}
        self._standings: dict[str, Standing] = {}
        self._is_closed = False
        self._reports: dict[str, BoardReport] = {}
        self._faults: dict[str, Exception] = {}
        self._rests: dict[str, _Rest] = {}
        self.ailments = Ailments()
        self.is_at_work: Callable[[Board], bool] = lambda _: False
        """Whether a lease is in progress on a board."""
        self.displaced: set[str] = set()
        """Boards, as the journal calls them, that are changed still while others answer at their addresses."""
        self.on_fault: Callable[[str, BenchfarmError], None] = lambda *_: None
        """Told why a way, by its name, did not lead to a board."""
        self.on_put_back: Callable[[str, Board], None] = lambda *_: None
        """Told of each board that answers at the end of a way, by the way's name, once it is as it was found."""
        self.on_change: Callable[[], None] = lambda: None
        self.on_note: Callable[[], None] = lambda: None
        self._untold: list[tuple[BoardName, RecoveryStep, str]] = []
        self._may_tell = False
        self.on_recovery: Callable[[BoardName, RecoveryStep, str], None] = lambda *_: None
        """Told what was done for a board that stayed away, and why that did not go; empty where it went."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["BoardWatch"]:
        """Watches while the context is open. What was changed on boards is put back before it ends."""
        try:
            for way in self._fixed:
                self.add(way)
            self._following = [asyncio.create_task(self._guarded(source)) for source in self._sources]
            if self._recovery is not None:
                self._recovering = [asyncio.create_task(self._guarded(self._recovery))]
            yield self
        finally:
            await self._close()

    def present(self) -> tuple[PresentBoard, ...]:
        """The boards that are there, in the order of their names."""
        return tuple(self._present[label] for label in sorted(self._present))

    @property
    def is_closing(self) -> bool:
        """Whether boards are put back for the last time: nobody is to reach into that."""
        return self._is_closed

    @property
    def is_settled(self) -> bool:
        """Whether every fixed way has been tried."""
        return not self._untried

    def standings(self) -> tuple[Standing, ...]:
        """Everything that the agent sees, boards that cannot be used too."""
        return tuple(self._standings[label] for label in sorted(self._standings))

    def add(self, way: Way) -> None:
        """Follows a way from now on; one that is followed already goes on."""
        if way.label not in self._tasks and not self._is_closed:
            self._ways[way.label] = way
            self._tasks[way.label] = asyncio.create_task(self._follow(way))

    def remove(self, label: str, why: str) -> None:
        """The way is no more: its board, if it has one, is gone at once."""
        self._faults.pop(label, None)
        self.ailments.forget(label)
        self._leave(label, why)
        if label in self._standings and self._standings[label].state == AILING:
            self.note(label, "gone", why)  # as if it had been there: it is missed
        if (task := self._tasks.pop(label, None)) is not None:
            task.cancel()

    def renew(self, board: Board, report: BoardReport) -> None:
        """A board that is there tells something else of itself now; of one that has gone it is no news."""
        for label, present in self._present.items():
            if present.board is board and present.report != report:
                self._present[label] = PresentBoard(board, report)
                self.on_change()

    def label_of(self, board: Board) -> str:
        """The way that leads to a board that is there; empty for one that is not."""
        return next((label for label, present in self._present.items() if present.board is board), "")

    def rest(self, board: Board) -> None:
        """Has a board rest that `ailments` doubt: it is not there any more, until something was done for it.

        Harmless for any other. To be called while no lease is in progress on it.
        """
        label = self.label_of(board)
        why = self.ailments.why(label)
        if why is not None and label in self._rests:
            self._leave(label, why)
            self.note(label, AILING, why)
            self._rests[label].asked.set()

    def hold_back(self, kind: str) -> Callable[[], None]:
        """Boards of a kind take no offer from now on until what this returns is called; leases in progress go on."""
        self._held_back.append(kind)
        self.on_change()

        def let_go() -> None:
            self._held_back.remove(kind)
            self.on_change()

        return let_go

    def is_held_back(self, board: Board) -> bool:
        """Whether a board that is there takes no offer now."""
        return any(one.board is board and one.report.kind in self._held_back for one in self._present.values())

    def recovered(self, label: str) -> None:
        """What could be done for a board that rests was done. Harmless for any other, also one that will rest later."""
        if (rest := self._rests.get(label)) is not None and rest.asked.is_set():
            rest.over.set()

    def labels(self) -> frozenset[str]:
        """The ways that are followed."""
        return frozenset(self._tasks)

    def way(self, label: str) -> Way | None:
        """The latest way of this name, followed now or not."""
        return self._ways.get(label)

    def was_there(self, label: str) -> bool:
        """Whether a board was ever ready at the end of this way."""
        return label in self._reports

    def is_unreachable(self, label: str) -> bool:
        """Whether nobody answered at the end of this way when it was last tried."""
        return isinstance(fault := self._faults.get(label), BoardUnreachable) and not isinstance(fault, DOOR_CLOSED)

    def answers(self, label: str) -> bool:
        """Whether somebody did answer then, but not as a board of ours does: no key fits, no room, no runner for it."""
        fault = self._faults.get(label)
        return isinstance(fault, DOOR_CLOSED) or (
            isinstance(fault, BenchfarmError) and not isinstance(fault, BoardUnreachable)
        )

    def tell_recovery(self, label: str, step: RecoveryStep, detail: str) -> None:
        """Something was done for a board that stayed away. Of one that was never there only the log knows."""
        if (report := self._reports.get(label)) is not None:
            board = BoardName(kind=report.kind, serial=report.serial, hardware_id=report.hardware_id)
            self.on_recovery(board, step, detail)

    def tell_put_back(self, board: BoardName, why_not: str) -> None:
        """A board that is not one of these now is changed still, and why; empty where it was put back after all.

        It waits for the first `tell_untold`: this is found out before anybody can be told.
        """
        self._untold.append((board, RecoveryStep.PUT_BACK, why_not))
        if self._may_tell:
            self.tell_untold()

    def tell_untold(self) -> None:
        """The farm can be told from now on."""
        self._may_tell = True
        untold, self._untold = self._untold, []
        for one in untold:
            self.on_recovery(*one)

    def note(self, label: str, state: str, detail: str = "", advice: str = "") -> None:
        """What the agent knows of a way; the log hears of it when it is news."""
        known = self._standings.get(label)
        if known is not None and (known.state, known.detail) == (state, detail):
            return
        since_unix_s = time.time()
        self._standings[label] = Standing(
            label=label, state=state, detail=detail, advice=advice, since_unix_s=since_unix_s
        )
        # of a board that is ready the log hears when it is registered
        level = {"opening": logging.DEBUG, "ready": logging.DEBUG, "gone": logging.INFO}.get(state, logging.WARNING)
        logger.log(level, "board %s is %s", label, state, extra={"why": detail, "advice": advice})
        self.on_note()

    def unnote(self, label: str) -> None:
        """Nothing is to be told of a label any more. Harmless for one that is not known."""
        if self._standings.pop(label, None) is not None:
            self.on_note()

    async def _guarded(self, source: Source) -> None:
        """A source that fails by a fault of the agent is taken up again: its boards are of no use without."""
        pauses = Pauses()
        while True:
            try:
                await source.follow(self)
            except (BenchfarmError, OSError) as error:
                logger.warning("boards cannot be looked for: %s", error)
            except Exception:  # boundary: one kind's fault must not end the others
                logger.exception("boards cannot be looked for: a fault of the agent")
            await asyncio.sleep(pauses.next_s())

    async def _follow(self, way: Way) -> None:
        pauses = Pauses()
        while True:
            try:
                await self._once(way, pauses)
                self._faults.pop(way.label, None)
            except BenchfarmError as error:
                self._faults[way.label] = error
                self.note(way.label, "away" if error.code == "device_transient" else "refused", error.detail)
                self.on_fault(way.label, error)
            except TimeoutError as error:
                self._faults[way.label] = error
                self.note(way.label, "away", "it did not answer in time")
            except Exception as fault:  # boundary: one board's fault must not end the others
                logger.exception("board %s: a fault of the agent", way.label)
                self.note(way.label, "refused", f"a fault of the agent: {fault!r}"[:300])
            finally:
                self._tried(way.label)
            await asyncio.sleep(pauses.next_s())

    async def _once(self, way: Way, pauses: Pauses) -> None:
        """One time that a board is there: from its opening until it is gone."""
        if way.label not in self._standings:
            self.note(way.label, "opening")
        async with asyncio.timeout(OPEN_S):
            board = await way.open()
        async with asyncio.timeout(RESTORE_S):
            await board.restore()
        self.on_put_back(way.label, board)
        async with asyncio.timeout(DESCRIBE_S):
            report = await board.describe()
        other = self._twin(way.label, report)
        if other is not None:
            detail = f"it has the serial of {other}, which is driven already"
            self.note(way.label, "contested", detail, "unplug one of them, or name one way to it only")
            await asyncio.sleep(TRY_AGAIN_S)
            return
        pauses.reset()
        self._faults.pop(way.label, None)
        self.ailments.come_back(way.label)
        self._present[way.label] = PresentBoard(board, report)
        self._reports[way.label] = report
        self._untried.discard(way.label)
        self.note(way.label, "ready", report.model_name)
        self.on_change()
        why = "it is not watched any more"
        rest = self._rests[way.label] = _Rest()
        try:
            why = await self._until_gone(way, board, rest)
        finally:
            now = self._present.get(way.label)
            if now is not None and now.board is board:  # else it was removed, and may be back already
                self._leave(way.label, why)
        if rest.asked.is_set():
            await self._rested(way.label, rest)

    async def _until_gone(self, way: Way, board: Board, rest: "_Rest") -> str:
        """Why a board is away; what it tells anew of itself before is taken over while it is there."""
        while (why := await _gone_or_resting(way, board, rest)) == RENEWED:
            async with asyncio.timeout(DESCRIBE_S):
                self.renew(board, await board.describe())
        return why

    async def _rested(self, label: str, rest: "_Rest") -> None:
        """Waits until something was done for a board, or nobody does anything; then it begins anew."""
        try:
            async with asyncio.timeout(RECOVERED_WITHIN_S):
                await rest.over.wait()
            await asyncio.sleep(GOING_S)
        except TimeoutError:
            logger.warning("board %s: nothing was done for it", label)
        self.ailments.forget(label)

    def _twin(self, label: str, report: BoardReport) -> str | None:
        """Another way to the same board. A way to this host by another road is lawful where it is marked as one."""
        for other, present in self._present.items():
            marks = {*report.marks, *present.report.marks}
            is_apart = "shared_host" in marks and present.report.kind != report.kind
            if other != label and present.report.serial == report.serial and not is_apart:
                return other
        return None

    def _leave(self, label: str, why: str) -> None:
        if self._present.pop(label, None) is not None:
            self.note(label, "gone", why)
            self.on_change()

    def _tried(self, label: str) -> None:
        if label in self._untried:
            self._untried.discard(label)
            self.on_change()

    async def _close(self) -> None:
        """Boards are put back while whatever reaches them is still there."""
        self._is_closed = True
        await _ended(self._recovering)
        boards = [present.board for present in self._present.values()]
        self._present.clear()
        self.on_change = lambda: None
        await _ended(self._tasks.values())
        await asyncio.gather(*(put_back(board) for board in boards))
        await _ended(self._following)
        await asyncio.gather(*(way.close() for way in self._ways.values()), return_exceptions=True)


@dataclass
class _Rest:
    """Whether a board is to rest, and whether that is over."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


async def _gone_or_resting(way: Way, board: Board, rest: _Rest) -> str:
    """Why a board is away, or why it was not there any more when it was to rest: that was told already."""
    gone, asked = asyncio.ensure_future(way.gone(board)), asyncio.ensure_future(rest.asked.wait())
    try:
        await asyncio.wait((gone, asked), return_when=asyncio.FIRST_COMPLETED)
        return gone.result() if gone.done() else AILING
    finally:
        gone.cancel()
        asked.cancel()
        await asyncio.gather(gone, asked, return_exceptions=True)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def put_back(board: Board) -> None:
    """Restores a board at the agent's end; what fails is in the journal for the next start."""
    try:
        async with asyncio.timeout(RESTORE_S):
            await board.restore()
    except (BenchfarmError, TimeoutError, OSError) as error:
        logger.warning("board %s is put back by the next start: %s", board.name, error)


class FixedWay:
    """A board that is always there, such as this host."""

    is_fixed = True

    def __init__(self, board: Board) -> None:
        self._board = board

    @property
    def label(self) -> str:
        return self._board.name

    async def open(self) -> Board:
        """The board."""
        return self._board

    async def gone(self, board: Board) -> str:
        """Never."""
        del board
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        """Nothing reaches it but this process."""


def watch_of(boards: Sequence[Board]) -> BoardWatch:
    """Boards that are always there."""
    return BoardWatch([FixedWay(board) for board in boards])
