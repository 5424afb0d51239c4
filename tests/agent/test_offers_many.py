"""The desk and boards that come and go: what the farm is told, and what becomes of a lease whose board is gone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.main import open_lab
from benchfarm_agent.offers import OfferDesk
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.boards import BoardReport
from benchfarm_core.failures import FailureCode
from tests.agent.scripted_farm import (
    Answer,
    Call,
    given_back,
    results_in,
    scripted_farm,
    taken,
    true_soon,
    verb_bodies,
)

Run = Callable[[Any], Any]
MakeBoard = Callable[..., LocalBoard]
PARKED_S = 0.05


class Named(LocalBoard):
    """This host as one of several boards."""

    serial = ""
    on_this_host = False  # so that none waits for another's launch

    @property
    def name(self) -> str:
        return f"board-{self.serial}"

    async def describe(self) -> BoardReport:
        report = await super().describe()
        return report.model_copy(update={"serial": self.serial})


class PlugWay:
    """A way to a board that is there while it is plugged in."""

    is_fixed = False

    def __init__(self, board: Named) -> None:
        self.board = board
        self.label = board.serial

    async def open(self) -> Board:
        return self.board

    async def gone(self, board: Board) -> str:
        del board
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        pass


@dataclass
class ManyBoards:
    """A farm that knows boards by their serials, with one lease to give for `wanted`."""

    grant: LeaseGrant
    wanted: str = ""
    unknown: frozenset[str] = frozenset()
    calls: list[Call] = field(default_factory=list)

    async def script(self, call: Call) -> Answer:
        match call.path.rsplit("/", 1)[1]:
            case "boards":
                standing = {"state": "idle", "health": "good", "reason": ""}
                return 200, {"boards": [{"board_id": f"b_{one['serial']}", **standing} for one in call.body["boards"]]}
            case "poll":
                return await self._polled(call)
            case "accept":
                return 200, self.grant.model_dump(mode="json")
        return taken(call)

    async def _polled(self, call: Call) -> Answer:
        offers = []
        if self.wanted in call.body["idle"]:
            offers = [{"lease_token": self.grant.lease_token, "board_id": self.wanted, "expires_in_s": 10}]
            self.wanted = ""
        unknown = sorted(self.unknown.intersection(call.body["idle"]))
        if not offers and not unknown:
            await asyncio.sleep(PARKED_S)
        return 200, {"offers": offers, "ended_leases": [], "unknown_boards": unknown}

    def bodies(self, verb: str) -> list[Any]:
        return verb_bodies(self.calls, verb)

    def named(self) -> list[list[str]]:
        """The boards of each registration."""
        return [[one["serial"] for one in body["boards"]] for body in self.bodies("boards")]

    def idle(self) -> list[str]:
        """The boards that the latest poll asked offers for."""
        polls = self.bodies("poll")
        return list(polls[-1]["idle"]) if polls else []


@pytest.fixture
def many(grant: Callable[..., LeaseGrant]) -> ManyBoards:
    return ManyBoards(grant(2))


@pytest.fixture
def make(local_board: MakeBoard) -> Callable[..., Named]:
    def board(serial: str, *faults: str, kind: type[Named] = Named) -> Named:
        made = local_board(*faults, kind=kind)
        assert isinstance(made, Named)
        made.serial = serial
        return made

    return board


@pytest.fixture
def at_desk(state: StateDir, many: ManyBoards, running: Run) -> Callable[..., None]:
    """Runs a desk until `meanwhile` returns; boards are plugged in by adding ways to its watch."""

    async def sit(meanwhile: Callable[[BoardWatch], Awaitable[None]], *first: Named) -> None:
        async with scripted_farm(many.script) as farm:
            many.calls = farm.calls
            client, settings = FarmClient(farm.url), Settings(url=farm.url, state_dir=state.root)
            watch = BoardWatch([PlugWay(board) for board in first])
            try:
                async with watch.open(), open_lab(settings, state, client) as lab:
                    desk = OfferDesk(lab, watch)
                    await desk.begin()
                    task = asyncio.create_task(desk.run())
                    await meanwhile(watch)
                    desk.drain()
                    await task
            finally:
                await client.close()

    return lambda meanwhile, *first: running(sit(meanwhile, *first))


def test_each_change_is_told_and_the_start_once(
    at_desk: Callable[..., None], many: ManyBoards, make: Callable[..., Named]
) -> None:
    async def plug_and_pull(watch: BoardWatch) -> None:
        await true_soon(lambda: many.idle() == ["b_a"])
        watch.add(PlugWay(make("b")))
        await true_soon(lambda: many.idle() == ["b_a", "b_b"])
        watch.remove("a", "unplugged")
        await true_soon(lambda: many.named()[-1] == ["b"] and many.idle() == ["b_b"])
        watch.add(PlugWay(make("a")))
        await true_soon(lambda: many.idle() == ["b_a", "b_b"])

    at_desk(plug_and_pull, make("a"))
    assert many.named()[-4:] == [["a"], ["a", "b"], ["b"], ["a", "b"]]
    started = [body["process_started"] for body in many.bodies("boards")]
    assert started == [True] + [False] * (len(started) - 1)


def test_an_agent_without_a_board_registers_none_and_waits(
    at_desk: Callable[..., None], many: ManyBoards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.offers.BEGIN_S", 0.05)
    at_desk(lambda _: true_soon(lambda: len(many.bodies("poll")) >= 2))
    assert many.named() == [[]]


def test_the_lease_of_a_board_that_goes_ends_and_only_what_ran_pays(
    at_desk: Callable[..., None], many: ManyBoards, make: Callable[..., Named]
) -> None:
    many.wanted = "b_a"

    async def pull_in_mid_run(watch: BoardWatch) -> None:
        await true_soon(lambda: bool(many.bodies("reports")))
        watch.remove("a", "unplugged")
        await true_soon(lambda: many.named()[-1] == ["b"])

    at_desk(pull_in_mid_run, make("a", "hang@all"), make("b"))
    assert given_back(many.calls)[0]["reason"] == "board_lost"
    failures = [one["failure"] for one in results_in(many.calls).values()]
    assert failures == [FailureCode.BOARD_LOST], "one ran, the other stays wanted"
    verbs = [call.path.rsplit("/", 1)[1] for call in many.calls]
    assert verbs.index("finish") < len(verbs) - 1 - verbs[::-1].index("boards"), "what it found comes first"


def test_a_board_that_comes_back_during_its_lease_takes_no_second_one(
    at_desk: Callable[..., None], many: ManyBoards, make: Callable[..., Named], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.offers.HAND_IN_S", 0.05)
    many.wanted = "b_a"
    let_go = asyncio.Event()

    class Clinging(Named):
        async def stop(self) -> None:
            await let_go.wait()
            await super().stop()

    async def blink(watch: BoardWatch) -> None:
        await true_soon(lambda: bool(many.bodies("reports")))
        watch.remove("a", "unplugged")
        await true_soon(lambda: many.named()[-1] == [])
        watch.add(PlugWay(make("a")))
        await true_soon(lambda: many.named()[-1] == ["a"])
        polls = len(many.bodies("poll"))
        await true_soon(lambda: len(many.bodies("poll")) > polls + 1)
        assert many.idle() == [], "its old lease still runs on it"
        let_go.set()
        await true_soon(lambda: many.idle() == ["b_a"])

    at_desk(blink, make("a", "hang@all", kind=Clinging))


def test_a_contested_board_holds_up_no_other(
    at_desk: Callable[..., None], many: ManyBoards, make: Callable[..., Named], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another agent drives `a`: the farm knows it from this one never."""
    monkeypatch.setattr("benchfarm_agent.pauses.FIRST_S", 30.0)
    monkeypatch.setattr("benchfarm_agent.pauses.LONGEST_S", 30.0)
    many.unknown = frozenset({"b_a"})

    async def work_on(watch: BoardWatch) -> None:
        del watch
        await true_soon(lambda: many.idle() == ["b_b"])
        many.wanted = "b_b"
        await true_soon(lambda: bool(given_back(many.calls)))

    at_desk(work_on, make("a"), make("b"))
    assert given_back(many.calls)[0]["reason"] == "done"
