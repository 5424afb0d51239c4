"""What an agent tells of its leases while they run: one request for all of them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.keeper import LeaseKeeper
from benchfarm_core.agent_protocol import LeaseReport, ReportsAnswer, ReportsRequest
from benchfarm_core.errors import BenchfarmError, Unavailable

logger = logging.getLogger(__name__)

OVER_S: Final = 2.0
"""How long the last report of a lease may hold up its results."""


@dataclass
class _Told:
    """One lease: visits that have begun since its last report, in order, and what it waited at its gate; `alone`: it
    has a single measurement."""

    keeper: LeaseKeeper
    on_lost: Callable[[], None]
    alone: bool
    waiting: dict[int, None] = field(default_factory=dict)
    has_noted: bool = False
    is_over: bool = False
    gate_ms: float = 0.0


class Reports:
    """Tells the farm which measurements run, at most once in `every_s`, without holding up any runner.

    A report that did not get through is sent again with what is new since, so that the farm knows what ran last.

    On a lost lease the last one named pays an attempt, so every visit of every launch is noted. The spool's own note
    is written first and is exact: it blames one measurement when the agent comes back. What the farm knows when the
    agent never does is at most so old: waiting for an answer before each visit would be exact, but would put a round
    trip into every gap. A measurement that has lost two boards runs in a lease of its own, whose visits are reported
    at once: there it is named for certain. A lease whose renewal is due soon is renewed by the same request.
    """

    def __init__(self, farm: FarmClient, *, every_s: float) -> None:
        self._farm = farm
        self._every_s = every_s
        self._leases: dict[str, _Told] = {}
        self._next_s = 0.0
        self._something = asyncio.Event()
        self._at_once = asyncio.Event()
        self._has_failed = False
        self._sending = asyncio.Lock()  # a report that overtakes another would name what has finished
        self._task: asyncio.Task[None] | None = None

    def join(self, lease_token: str, keeper: LeaseKeeper, *, on_lost: Callable[[], None], alone: bool) -> None:
        """A lease has begun. `on_lost`: called where an answer says that the farm holds it no more."""
        self._leases[lease_token] = _Told(keeper, on_lost, alone)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def leave(self, lease_token: str) -> None:
        """A lease has ended: nothing is said of it any more."""
        self._leases.pop(lease_token, None)
        if not self._leases and self._task is not None:
            self._task.cancel()
            self._task = None

    def note(self, lease_token: str, measurement_id: int) -> None:
        """A visit has begun."""
        told = self._leases.get(lease_token)
        if told is None:
            return
        told.waiting.pop(measurement_id, None)
        told.waiting[measurement_id] = None
        told.has_noted = True
        self._something.set()
        if told.alone:
            self._at_once.set()

    def waited(self, lease_token: str, gate_ms: float) -> None:
        """A lease got through its gate. That it waited there is told with its visits."""
        told = self._leases.get(lease_token)
        if told is not None:
            told.gate_ms = gate_ms

    async def over(self, lease_token: str) -> None:
        """Says that nothing of a lease runs any more. Tried once and for a short time: the results are waiting."""
        told = self._leases.get(lease_token)
        if told is None or not told.has_noted:
            return
        told.is_over = True
        try:
            async with asyncio.timeout(OVER_S):
                await self._send()
        except TimeoutError:
            logger.warning("could not report in time that nothing runs any more")

    async def _run(self) -> None:
        """Reports until cancelled."""
        while True:
            await self._something.wait()
            left_s = self._next_s - boottime_s()
            if left_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._at_once.wait(), timeout=left_s)
            try:
                await self._send()
            except Exception:  # boundary: a report that nobody has foreseen must not be the last
                logger.exception("a report could not be made")

    async def _send(self) -> None:
        async with self._sending:
            reports = [report for token, told in self._leases.items() if (report := _report_of(token, told))]
            self._something.clear()
            self._at_once.clear()
            if not reports:
                return
            self._next_s = boottime_s() + self._every_s
            asked_s = boottime_s()
            answer = await self._answer(reports)
            if answer is not None:
                self._take(asked_s, answer)

    async def _answer(self, reports: Sequence[LeaseReport]) -> ReportsAnswer | None:
        """What the farm says to some reports; None where it did not get them. What it refuses it would refuse again."""
        try:
            answer = await self._farm.report(ReportsRequest(leases=tuple(reports)))
        except asyncio.CancelledError:
            self._put_back(reports)
            raise
        except BenchfarmError as error:
            if isinstance(error, Unavailable):
                self._put_back(reports)
            if not self._has_failed:
                logger.warning("could not report what runs: %s", error.detail)
            self._has_failed = True
            return None
        self._has_failed = False
        return answer

    def _put_back(self, reports: Sequence[LeaseReport]) -> None:
        """Reports that may not have arrived go with the next one, before what is new since."""
        for one in reports:
            told = self._leases.get(one.lease_token)
            if told is not None:
                told.is_over = told.is_over or (one.over and not told.waiting)
                told.waiting = {id_: None for id_ in one.measurement_ids if id_ not in told.waiting} | told.waiting
                self._something.set()

    def _take(self, asked_s: float, answer: ReportsAnswer) -> None:
        times = {"expires_in_s": answer.expires_in_s, "renew_in_s": answer.renew_in_s}
        for renewed in answer.renewed:
            told = self._leases.get(renewed.lease_token)
            if told is not None:
                told.keeper.renewed(asked_s, **times, cancelled=renewed.cancelled)
        for token in answer.lost:
            told = self._leases.get(token)
            if told is not None:
                told.on_lost()


def _report_of(lease_token: str, told: _Told) -> LeaseReport | None:
    """What is new of a lease, taken out of it; None where nothing is."""
    if not told.waiting and not told.is_over:
        return None
    ids, is_over = tuple(told.waiting), told.is_over
    told.waiting.clear()
    told.is_over = False
    renew = told.keeper.wants_renewal()
    return LeaseReport(lease_token=lease_token, measurement_ids=ids, over=is_over, renew=renew, gate_ms=told.gate_ms)
