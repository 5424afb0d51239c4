"""A lease is renewed in time, lost in time, and never believed to live longer than the farm holds it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.keeper import LeaseKeeper
from tests.agent.scripted_farm import HANG_UP, Call, Script, problem, scripted_farm, true_soon

Run = Callable[[Any], Any]
TOKEN = "l_" + "3" * 32


class Kept:
    """A keeper on a scripted farm, and what it said."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []
        self.lost_after_s: float | None = None
        self.calls: list[Call] = []

    async def keep(
        self, script: Script, *, expires_in_s: float, renew_in_s: float, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Keeps a lease until it is lost or `until` holds."""
        async with scripted_farm(script) as farm:
            self.calls = farm.calls
            client = FarmClient(farm.url)
            begun_s = boottime_s()

            def on_lost() -> None:
                self.lost_after_s = boottime_s() - begun_s

            keeper = LeaseKeeper(client, TOKEN, on_cancelled=self.cancelled.extend, on_lost=on_lost)
            keeper.granted(begun_s, expires_in_s=expires_in_s, renew_in_s=renew_in_s)
            task = asyncio.create_task(keeper.run())
            try:
                await true_soon(lambda: task.done() or until())
                assert task.done() or keeper.left_s() > 0
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await client.close()


@pytest.fixture
def kept() -> Kept:
    return Kept()


def renewal(expires_in_s: float, renew_in_s: float, cancelled: tuple[int, ...] = ()) -> tuple[int, Any]:
    return 200, {"expires_in_s": expires_in_s, "renew_in_s": renew_in_s, "cancelled": list(cancelled)}


def test_a_renewed_lease_lives_on(kept: Kept, running: Run) -> None:
    lease = {"expires_in_s": 5.0, "renew_in_s": 0.1}
    script = lambda _: renewal(5.0, 0.1, (4,))  # noqa: E731
    running(kept.keep(script, **lease, until=lambda: len(kept.cancelled) >= 5))
    assert kept.lost_after_s is None
    assert set(kept.cancelled) == {4}


@pytest.mark.parametrize("answer", [HANG_UP, problem(503, "unavailable"), (200, b"{")])
def test_a_lease_that_cannot_be_renewed_is_lost_before_it_ends(kept: Kept, running: Run, answer: Any) -> None:
    running(kept.keep(lambda _: answer, expires_in_s=2.0, renew_in_s=0.2))
    assert kept.lost_after_s is not None
    assert 1.0 < kept.lost_after_s < 2.0
    assert len(kept.calls) >= 2


@pytest.mark.parametrize(("status", "code"), [(409, "lease_lost"), (404, "not_found"), (401, "token_revoked")])
def test_a_lease_that_the_farm_denies_is_lost_at_once(kept: Kept, running: Run, status: int, code: str) -> None:
    running(kept.keep(lambda _: problem(status, code), expires_in_s=60, renew_in_s=0.1))
    assert kept.lost_after_s is not None
    assert kept.lost_after_s < 30
    assert len(kept.calls) == 1


def test_a_report_that_comes_first_spares_the_renewal(kept: Kept, running: Run) -> None:
    """Whatever tells the farm of a lease shortly before its renewal is due renews it along."""

    async def renew_along() -> tuple[bool, bool, int]:
        async with scripted_farm(lambda _: renewal(60.0, 60.0)) as farm:
            client = FarmClient(farm.url)
            keeper = LeaseKeeper(client, TOKEN, on_cancelled=kept.cancelled.extend, on_lost=lambda: None)
            keeper.granted(boottime_s(), expires_in_s=60.0, renew_in_s=60.0)
            early = keeper.wants_renewal()
            keeper.granted(boottime_s(), expires_in_s=60.0, renew_in_s=0.3)
            task = asyncio.create_task(keeper.run())
            await asyncio.sleep(0)
            late = keeper.wants_renewal()
            keeper.renewed(boottime_s(), expires_in_s=60.0, renew_in_s=60.0, cancelled=(4,))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()
            return early, late, len(farm.calls)

    assert running(renew_along()) == (False, True, 0)
    assert kept.cancelled == [4]
