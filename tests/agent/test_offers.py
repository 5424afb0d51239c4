"""The desk takes offers, keeps in touch while its boards are busy, and waits for a farm that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchfarm_agent import main as main_module
from benchfarm_agent.ailments import AILING_AFTER
from benchfarm_agent.board_watch import AILING, watch_of
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.journal import Journal
from benchfarm_agent.main import open_lab, serve
from benchfarm_agent.offers import OfferDesk
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.boards import BoardName, BoardReport
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.platforms import OperatingPoint
from tests.agent.scripted_farm import (
    HANG_UP,
    Answer,
    Call,
    given_back,
    handed_in,
    problem,
    scripted_farm,
    taken,
    true_soon,
    verb_bodies,
)

Run = Callable[[Any], Any]
MakeBoard = Callable[..., LocalBoard]
BOARD = "b_test"
GONE = "b_gone"
PARKED_S = 0.05


@dataclass
class OneOffer:
    """A farm with one lease to give. Answers in `instead` are given first, by verb."""

    grant: LeaseGrant
    instead: dict[str, list[Answer]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    is_offered: bool = False
    calls: list[Call] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    following: list[LeaseGrant] = field(default_factory=list)
    drifted: list[str] = field(default_factory=list)
    said_at_the_end: dict[str, Any] = field(default_factory=dict)

    async def script(self, call: Call) -> Answer:
        verb = call.path.rsplit("/", 1)[1]
        if self.instead.get(verb):
            return self.instead[verb].pop(0)
        match verb:
            case "boards":
                named = {"board_id": BOARD, "state": "idle", "health": "good", "reason": ""}
                return 200, {"boards": [named for _ in call.body["boards"]]}
            case "poll":
                return await self._polled(call)
            case "accept":
                return 200, self.grant.model_dump(mode="json")
            case "finish":
                return self._finished(call)
        return taken(call)

    def _finished(self, call: Call) -> Answer:
        status, body = taken(call)
        if call.body["wants_next"] and self.following:
            body = {**body, "next_lease": self.following.pop(0).model_dump(mode="json")}
        return status, {**body, **self.said_at_the_end}

    async def _polled(self, call: Call) -> Answer:
        ended = sorted(self.ended.intersection(call.body["leases"]))
        offers = []
        if call.body["idle"] and not self.is_offered:
            self.is_offered = True
            offers = [{"lease_token": self.grant.lease_token, "board_id": BOARD, "expires_in_s": 10}]
        if not ended and not offers:
            await asyncio.sleep(PARKED_S)
        unknown, self.unknown = self.unknown, []
        said = {"offers": offers, "ended_leases": ended, "unknown_boards": unknown}
        return 200, {**said, "drifted_boards": self.drifted}

    def bodies(self, verb: str) -> list[Any]:
        """What came by a verb; results and releases also with the end of a lease."""
        if verb == "release":
            return given_back(self.calls)
        return handed_in(self.calls) if verb == "results" else verb_bodies(self.calls, verb)


@pytest.fixture
def one_offer(grant: Callable[..., LeaseGrant]) -> OneOffer:
    return OneOffer(grant(2))


@pytest.fixture
def at_desk(state: StateDir, one_offer: OneOffer, running: Run) -> Callable[..., None]:
    """Runs a desk with one board until `meanwhile` returns; `leaves`: then it says that it is gone, as agents do."""

    async def sit(
        board: LocalBoard, meanwhile: Callable[[OfferDesk], Awaitable[None]], *, leaves: bool = False
    ) -> None:
        async with scripted_farm(one_offer.script) as farm:
            one_offer.calls = farm.calls
            client = FarmClient(farm.url)
            try:
                settings = Settings(url=farm.url, state_dir=state.root)
                async with watch_of([board]).open() as watch, open_lab(settings, state, client) as lab:
                    desk = OfferDesk(lab, watch)
                    await desk.begin()
                    task = asyncio.create_task(desk.run())
                    await meanwhile(desk)
                    desk.drain()
                    await task
                    if leaves:
                        await desk.leave()
            finally:
                await client.close()

    return lambda board, meanwhile, **then: running(sit(board, meanwhile, **then))


def test_a_lost_answer_to_accept_costs_no_lease(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.instead["accept"] = [HANG_UP, HANG_UP]
    at_desk(local_board(), lambda _: true_soon(lambda: bool(one_offer.bodies("release"))))
    assert len(one_offer.bodies("accept")) == 3
    assert one_offer.bodies("release")[0]["reason"] == "done"


def test_a_busy_agent_polls_and_hears_that_its_lease_has_ended(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    token = one_offer.grant.lease_token

    def busy_polls() -> list[Any]:
        return [body for body in one_offer.bodies("poll") if not body["idle"]]

    async def end_the_lease(desk: OfferDesk) -> None:
        await true_soon(lambda: len(busy_polls()) >= 3 and bool(one_offer.bodies("reports")))
        one_offer.ended.add(token)
        await true_soon(lambda: not desk.lease_tokens())
        await true_soon(lambda: one_offer.bodies("poll")[-1]["idle"] == [BOARD])

    at_desk(local_board("hang@all"), end_the_lease)
    assert busy_polls()[0]["leases"] == [token]
    assert one_offer.bodies("release") == []
    assert len([body for body in one_offer.bodies("poll") if token in body["leases"]]) < len(one_offer.bodies("poll"))


def test_a_board_goes_on_with_the_lease_that_the_last_one_brought(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never idle in between, and the next poll names the new lease without one of its own for each."""
    monkeypatch.setattr("benchfarm_agent.offers.LISTED_WITHIN_S", 0.01)
    second = one_offer.grant.model_copy(update={"lease_token": "l_" + "6b" * 16})
    one_offer.following = [second]
    at_desk(local_board(), lambda _: true_soon(lambda: len(one_offer.bodies("release")) == 2))
    assert len(one_offer.bodies("accept")) == 1
    ends = [call.path.split("/")[-2] for call in one_offer.calls if call.path.endswith("/finish")]
    assert ends == [one_offer.grant.lease_token, second.lease_token]
    named = [body for body in one_offer.bodies("poll") if second.lease_token in body["leases"]]
    assert named
    assert all(body["idle"] == [] and one_offer.grant.lease_token not in body["leases"] for body in named)


