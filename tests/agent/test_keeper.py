"""A lease is renewed in time, lost in time, and never believed to live longer than the farm holds it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.keeper import LeaseKeeper, StartedReports
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


def test_what_runs_is_reported_first_at_once_then_together(running: Run) -> None:
    async def report() -> list[list[int]]:
        async with scripted_farm(lambda _: (204, b"")) as farm:
            client = FarmClient(farm.url)
            reports = StartedReports(client, TOKEN, every_s=0.1)
            task = asyncio.create_task(reports.run())
            reports.note(1)
            await true_soon(lambda: len(farm.calls) == 1)
            for number in (2, 3, 1, 2):
                reports.note(number)
            await true_soon(lambda: len(farm.calls) == 2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()
            return [call.body["measurement_ids"] for call in farm.calls]

    assert running(report()) == [[1], [3, 1, 2]]  # the last one named runs now


def test_many_leases_of_one_agent_report_less_often_each(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchfarm_agent.keeper.REPORTS_PER_S", 100.0)

    async def reports_within_s(seconds: float, sharers: int) -> int:
        async with scripted_farm(lambda _: (204, b"")) as farm:
            client = FarmClient(farm.url)
            reports = StartedReports(client, TOKEN, every_s=0.01, sharers=lambda: sharers)
            task = asyncio.create_task(reports.run())
            until_s = boottime_s() + seconds
            while boottime_s() < until_s:
                reports.note(1)
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()
            return len(farm.calls)

    assert running(reports_within_s(0.4, sharers=1)) > 2
    assert running(reports_within_s(0.4, sharers=1000)) == 1


def test_the_end_is_reported_once_and_does_not_hold_up_the_results(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.keeper.OVER_S", 0.2)

    async def silent(_: Call) -> Any:
        await asyncio.sleep(60)

    async def report(script: Script) -> list[Any]:
        async with scripted_farm(script) as farm:
            client = FarmClient(farm.url)
            reports = StartedReports(client, TOKEN, every_s=60)
            await reports.end()
            assert farm.calls == []  # nothing ran
            reports.note(1)
            reports.note(2)
            await reports.end()
            await client.close()
            return [call.body for call in farm.calls]

    said = [{"measurement_ids": [1, 2], "over": True}]
    assert running(report(lambda _: (204, b""))) == said
    begun_s = boottime_s()
    assert running(report(silent)) == said
    assert boottime_s() - begun_s < 10
