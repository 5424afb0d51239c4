"""Waits for offers to idle boards and works on the leases that come of them."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Final

from benchfarm_agent import VERSION
from benchfarm_agent.ailments import DRIFTED
from benchfarm_agent.board_watch import BoardWatch, PresentBoard
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import NotConnected
from benchfarm_agent.gate_waits import GateWaits
from benchfarm_agent.journal import Journal
from benchfarm_agent.leases import Lab, LeaseWork, NextLease
from benchfarm_agent.pauses import Pauses
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import (
    PROTOCOL_VERSION,
    LeaseGrant,
    Offer,
    PollAnswer,
    PollRequest,
    RecoveryReport,
    RegisterAnswer,
    RegisterBoards,
)
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.boards import BoardName
from benchfarm_core.errors import BenchfarmError, Forbidden, Unauthenticated, Unavailable, UpgradeRequired

logger = logging.getLogger(__name__)

ACCEPT_DRAIN_S: Final = 2.0
"""How long an answer to `accept` is awaited after SIGTERM."""
FATAL: Final = (Unauthenticated, Forbidden, UpgradeRequired)
"""Answers that no repetition changes: the agent stops and says what to do."""
CONTESTED: Final = (
    "another agent drives a board of this one: stop one of them; `benchfarm boards release ...` puts it back to use"
)
AWAY: Final = "the board is away"
BEGIN_S: Final = 1.0
"""How long a lab without fixed boards waits for its first one, which the farm would else hold to be gone."""
LEAVE_S: Final = 2.0
"""How long a drained agent waits for the farm to hear that it is gone."""
HAND_IN_S: Final = 1.0
"""How long the farm is not told of a board that has gone while its lease hands in what it found."""
HAND_IN_LOOK_S: Final = 0.02
LISTED_WITHIN_S: Final = 5.0
"""How long a lease that came with the end of another is not named in a poll, in which the farm tells at once that one
has ended: a poll of its own for each would cost as much as the offer did."""


class OfferDesk:
    """One long poll for all boards of an agent, one task per lease.

    It polls while every board is busy too: the farm hears that the agent lives, and the agent at once which leases
    have ended. Boards come and go meanwhile: each change is told to the farm at once, one registration at a time.
    """

    def __init__(self, lab: Lab, watch: BoardWatch) -> None:
        self._lab = lab
        self._watch = watch
        self._by_id: dict[str, Board] = {}  # as the farm was last told
        self._idle: set[str] = set()
        self._busy: dict[str, tuple[str, LeaseWork | None]] = {}  # by lease: the board's name, the work once granted
        self._changed = asyncio.Event()
        self._stale = asyncio.Event()  # the farm is to be told anew
        self._live: dict[str, None] = {}  # leases from their offer on, less those that the farm said have ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: set[asyncio.Task[LeaseGrant]] = set()
        self._named: tuple[PresentBoard, ...] | None = None  # what the farm was last told, None when it forgot
        self._has_registered = False
        self._draining = False
        self._listing: asyncio.TimerHandle | None = None  # when the next poll names leases that this one does not
        self._pauses = Pauses()
        self._waits = GateWaits(self._changed.set)
        self._told: dict[str, dict[str, str]] = {}  # what the log last said of each board
        self._disowned: dict[str, Pauses] = {}  # boards that the farm did not know when it was last asked for offers
        self._resting: dict[str, asyncio.TimerHandle | None] = {}  # of them those not to ask for before they are named
        self.settled = asyncio.Event()
        """Set once the boards that are always there have been named."""
        watch.on_change = self._on_boards
        watch.on_recovery = self._on_recovery
        watch.is_at_work = self._is_at_work

    async def begin(self) -> None:
        """Names the boards that are there first to the farm, for as long as that takes: an agent waits for its farm.

        The first registration tells the farm that an earlier process is gone, so what that one owes must have been
        handed over before. Raises what no repetition changes.
        """
        until_s = boottime_s() + BEGIN_S
        while not self._watch.present() and (not self._watch.is_settled or boottime_s() < until_s):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stale.wait(), timeout=max(0.0, until_s - boottime_s()) or None)
            self._stale.clear()
        await self._register_patiently()

    async def _register_patiently(self) -> None:
        while not self._draining:
            try:
                return await self._register()
            except NotConnected:
                pass
            except Unavailable as error:
                logger.warning("could not register, trying again: %s", error.detail)
            await asyncio.sleep(self._pauses.next_s())
        return None

    async def _register(self) -> None:
        """Tells the farm which boards are there now."""
        present = self._watch.present()
        request = RegisterBoards(
            protocol_version=PROTOCOL_VERSION,
            process_started=not self._has_registered,
            agent_version=VERSION,
            boards=tuple(one.report for one in present),
        )
        is_settled = self._watch.is_settled
        answer = await self._lab.farm.register(request)
        self._has_registered = True
        self._named = present
        self._resting = {board_id: timer for board_id, timer in self._resting.items() if timer is not None}
        self._pauses.reset()
        self._note([one.board for one in present], answer)
        self._changed.set()
        self._watch.tell_untold()
        if is_settled:
            self.settled.set()

    def _note(self, boards: Sequence[Board], answer: RegisterAnswer) -> None:
        """Boards that are not at work are idle. The log hears of a board again when its standing changed."""
        self._by_id = {one.board_id: board for board, one in zip(boards, answer.boards, strict=True)}
        at_work = {name for name, _ in self._busy.values()}
        self._idle = {id_ for id_, board in self._by_id.items() if board.name not in at_work and self._is_there(board)}
        for board, registered in zip(boards, answer.boards, strict=True):
            facts = {"board_id": registered.board_id, "health": str(registered.health), "why": registered.reason}
            if facts != self._told.get(board.name):
                logger.info("board %s registered", board.name, extra=facts)
            self._told[board.name] = facts

    def _is_there(self, board: Board) -> bool:
        return any(one.board is board for one in self._watch.present())

    def _on_boards(self) -> None:
        """The set of boards has changed: leases on those that are gone end, and the farm is told."""
        there = {one.board.name for one in self._watch.present()}
        for name, work in self._busy.values():
            if name not in there and work is not None:
                work.lose_board(AWAY)
        self._idle = {id_ for id_ in self._idle if self._is_there(self._by_id[id_])}
        self._stale.set()
        self._changed.set()

    def _on_recovery(self, board: BoardName, step: RecoveryStep, detail: str) -> None:
        """Something was done for a board that stays away: the farm is told for its history."""
        told = RecoveryReport(report_id=secrets.token_hex(16), board=board, step=step, detail=detail[:200])
        task = asyncio.create_task(self._tell(told))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, report: RecoveryReport) -> None:
        try:
            await self._lab.farm.report_recovery(report)
        except BenchfarmError as error:
            logger.warning("the farm was not told of a recovery: %s", error.detail)

    async def _keep_registered(self) -> None:
        """Tells the farm of each change, one registration at a time, for as long as it takes. Raises FATAL."""
        while not self._draining:
            self._stale.clear()
            if self._named != self._watch.present() or self._watch.is_settled != self.settled.is_set():
                await self._hand_in_first()
                await self._register_leniently()
            if not self._stale.is_set():
                await self._stale.wait()

    async def _register_leniently(self) -> None:
        """What the farm refuses it refuses again: the next change may mend it, and the boards it knows go on."""
        try:
            await self._register_patiently()
        except FATAL:
            raise
        except BenchfarmError as error:
            logger.error("the farm refuses the boards: %s", error.detail)

    async def _hand_in_first(self) -> None:
        """The farm ends the leases of boards that are gone: what they found counts only when it comes before."""
        there = {one.board.name for one in self._watch.present()}
        until_s = boottime_s() + HAND_IN_S
        while any(name not in there for name, _ in self._busy.values()) and boottime_s() < until_s:  # noqa: ASYNC110  (it may take too long)
            await asyncio.sleep(HAND_IN_LOOK_S)

    async def run(self) -> None:
        """Polls until drained; then every lease has ended. Raises what no repetition changes."""
        registrar = asyncio.create_task(self._keep_registered())
        registrar.add_done_callback(lambda _: self._changed.set())
        try:
            while not self._draining:
                await self._poll()
                if registrar.done():
                    registrar.result()
        finally:
            self.drain()
            registrar.cancel()
            await asyncio.gather(registrar, *self._tasks, return_exceptions=True)

    def drain(self) -> None:
        """Takes no offer any more and lets the leases in progress end early. Harmless to repeat."""
        if not self._draining:
            self._draining = True
            self._changed.set()
            for timer in (*self._resting.values(), self._listing):
                if timer is not None:
                    timer.cancel()
            for _, work in self._busy.values():
                if work is not None:
                    work.drain()
            asyncio.get_running_loop().call_later(ACCEPT_DRAIN_S, self._accept_nothing_more)

    async def leave(self) -> None:
        """Tells the farm, after `run`, that this agent drives nothing any more: another one may have its boards now.

        While something of a lease is still owed the farm hears nothing: it would end that lease at once. Nor does it
        while a board is not as it was found: the next start of this agent puts it back, and nobody is to measure then.
        That start cannot put back a board whose address another one has: such a board keeps nobody waiting.
        """
        unsettled = Journal(StateDir(self._lab.settings.state_dir).journal).unsettled()
        if self._lab.spool.leftovers() or not self._watch.displaced.issuperset(unsettled):
            return
        request = RegisterBoards(protocol_version=PROTOCOL_VERSION, agent_version=VERSION, boards=())
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._lab.farm.register(request)
        except (BenchfarmError, TimeoutError) as error:
            logger.warning("the farm was not told that this agent has drained: %r", error)

    def _accept_nothing_more(self) -> None:
        for task in self._accepting:
            task.cancel()

    def lease_tokens(self) -> frozenset[str]:
        """Leases in progress."""
        return frozenset(token for token, (_, work) in self._busy.items() if work is not None)

    async def _poll(self) -> None:
        self._changed.clear()
        idle = sorted(id_ for id_ in self._idle.difference(self._resting) if not self._is_held_back(id_))
        answer = await self._answer_or_change(idle)
        if answer is None:
            return
        for token in answer.ended_leases:
            self._lose(token)
        for offer in answer.offers:  # at once: an offer runs out while boards are named anew
            self._take(offer)
        self._doubt(answer.drifted_boards)
        await self._regain(idle, answer.unknown_boards)

    def _doubt(self, board_ids: Sequence[str]) -> None:
        """The farm saw these boards drift: they rest if something would be done for them, those at work after their
        lease, with whose end none comes any more."""
        for board_id in self._by_id.keys() & set(board_ids):
            board = self._by_id[board_id]
            if self._is_there(board):
                self._watch.ailments.doubt(self._watch.label_of(board), DRIFTED)
            if board_id in self._idle:
                self._watch.rest(board)

    def _lose(self, token: str) -> None:
        """Stops a lease. It is named to the farm no longer, whose answer to the next poll would come at once."""
        self._live.pop(token, None)
        _, work = self._busy.get(token, ("", None))
        if work is not None:
            work.lose()

    async def _answer_or_change(self, idle: Sequence[str]) -> PollAnswer | None:
        """The answer to one poll; None when it failed or the set of idle boards changed meanwhile.

        An offer that an abandoned poll would have brought waits at the farm for the next one.
        """
        request = PollRequest(
            protocol_version=PROTOCOL_VERSION,
            agent_version=VERSION,
            idle=tuple(idle),
            leases=tuple(self._live),
            wait_s=self._lab.settings.poll_wait_s,
            waits=self._waits.told(self._by_id),
        )
        poll = asyncio.create_task(self._lab.farm.poll(request))
        change = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait((poll, change), return_when=asyncio.FIRST_COMPLETED)
            return await self._answer(poll) if poll.done() else None
        finally:
            for task in (poll, change):
                task.cancel()
            await asyncio.gather(poll, change, return_exceptions=True)

    async def _answer(self, poll: asyncio.Task[PollAnswer]) -> PollAnswer | None:
        try:
            answer = await poll
        except FATAL:
            raise
        except BenchfarmError as error:
            if not isinstance(error, NotConnected):
                logger.warning("polling failed: %s", error.detail)
            await self._wait_out(self._pauses)
            return None
        self._pauses.reset()
        return answer

    async def _wait_out(self, pauses: Pauses) -> None:
        """Pauses before the next try, unless something changes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout=pauses.next_s())

    async def _regain(self, asked: Sequence[str], unknown: Sequence[str]) -> None:
        """Names boards anew that the farm has forgotten, as after a restore of its database.

        One that it does not know though it was just named belongs to another agent. Until a person has stopped one of
        the two, this one asks for it again after growing pauses, and works on with its other boards.
        """
        for board_id in set(self._disowned).intersection(asked).difference(unknown):
            del self._disowned[board_id]
        for board_id in set(unknown).difference(self._resting):
            pauses = self._disowned.get(board_id)
            if pauses is None:
                self._disowned[board_id] = Pauses()
                self._name_anew(board_id)
            else:
                self._contest(board_id, pauses)
        if unknown and not set(unknown).intersection(asked):  # it answers at once and will again
            await self._wait_out(Pauses())

    def _contest(self, board_id: str, pauses: Pauses) -> None:
        if pauses.is_fresh:
            logger.warning(CONTESTED, extra={"board_id": board_id})
        loop = asyncio.get_running_loop()
        self._resting[board_id] = loop.call_later(pauses.next_s(), self._name_anew, board_id)

    def _name_anew(self, board_id: str) -> None:
        """The next registration is due now; the board is not asked for before it."""
        self._resting[board_id] = None
        self._named = None
        self._stale.set()

    def _take(self, offer: Offer) -> None:
        board = self._by_id.get(offer.board_id)
        if board is None or offer.board_id not in self._idle or self._draining or self._is_held_back(offer.board_id):
            return
        self._idle.discard(offer.board_id)
        self._busy[offer.lease_token] = (board.name, None)
        self._live[offer.lease_token] = None
        task = asyncio.create_task(self._guarded(board, offer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, board: Board, offer: Offer) -> None:
        """One lease on one board, and those that follow it. Whatever goes wrong, the agent's other boards go on."""
        tokens = [offer.lease_token]
        try:
            await self._work(board, offer, tokens)
        except BenchfarmError as error:
            logger.warning("a lease ended with an error: %s", error.detail, extra={"board_id": offer.board_id})
        except Exception:  # boundary: one board's fault must not end the agent
            logger.exception("a lease ended with a fault of the agent", extra={"board_id": offer.board_id})
        finally:
            for token in tokens:
                self._busy.pop(token, None)
                self._live.pop(token, None)
            self._watch.rest(board)
            now = self._by_id.get(offer.board_id)
            if now is not None and self._is_there(now):
                self._idle.add(offer.board_id)
            self._changed.set()

    async def _work(self, board: Board, offer: Offer, tokens: list[str]) -> None:
        """Works on a lease and on each that comes with the end of the last; `tokens` are those that are in progress."""
        asked_s = boottime_s()
        now: NextLease | None = NextLease(await self._accept(offer), asked_s)
        while now is not None:
            work = self._begin(board, now, tokens)
            reason = await work.run()
            measurements, wall_s = len(now.grant.items), boottime_s() - now.asked_s
            facts = {"board_id": offer.board_id, "measurements": measurements, "wall_s": wall_s}
            if reason == "done":
                self._watch.ailments.note_lease(self._watch.label_of(board), work.ailment())
            if work.has_drifted and self._is_there(board):
                self._watch.ailments.doubt(self._watch.label_of(board), DRIFTED)
            logger.info("lease ended: %s", reason, extra=facts)
            now = work.next

    def _begin(self, board: Board, lease: NextLease, tokens: list[str]) -> LeaseWork:
        """The work on a lease, which takes the place of the last one on its board at once: that is never idle."""
        token = lease.grant.lease_token
        on_gate = partial(self._waits.looked, board.name)
        work = LeaseWork(
            self._lab, board, lease.grant, asked_s=lease.asked_s, on_gate=on_gate, goes_on=lambda: self._goes_on(board)
        )
        self._busy[token] = (board.name, work)
        if token not in self._live:
            self._live[token] = None
            self._list_soon()
        for old in [one for one in tokens if one != token]:
            self._busy.pop(old, None)
            self._live.pop(old, None)
        tokens[:] = [token]
        if self._draining:
            work.drain()
        if not self._is_there(board):  # it went while the farm was asked
            work.lose_board(AWAY)
        return work

    def _goes_on(self, board: Board) -> bool:
        """Whether a board takes the next lease as soon as one has ended."""
        is_doubted = self._watch.ailments.why(self._watch.label_of(board)) is not None
        return not self._draining and self._is_there(board) and not is_doubted

    def _is_held_back(self, board_id: str) -> bool:
        return self._watch.is_held_back(self._by_id[board_id])

    def _is_at_work(self, board: Board) -> bool:
        return any(name == board.name for name, _ in self._busy.values())

    def _list_soon(self) -> None:
        if self._listing is None and not self._draining:
            self._listing = asyncio.get_running_loop().call_later(LISTED_WITHIN_S, self._list)

    def _list(self) -> None:
        self._listing = None
        self._changed.set()

    async def _accept(self, offer: Offer) -> LeaseGrant:
        accept = self._lab.farm.accept(offer.lease_token, patience_s=offer.expires_in_s)
        task = asyncio.create_task(accept)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return await task
