"""Keeps a lease alive while its board works, and says so when it is lost."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from benchfarm_agent.clock import boottime_s, sleep_until
from benchfarm_agent.farm_client import FarmClient
from benchfarm_core.agent_protocol import RenewAnswer
from benchfarm_core.errors import BenchfarmError, Unavailable
from benchfarm_core.leases import MARGIN_SHARE

logger = logging.getLogger(__name__)

JITTER_SHARE: Final = 0.2
RETRY_S: Final = 0.5
EARLY_S: Final = 2.0
"""A report that goes out so long before a renewal is due brings it along."""


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
        self._is_ending = False
        self.lost = False

    def granted(self, asked_s: float, *, expires_in_s: float, renew_in_s: float) -> None:
        """Starts the count anew: the farm answered a request that was sent at `asked_s`."""
        self._stop_s = asked_s + expires_in_s * (1 - MARGIN_SHARE)
        self._renew_s = asked_s + renew_in_s * random.uniform(1 - JITTER_SHARE, 1)

    def wants_renewal(self) -> bool:
        """Whether whatever is said to the farm now should renew the lease along with it."""
        return not self.lost and not self._is_ending and boottime_s() >= self._renew_s - EARLY_S

    def renewed(self, asked_s: float, *, expires_in_s: float, renew_in_s: float, cancelled: Iterable[int]) -> None:
        """A request that was sent at `asked_s` has renewed the lease; `cancelled` is what nobody wants any more."""
        self.granted(asked_s, expires_in_s=expires_in_s, renew_in_s=renew_in_s)
        self._on_cancelled(cancelled)

    def end(self) -> None:
        """The lease is being given back and renewed no more: from its end the farm knows when nobody waits for that."""
        self._is_ending = True

    def left_s(self) -> float:
        """How long the lease may still be used without a renewal."""
        return max(0.0, self._stop_s - boottime_s())

    def lose(self) -> None:
        """The lease is gone, whoever said so. Only the first call counts."""
        if not self.lost:
            self.lost = True
            self._on_lost()

    async def run(self) -> None:
        """Returns when the lease is lost or is being given back."""
        while not self.lost:
            await sleep_until(self._renew_s)
            if self._is_ending:
                return None
            asked_s = boottime_s()
            if asked_s < self._renew_s:  # a report has renewed it meanwhile
                continue
            answer = await self._renew()
            if answer is None:
                return self.lose()
            times = {"expires_in_s": answer.expires_in_s, "renew_in_s": answer.renew_in_s}
            self.renewed(asked_s, **times, cancelled=answer.cancelled)
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
