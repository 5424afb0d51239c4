"""What runs on an agent's boards is told in one request for all of them, in time and without holding anything up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.keeper import LeaseKeeper
from benchfarm_agent.reports import Reports
from tests.agent.scripted_farm import (
    HANG_UP,
    Call,
    Script,
    ScriptedFarm,
    problem,
    reported,
    scripted_farm,
    taken,
    true_soon,
)

Run = Callable[[Any], Any]
ONE, TWO = "l_" + "1" * 32, "l_" + "2" * 32


class Told:
    """Reports on a scripted farm, and the leases that were said to be lost."""

    def __init__(self, farm: ScriptedFarm, client: FarmClient, every_s: float) -> None:
        self.farm = farm
        self.reports = Reports(client, every_s=every_s)
        self.lost: list[str] = []
        self.cancelled: list[int] = []
        self._client = client

    def join(self, token: str, *, renew_in_s: float = 60.0, alone: bool = False) -> LeaseKeeper:
        """A lease that begins now."""
        keeper = LeaseKeeper(self._client, token, on_cancelled=self.cancelled.extend, on_lost=lambda: None)
        keeper.granted(boottime_s(), expires_in_s=60.0, renew_in_s=renew_in_s)
        self.reports.join(token, keeper, on_lost=lambda: self.lost.append(token), alone=alone)
        return keeper

    def ids(self, token: str) -> list[list[int]]:
        """What each report said of a lease."""
        return [one["measurement_ids"] for one in reported(self.farm.calls) if one["lease_token"] == token]


@asynccontextmanager
async def telling(script: Script, every_s: float) -> AsyncIterator[Told]:
    async with scripted_farm(script) as farm:
        client = FarmClient(farm.url)
        told = Told(farm, client, every_s)
        try:
            yield told
        finally:
            for token in (ONE, TWO):
                told.reports.leave(token)
            await client.close()


@pytest.fixture
def tell(running: Run) -> Callable[..., None]:
    """Runs `meanwhile` with reports every so many seconds to a farm that follows a script."""

    async def run(meanwhile: Callable[[Told], Awaitable[None]], script: Script, every_s: float) -> None:
        async with telling(script, every_s) as told:
            await meanwhile(told)

    return lambda meanwhile, script=taken, every_s=0.1: running(run(meanwhile, script, every_s))


def test_what_runs_is_reported_first_at_once_then_together(tell: Callable[..., None]) -> None:
    async def note(told: Told) -> None:
        told.join(ONE)
        told.join(TWO)
        told.reports.note(ONE, 1)
        await true_soon(lambda: len(told.farm.calls) == 1)
        for number in (2, 3, 1, 2):
            told.reports.note(ONE, number)
        told.reports.note(TWO, 9)
        await true_soon(lambda: len(told.farm.calls) == 2)
        assert told.ids(ONE) == [[1], [3, 1, 2]]  # the last one named runs now
        assert told.ids(TWO) == [[9]]

    tell(note)


def test_many_leases_of_one_agent_take_no_more_requests_than_one(tell: Callable[..., None]) -> None:
    async def note_for(told: Told, seconds: float) -> None:
        until_s = boottime_s() + seconds
        while boottime_s() < until_s:
            for token in (ONE, TWO):
                told.reports.note(token, 1)
            await asyncio.sleep(0.005)

    async def note(told: Told) -> None:
        told.join(ONE)
        told.join(TWO)
        await note_for(told, 0.5)
        assert 2 <= len(told.farm.calls) <= 6
        assert len(told.ids(ONE)) >= len(told.farm.calls) - 1

    tell(note)


def test_what_runs_alone_is_named_at_once_each_time(tell: Callable[..., None]) -> None:
    """It may have taken two boards down: whoever loses this one must know that it ran."""

    async def note(told: Told) -> None:
        told.join(ONE)
        told.join(TWO, alone=True)
        told.reports.note(ONE, 1)
        await true_soon(lambda: len(told.farm.calls) == 1)
        told.reports.note(ONE, 2)
        told.reports.note(TWO, 9)
        await true_soon(lambda: len(told.farm.calls) == 2)
        told.reports.note(TWO, 9)
        await true_soon(lambda: len(told.farm.calls) == 3)
        assert told.ids(TWO) == [[9], [9]]
        assert told.ids(ONE) == [[1], [2]]

    tell(note, every_s=600)


def test_the_end_is_reported_once_and_does_not_hold_up_the_results(
    tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.reports.OVER_S", 0.2)

    async def silent(_: Call) -> Any:
        await asyncio.sleep(60)

    async def end(told: Told) -> None:
        told.join(ONE)
        await told.reports.over(ONE)
        assert told.farm.calls == []  # nothing ran
        told.reports.note(ONE, 1)
        told.reports.note(ONE, 2)
        begun_s = boottime_s()
        await told.reports.over(ONE)
        assert boottime_s() - begun_s < 10
        assert [(one["measurement_ids"], one["over"]) for one in reported(told.farm.calls)] == [([1, 2], True)]

    tell(end, every_s=60)
    tell(end, script=silent, every_s=60)


def test_a_report_renews_what_is_due_and_nothing_else(tell: Callable[..., None]) -> None:
    def renewing(call: Call) -> Any:
        due = [one["lease_token"] for one in call.body["leases"] if one["renew"]]
        renewed = [{"lease_token": token, "cancelled": [7]} for token in due]
        return 200, {"lost": [], "renewed": renewed, "expires_in_s": 100, "renew_in_s": 50}

    async def note(told: Told) -> None:
        due, other = told.join(ONE, renew_in_s=0.5), told.join(TWO)
        assert due.wants_renewal()
        told.reports.note(TWO, 9)
        told.reports.note(ONE, 1)
        await true_soon(lambda: told.cancelled == [7])
        assert [one["renew"] for one in reported(told.farm.calls)] == [True, False]
        assert not due.wants_renewal()
        assert due.left_s() > 60 > other.left_s()

    tell(note, script=renewing)


def test_a_lease_that_the_farm_holds_no_more_is_lost_and_no_other(tell: Callable[..., None]) -> None:
    def one_is_lost(call: Call) -> Any:
        return 200, {"lost": [TWO], "renewed": [], "expires_in_s": 60, "renew_in_s": 15}

    async def note(told: Told) -> None:
        told.join(ONE)
        told.join(TWO)
        told.reports.note(ONE, 1)
        told.reports.note(TWO, 2)
        await true_soon(lambda: told.lost == [TWO])

    tell(note, script=one_is_lost)


def test_a_farm_that_is_away_is_told_what_is_new_later(tell: Callable[..., None]) -> None:
    answers = [problem(503, "unavailable")]

    async def note(told: Told) -> None:
        told.join(ONE)
        told.reports.note(ONE, 1)
        await true_soon(lambda: len(told.farm.calls) == 1)
        told.reports.note(ONE, 2)
        await true_soon(lambda: told.ids(ONE)[-1][-1] == 2)
        assert told.ids(ONE)[1][0] == 1, "what it was not told goes first"

    tell(note, script=lambda call: answers.pop() if answers else taken(call))


def test_a_report_that_did_not_get_through_is_sent_again(tell: Callable[..., None]) -> None:
    """Else a lost board would cost the measurement before the one that ran."""
    answers = [problem(503, "unavailable"), (200, b"{"), HANG_UP]

    async def note(told: Told) -> None:
        told.join(ONE)
        told.join(TWO)
        told.reports.note(ONE, 1)
        told.reports.note(ONE, 2)
        told.reports.note(TWO, 9)
        await true_soon(lambda: len(told.farm.calls) == 4, limit_s=10)
        assert told.ids(ONE) == [[1, 2]] * 4
        assert told.ids(TWO) == [[9]] * 4
        await asyncio.sleep(0.3)
        assert len(told.farm.calls) == 4, "the farm has it now"

    tell(note, script=lambda call: answers.pop() if answers else taken(call))


def test_what_the_farm_refuses_is_not_sent_again(tell: Callable[..., None]) -> None:
    answers = [problem(422, "result_invalid")]

    async def note(told: Told) -> None:
        told.join(ONE)
        told.reports.note(ONE, 1)
        await true_soon(lambda: len(told.farm.calls) == 1)
        await asyncio.sleep(0.3)
        told.reports.note(ONE, 2)
        await true_soon(lambda: len(told.farm.calls) == 2)
        assert told.ids(ONE) == [[1], [2]]

    tell(note, script=lambda call: answers.pop() if answers else taken(call))


def test_an_end_that_is_cut_short_keeps_what_it_said_of_others(
    tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.reports.OVER_S", 0.2)
    calls: list[Call] = []

    async def silent_at_first(call: Call) -> Any:
        calls.append(call)
        if len(calls) == 1:
            await asyncio.sleep(60)
        return taken(call)

    async def end(told: Told) -> None:
        told.join(ONE)
        told.join(TWO)
        told.reports.note(ONE, 1)
        told.reports.note(TWO, 9)
        await told.reports.over(ONE)
        await true_soon(lambda: len(calls) == 2, limit_s=10)
        assert told.ids(TWO) == [[9], [9]]
        over = [one["over"] for one in reported(calls) if one["lease_token"] == ONE]
        assert over == [True, True]

    tell(end, script=silent_at_first)
