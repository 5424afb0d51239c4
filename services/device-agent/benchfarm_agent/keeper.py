"""Keeps a lease alive while its board works, and says so when it is lost."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from benchfarm_agent.clock import boottime_s, sleep_until
from benchfarm_agent.farm_client import FarmClient
from benchfarm_core.agent_protocol import RenewAnswer, StartedRequest
from benchfarm_core.errors import BenchfarmError, Unavailable

logger = logging.getLogger(__name__)

MARGIN_SHARE: Final = 0.1
"""The board is stopped this part of the lease's length before it ends: stopping takes time too."""
JITTER_SHARE: Final = 0.2
RETRY_S: Final = 0.5
REPORTS_PER_S: Final = 10.0
"""Of all leases of an agent together: each report is a transaction of the farm."""
OVER_S: Final = 2.0
"""How long the last report of a lease may hold up its results."""


class LeaseKeeper:
    """Renews one lease until it is lost.

    Durations come from the farm and count from the moment the request was sent, so that the lease is never
    believed to live longer than the farm holds it.
    """

    def __init__(
        self,
        farm: FarmClient,
        lease_token: str,
        *,
        on_cancelled: Callable[[Iterable[int]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._farm = farm
        self._lease_token = lease_token
        self._on_cancelled = on_cancelled
        self._on_lost = on_lost
        self._stop_s = 0.0
        self._renew_s = 0.0
        self.lost = False

    def granted(self, asked_s: float, *, expires_in_s: float, renew_in_s: float) -> None:
        """Starts the count anew: the farm answered a request that was sent at `asked_s`."""
        self._stop_s = asked_s + expires_in_s * (1 - MARGIN_SHARE)
        self._renew_s = asked_s + renew_in_s * random.uniform(1 - JITTER_SHARE, 1)

    def left_s(self) -> float:
        """How long the lease may still be used without a renewal."""
        return max(0.0, self._stop_s - boottime_s())

    def lose(self) -> None:
        """The lease is gone, whoever said so. Only the first call counts."""
        if not self.lost:
            self.lost = True
            self._on_lost()

    async def run(self) -> None:
        """Returns when the lease is lost."""
        while not self.lost:
            await sleep_until(self._renew_s)
            asked_s = boottime_s()
            answer = await self._renew()
            if answer is None:
                return self.lose()
            self.granted(asked_s, expires_in_s=answer.expires_in_s, renew_in_s=answer.renew_in_s)
            self._on_cancelled(answer.cancelled)
        return None

    async def _renew(self) -> RenewAnswer | None:
        """Tries until the lease would end; None when it is lost."""
        while (left_s := self.left_s()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    return await self._farm.renew(self._lease_token)
            except (Unavailable, TimeoutError):
                await asyncio.sleep(min(RETRY_S, self.left_s()))
            except BenchfarmError as error:
                logger.warning("the lease is lost: %s", error.detail)
                return None
        logger.warning("the lease could not be renewed in time")
        return None


class StartedReports:
    """Tells the farm which measurement runs, at most once in `every_s`, without holding up the runner.

    Where `sharers` leases report at once each waits longer, so that all together send `REPORTS_PER_S` at most.

    On a lost lease the last one named pays an attempt, so every visit of every launch is noted. The spool's own
    note is written first and is exact: it blames one measurement when the agent comes back. What the farm knows
    when the agent never does is at most so old: waiting for an answer before each visit would be exact, but
    would put a round trip into every gap. A measurement that has lost two boards runs in a lease of its own, whose
    first visit is reported at once: there it is named for certain. Once all launches are over nothing runs, and the
    farm is told so before the results are handed in.
    """

    def __init__(
        self, farm: FarmClient, lease_token: str, *, every_s: float, sharers: Callable[[], int] = lambda: 1
    ) -> None:
        self._farm = farm
        self._lease_token = lease_token
        self._every_s = every_s
        self._sharers = sharers
        self._waiting: dict[int, None] = {}
        self._something = asyncio.Event()
        self._has_noted = False
        self._sending = asyncio.Lock()  # a report that overtakes another would name what has finished

    def note(self, measurement_id: int) -> None:
        """A visit has begun."""
        self._waiting.pop(measurement_id, None)
        self._waiting[measurement_id] = None
        self._has_noted = True
        self._something.set()

    async def run(self) -> None:
        """Reports until cancelled. A report that fails is not repeated: the next one is newer."""
        while True:
            await self._something.wait()
            await self._send(over=False)
            await asyncio.sleep(max(self._every_s, self._sharers() / REPORTS_PER_S))

    async def end(self) -> None:
        """Says that nothing runs any more. Tried once and for a short time: the results are waiting."""
        if not self._has_noted:
            return
        try:
            async with asyncio.timeout(OVER_S):
                await self._send(over=True)
        except TimeoutError:
            logger.warning("could not report in time that nothing runs any more")

    async def _send(self, *, over: bool) -> None:
        async with self._sending:
            if not self._waiting and not over:
                return
            request = StartedRequest(measurement_ids=tuple(self._waiting), over=over)
            self._waiting.clear()
            self._something.clear()
            try:
                await self._farm.started(self._lease_token, request)
            except BenchfarmError as error:
                logger.warning("could not report what runs: %s", error.detail)
