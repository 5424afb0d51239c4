"""Waits for offers to idle boards and works on the leases that come of them."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from benchfarm_agent import VERSION
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import NotConnected
from benchfarm_agent.leases import Lab, LeaseWork
from benchfarm_agent.pauses import Pauses
from benchfarm_core.agent_protocol import (
    PROTOCOL_VERSION,
    LeaseGrant,
    Offer,
    PollAnswer,
    PollRequest,
    RegisterAnswer,
    RegisterBoards,
)
from benchfarm_core.boards import BoardReport
from benchfarm_core.errors import BenchfarmError, Forbidden, Unauthenticated, Unavailable, UpgradeRequired

logger = logging.getLogger(__name__)

ACCEPT_DRAIN_S: Final = 2.0
"""How long an answer to `accept` is awaited after SIGTERM."""
FATAL: Final = (Unauthenticated, Forbidden, UpgradeRequired)
"""Answers that no repetition changes: the agent stops and says what to do."""
CONTESTED: Final = (
    "another agent drives this host's board; stop one of them, then `benchfarm boards release ...` puts it back to use"
)


class OfferDesk:
    """One long poll for all boards of an agent, one task per lease.

    It polls while every board is busy too: the farm hears that the agent lives, and the agent at once which leases
    have ended.
    """

    def __init__(self, lab: Lab, boards: Sequence[Board]) -> None:
        self._lab = lab
        self._boards = tuple(boards)
        self._by_id: dict[str, Board] = {}
        self._idle: set[str] = set()
        self._changed = asyncio.Event()
        self._works: dict[str, LeaseWork] = {}
        self._live: dict[str, None] = {}  # leases from their offer on, less those that the farm said have ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: set[asyncio.Task[LeaseGrant]] = set()
        self._has_registered = False
        self._draining = False
        self._pauses = Pauses()
        self._told: dict[str, dict[str, str]] = {}  # what the log last said of each board
        self._disowned: frozenset[str] = frozenset()  # what the last poll did not know
        self._is_contested = False
        self._contest_pauses = Pauses()

    async def begin(self) -> None:
        """Names all boards to the farm, for as long as that takes: an agent waits for its farm.

        The first registration tells the farm that an earlier process is gone, so what that one owes must have been
        handed over before. Raises what no repetition changes.
        """
        reports = await self._describe()
        while True:
            try:
                return await self._register(reports)
            except NotConnected:
                pass
            except Unavailable as error:
                logger.warning("could not register, trying again: %s", error.detail)
            await asyncio.sleep(self._pauses.next_s())

    async def _describe(self) -> Sequence[BoardReport]:
        return await asyncio.gather(*(board.describe() for board in self._boards))

    async def _register(self, reports: Sequence[BoardReport]) -> None:
        request = RegisterBoards(
            protocol_version=PROTOCOL_VERSION,
            process_started=not self._has_registered,
            agent_version=VERSION,
            boards=tuple(reports),
        )
        answer = await self._lab.farm.register(request)
        self._has_registered = True
        self._pauses.reset()
        self._note(answer)

    def _note(self, answer: RegisterAnswer) -> None:
        """Boards that were not known before are idle. The log hears of a board again when its standing changed."""
        known = set(self._by_id)
        for gone in known.difference(registered.board_id for registered in answer.boards):
            del self._by_id[gone]
            self._idle.discard(gone)
        for board, registered in zip(self._boards, answer.boards, strict=True):
            self._by_id[registered.board_id] = board
            if registered.board_id not in known:
                self._idle.add(registered.board_id)
            facts = {"board_id": registered.board_id, "health": str(registered.health), "why": registered.reason}
            if facts != self._told.get(board.name):
                logger.info("board %s registered", board.name, extra=facts)
            self._told[board.name] = facts

    async def run(self) -> None:
        """Polls until drained; then every lease has ended. Raises what no repetition changes."""
        try:
            while not self._draining:
                await self._poll()
        finally:
            self.drain()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def drain(self) -> None:
        """Takes no offer any more and lets the leases in progress end early. Harmless to repeat."""
        if not self._draining:
            self._draining = True
            self._changed.set()
            for work in self._works.values():
                work.drain()
            asyncio.get_running_loop().call_later(ACCEPT_DRAIN_S, self._accept_nothing_more)

    def _accept_nothing_more(self) -> None:
        for task in self._accepting:
            task.cancel()

    def lease_tokens(self) -> frozenset[str]:
        """Leases in progress."""
        return frozenset(self._works)

    async def _poll(self) -> None:
        self._changed.clear()
        answer = await self._answer_or_change()
        if answer is None:
            return
        for token in answer.ended_leases:
            self._lose(token)
        for offer in answer.offers:  # at once: an offer runs out while boards are named anew
            self._take(offer)
        await self._regain(answer.unknown_boards)

    def _lose(self, token: str) -> None:
        """Stops a lease. It is named to the farm no longer, whose answer to the next poll would come at once."""
        self._live.pop(token, None)
        if token in self._works:
            self._works[token].lose()

    async def _answer_or_change(self) -> PollAnswer | None:
        """The answer to one poll; None when it failed or the set of idle boards changed meanwhile.

        An offer that an abandoned poll would have brought waits at the farm for the next one.
        """
        request = PollRequest(
            protocol_version=PROTOCOL_VERSION,
            agent_version=VERSION,
            idle=tuple(sorted(self._idle)),
            leases=tuple(self._live),
            wait_s=self._lab.settings.poll_wait_s,
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

    async def _regain(self, unknown: Sequence[str]) -> None:
        """Names boards anew that the farm has forgotten, as after a restore of its database.

        One that it does not know though it was just named belongs to another agent. Until a person has stopped one of
        the two, this one asks again after growing pauses.
        """
        contested = sorted(self._disowned.intersection(unknown))
        self._disowned = frozenset()
        if contested:
            if not self._is_contested:
                logger.warning(CONTESTED, extra={"board_ids": contested})
            await self._wait_out(self._contest_pauses)
        else:
            self._contest_pauses.reset()
        self._is_contested = bool(contested)
        if unknown and not self._draining:
            await self._register_again(unknown)

    async def _register_again(self, unknown: Sequence[str]) -> None:
        """One try. What failed leaves the boards idle as they were, so the next poll tells again who is unknown."""
        async with self._lab.quiet:  # engines are probed, which must not run beside a launch
            reports = await self._describe()
        try:
            await self._register(reports)
        except Unavailable as error:
            logger.warning("could not register: %s", error.detail)
            await self._wait_out(self._pauses)
        else:
            self._disowned = frozenset(unknown)

    def _take(self, offer: Offer) -> None:
        board = self._by_id.get(offer.board_id)
        if board is None or offer.board_id not in self._idle or self._draining:
            return
        self._idle.discard(offer.board_id)
        self._live[offer.lease_token] = None
        task = asyncio.create_task(self._guarded(board, offer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, board: Board, offer: Offer) -> None:
        """One lease on one board. Whatever goes wrong on it, the agent and its other boards go on."""
        try:
            await self._work(board, offer)
        except BenchfarmError as error:
            logger.warning("a lease ended with an error: %s", error.detail, extra={"board_id": offer.board_id})
        except Exception:  # boundary: one board's fault must not end the agent
            logger.exception("a lease ended with a fault of the agent", extra={"board_id": offer.board_id})
        finally:
            self._works.pop(offer.lease_token, None)
            self._live.pop(offer.lease_token, None)
            self._idle.add(offer.board_id)
            self._changed.set()

    async def _work(self, board: Board, offer: Offer) -> None:
        asked_s = boottime_s()
        grant = await self._accept(offer)
        work = LeaseWork(self._lab, board, grant, asked_s=asked_s)
        self._works[grant.lease_token] = work
        if self._draining:
            work.drain()
        reason = await work.run()
        facts = {"board_id": offer.board_id, "measurements": len(grant.items), "wall_s": boottime_s() - asked_s}
        logger.info("lease ended: %s", reason, extra=facts)

    async def _accept(self, offer: Offer) -> LeaseGrant:
        accept = self._lab.farm.accept(offer.lease_token, patience_s=offer.expires_in_s)
        task = asyncio.create_task(accept)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return await task