class Stubborn(LocalBoard):
    """Does not take a clock."""

    async def pin(self, point: OperatingPoint) -> None:
        raise TransientDeviceError("the governor stayed powersave")


def states(desk: OfferDesk) -> list[str]:
    return [one.state for one in desk._watch.standings()]


def test_a_board_that_cannot_measure_rests_between_two_leases(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.board_watch.GOING_S", 0.05)
    tokens = [f"l_{number:032x}" for number in range(1, 6)]
    one_offer.following = [one_offer.grant.model_copy(update={"lease_token": token}) for token in tokens]

    async def play(desk: OfferDesk) -> None:
        desk._watch.ailments.may_recover = lambda _: True
        await true_soon(lambda: states(desk) == [AILING])
        assert desk._watch.present() == ()
        assert desk.lease_tokens() == frozenset()
        desk._watch.recovered("local")
        await true_soon(lambda: bool(desk._watch.present()))

    at_desk(local_board(kind=Stubborn), play)
    ends = [call.body for call in one_offer.calls if call.path.endswith("/finish")]
    assert [body["wants_next"] for body in ends] == [True] * AILING_AFTER + [False], "the last one came with another"
    assert [body["release"]["reason"] for body in ends] == ["done"] * len(ends)


def test_a_board_that_drifted_rests_while_it_is_idle(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.is_offered = True
    one_offer.drifted = [BOARD, GONE]

    async def play(desk: OfferDesk) -> None:
        await true_soon(lambda: len(one_offer.bodies("poll")) > 3)
        assert states(desk) == ["ready"], "nothing would be done for it"
        desk._watch.ailments.may_recover = lambda _: True
        await true_soon(lambda: states(desk) == [AILING])
        await true_soon(lambda: one_offer.bodies("boards")[-1]["boards"] == [])

    at_desk(local_board(), play)


def test_a_board_that_drifted_at_work_rests_before_its_next_lease(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    """That a lease went well says nothing against a drift; no lease is lost by it."""
    tokens = [f"l_{number:032x}" for number in range(1, 100)]
    one_offer.following = [one_offer.grant.model_copy(update={"lease_token": token}) for token in tokens]

    async def play(desk: OfferDesk) -> None:
        desk._watch.ailments.may_recover = lambda _: True
        await true_soon(lambda: bool(one_offer.bodies("release")))
        assert desk.lease_tokens(), "it goes from lease to lease"
        one_offer.drifted = [BOARD]
        await true_soon(lambda: states(desk) == [AILING])
        assert desk.lease_tokens() == frozenset()

    at_desk(local_board(), play)
    ends = [call.body for call in one_offer.calls if call.path.endswith("/finish")]
    assert [body["wants_next"] for body in ends[-2:]] == [True, False]
    assert {body["release"]["reason"] for body in ends} == {"done"}


def test_a_board_that_drifted_at_work_hears_of_it_with_the_end_of_a_lease(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    """Its polls say nothing: where leases follow one another closely, each is given up for the next before it ends."""
    tokens = [f"l_{number:032x}" for number in range(1, 100)]
    one_offer.following = [one_offer.grant.model_copy(update={"lease_token": token}) for token in tokens]

    async def play(desk: OfferDesk) -> None:
        one_offer.said_at_the_end = {"drifted": True}
        await true_soon(lambda: len(one_offer.bodies("release")) > 1)
        assert states(desk) == ["ready"], "nothing would be done for it"
        desk._watch.ailments.may_recover = lambda _: True
        await true_soon(lambda: states(desk) == [AILING])
        assert desk.lease_tokens() == frozenset()

    at_desk(local_board(), play)
    ends = [call.body for call in one_offer.calls if call.path.endswith("/finish")]
    assert [body["wants_next"] for body in ends[-2:]] == [True, False], "the last one came with another"
    assert {body["release"]["reason"] for body in ends} == {"done"}


def test_a_board_that_is_held_back_takes_no_offer_until_it_is_let_go(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.is_offered = True
    offer = {"lease_token": one_offer.grant.lease_token, "board_id": BOARD, "expires_in_s": 10}
    offered = {"offers": [offer], "ended_leases": [], "unknown_boards": []}

    def idle_polls() -> list[bool]:
        return [bool(body["idle"]) for body in one_offer.bodies("poll")]

    async def play(desk: OfferDesk) -> None:
        await true_soon(lambda: any(idle_polls()))
        let_go = desk._watch.hold_back("local")
        one_offer.instead["poll"] = [(200, offered)]  # to a poll that had gone out before
        await true_soon(lambda: idle_polls()[-3:] == [False] * 3)
        assert desk._busy == {}
        let_go()
        one_offer.is_offered = False
        await true_soon(lambda: bool(one_offer.bodies("release")))

    at_desk(local_board(), play)
    assert len(one_offer.bodies("accept")) == 1
    assert one_offer.bodies("release")[0]["reason"] == "done"


def test_an_agent_waits_for_its_farm_and_says_once_that_it_is_new(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.is_offered = True
    one_offer.instead["boards"] = [problem(503, "unavailable"), HANG_UP]
    forgotten = {"offers": [], "ended_leases": [], "unknown_boards": [BOARD]}
    one_offer.instead["poll"] = [(200, forgotten)]
    at_desk(local_board(), lambda _: true_soon(lambda: len(one_offer.bodies("boards")) == 4))
    assert [body["process_started"] for body in one_offer.bodies("boards")] == [True, True, True, False]


def test_a_board_that_could_not_be_named_anew_is_not_forgotten(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.is_offered = True
    named = {"boards": [{"board_id": BOARD, "state": "idle", "health": "good", "reason": ""}]}
    one_offer.instead["boards"] = [(200, named), problem(503, "unavailable")]
    forgotten = {"offers": [], "ended_leases": [], "unknown_boards": [BOARD]}
    one_offer.instead["poll"] = [(200, forgotten), (200, forgotten)]

    def is_asked_for_again() -> bool:
        return len(one_offer.bodies("boards")) == 3 and one_offer.bodies("poll")[-1]["idle"] == [BOARD]

    at_desk(local_board(), lambda _: true_soon(is_asked_for_again))
    assert [body["idle"] for body in one_offer.bodies("poll")[:2]] == [[BOARD], []], "not before it was named anew"


def test_a_board_that_another_agent_drives_is_asked_for_with_pauses_and_told_once(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    forgotten = {"offers": [], "ended_leases": [], "unknown_boards": [BOARD]}
    one_offer.instead["poll"] = [(200, forgotten)] * 1000
    began_s = boottime_s()
    at_desk(local_board(), lambda _: true_soon(lambda: len(one_offer.bodies("boards")) == 7))
    assert boottime_s() - began_s > 0.05 + 0.1 + 0.2 + 0.4 + 0.8
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith("another agent drives a board")]) == 1
    assert said.count("board local registered") == 1


def test_draining_does_not_wait_for_an_offer_that_cannot_be_accepted(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.offers.ACCEPT_DRAIN_S", 0.05)
    one_offer.instead["accept"] = [problem(503, "unavailable")] * 1000
    at_desk(local_board(), lambda _: true_soon(lambda: len(one_offer.bodies("accept")) >= 2))
    assert one_offer.bodies("results") == []


def test_a_drained_agent_says_that_it_drives_nothing_any_more(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    at_desk(local_board(), lambda _: true_soon(lambda: bool(one_offer.bodies("release"))), leaves=True)
    named = [(body["process_started"], len(body["boards"])) for body in one_offer.bodies("boards")]
    assert named == [(True, 1), (False, 0)]
    assert one_offer.calls[-1].path.endswith("/boards"), "after everything else"


def test_an_agent_that_owes_something_does_not_say_that_it_leaves(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The farm would end the lease at once, and what is handed in at the next start would come too late."""
    monkeypatch.setattr("benchfarm_agent.leases.DRAIN_PATIENCE_S", 0.05)
    one_offer.instead["finish"] = [problem(503, "unavailable")] * 1000
    at_desk(local_board(), lambda _: true_soon(lambda: bool(one_offer.bodies("reports"))), leaves=True)
    assert one_offer.bodies("finish"), "it owes something"
    assert all(body["boards"] for body in one_offer.bodies("boards"))


def test_a_drain_waits_no_longer_for_a_farm_that_is_away_where_a_lease_hands_in_already(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    """Undrained it goes on for as long as the lease lasts, with pauses of seconds."""
    one_offer.instead["finish"] = [problem(503, "unavailable")] * 1000
    drained_s = 0.0

    async def hand_in_for_a_while(_: OfferDesk) -> None:
        nonlocal drained_s
        await true_soon(lambda: len(one_offer.bodies("finish")) == 6)
        drained_s = boottime_s()

    at_desk(local_board(), hand_in_for_a_while)
    assert boottime_s() - drained_s < 10, "its lease lasts for a minute"
    assert len(one_offer.bodies("finish")) == 6, "its patience had ended"


def test_an_agent_that_could_not_put_a_board_back_does_not_say_that_it_leaves(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, state: StateDir
) -> None:
    """Another one would measure on a board whose clocks this one sets anew at its next start."""

    async def leaves_a_note(_: OfferDesk) -> None:
        await true_soon(lambda: bool(one_offer.bodies("release")))
        Journal(state.journal).remember("another", "governor", "schedutil")

    at_desk(local_board(), leaves_a_note, leaves=True)
    assert all(body["boards"] for body in one_offer.bodies("boards"))


def test_a_board_whose_address_another_one_has_keeps_no_agent_from_leaving(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, state: StateDir
) -> None:
    """The next start would not find it either."""

    async def leaves_a_note(desk: OfferDesk) -> None:
        await true_soon(lambda: bool(one_offer.bodies("release")))
        Journal(state.journal).remember("another", "governor", "schedutil")
        desk._watch.displaced.add("another")

    at_desk(local_board(), leaves_a_note, leaves=True)
    assert one_offer.bodies("boards")[-1]["boards"] == []


def test_the_farm_hears_of_a_board_that_is_not_put_back_once_it_can_be_told(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.is_offered = True
    missed = BoardName(kind="ssh", serial="S-9", hardware_id="hw-9")

    async def tells(desk: OfferDesk) -> None:
        desk._watch.tell_put_back(missed, "another board answers at pi now")
        one_offer.unknown = [GONE]  # so that boards are named once more
        await true_soon(lambda: len(one_offer.bodies("boards")) == 2 and bool(one_offer.bodies("recoveries")))

    at_desk(local_board(), tells)
    (told,) = one_offer.bodies("recoveries")
    assert told["board"] == missed.model_dump(mode="json")
    assert (told["step"], told["detail"]) == ("put_back", "another board answers at pi now")


def test_an_agent_that_cannot_say_that_it_leaves_ends_all_the_same(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard, caplog: pytest.LogCaptureFixture
) -> None:
    one_offer.is_offered = True

    async def hang_up_from_now_on(_: OfferDesk) -> None:
        await true_soon(lambda: bool(one_offer.bodies("poll")))
        one_offer.instead["boards"] = [HANG_UP]

    at_desk(local_board(), hang_up_from_now_on, leaves=True)
    assert "was not told that this agent has drained" in caplog.text


def test_an_offer_does_not_wait_for_boards_to_be_named_anew(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    one_offer.unknown = [GONE]
    named = {"boards": [{"board_id": BOARD, "state": "idle", "health": "good", "reason": ""}]}
    one_offer.instead["boards"] = [(200, named), *[problem(503, "unavailable")] * 1000]
    at_desk(local_board(), lambda _: true_soon(lambda: bool(one_offer.bodies("release"))))
    assert one_offer.bodies("release")[0]["reason"] == "done"


class Counted(LocalBoard):
    """Counts how often it was asked what it is."""

    described = 0

    async def describe(self) -> BoardReport:
        self.described += 1
        return await super().describe()


def test_naming_boards_anew_probes_no_engine(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: MakeBoard
) -> None:
    """It would disturb a launch, and hold up all other boards."""
    board = local_board(kind=Counted)
    assert isinstance(board, Counted)
    one_offer.unknown.append(GONE)
    at_desk(board, lambda _: true_soon(lambda: len(one_offer.bodies("boards")) == 2))
    assert board.described == 1


def test_what_waited_for_the_farm_is_handed_in_as_late(
    state: StateDir, one_offer: OneOffer, local_board: MakeBoard, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent was never killed: its farm was away when the lease ended."""
    monkeypatch.setattr(main_module, "LEFTOVERS_EVERY_S", 0.05)
    one_offer.is_offered = True
    found = MeasurementResult(measurement_id=1, outcome="failed", failure=FailureCode.RUNNER_DIED)

    async def end_a_lease_while_the_farm_is_away() -> None:
        async with scripted_farm(one_offer.script) as farm:
            one_offer.calls = farm.calls
            client = FarmClient(farm.url)
            settings = Settings(url=farm.url, state_dir=state.root)
            async with watch_of([local_board()]).open() as watch, open_lab(settings, state, client) as lab:
                left = lab.spool.lease(one_offer.grant.lease_token)
                left.open()
                left.add([found], ())
                left.close()
                agent = asyncio.create_task(serve(lab, watch))
                await true_soon(lambda: bool(one_offer.bodies("release")))
                agent.cancel()
                await asyncio.gather(agent, return_exceptions=True)
            await client.close()

    running(end_a_lease_while_the_farm_is_away())
    assert one_offer.bodies("results")[0]["results"][0]["measurement_id"] == 1
    assert one_offer.bodies("release")[0]["reason"] == "done"
    assert "late" in one_offer.bodies("release")[0]["detail"]
