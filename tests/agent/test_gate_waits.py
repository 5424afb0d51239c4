"""The farm hears of a board that waits for quiet, and that the wait is over."""

from collections.abc import Callable
from typing import Any

import pytest

from benchfarm_agent import gate_waits
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.gate_waits import GateWaits
from benchfarm_core.platforms import OperatingPoint
from tests.agent.scripted_farm import true_soon
from tests.agent.test_offers import BOARD, OneOffer, at_desk, one_offer

__all__ = ("at_desk", "one_offer")
BUSY = "3.2 other threads want to run, more than 2"


class Busy(LocalBoard):
    """Is busy until it is told otherwise."""

    why: str | None = BUSY

    async def gate(self, point: OperatingPoint) -> str | None:
        del point
        return self.why


def test_the_farm_hears_of_the_wait_and_of_its_end(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: Callable[..., LocalBoard]
) -> None:
    board = local_board(kind=Busy)
    assert isinstance(board, Busy)

    def told() -> list[Any]:
        return [poll["waits"] for poll in one_offer.bodies("poll")]

    async def meanwhile(_: Any) -> None:
        await true_soon(lambda: any(told()))
        board.why = None
        await true_soon(lambda: told()[-1] == {})
        await true_soon(lambda: bool(one_offer.bodies("release")))

    begun_s = boottime_s()
    at_desk(board, meanwhile)
    waits = [one for one in told() if one]
    assert all(one.keys() == {BOARD} and one[BOARD]["reason"] == BUSY for one in waits)
    waited_s = [one[BOARD]["waited_s"] for one in waits]
    assert waited_s == sorted(waited_s)
    assert gate_waits.TELL_AFTER_S <= waited_s[0] <= boottime_s() - begun_s
    (end,) = one_offer.bodies("release")
    assert end["reason"] == "done"
    assert waited_s[0] * 1000 <= end["gate_ms"] < end["lease_wall_ms"], "so that nobody pays for it"
    told_ms = {one["gate_ms"] for report in one_offer.bodies("reports") for one in report["leases"]}
    assert told_ms == {end["gate_ms"]}, "while it runs too"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Seconds that the test sets."""
    now = {"s": 100.0}
    monkeypatch.setattr(gate_waits, "boottime_s", lambda: now["s"])
    return now


def test_a_wait_goes_on_over_leases_and_is_forgotten_where_nobody_looks(
    clock: Any, local_board: Callable[..., LocalBoard]
) -> None:
    news: list[float] = []
    waits = GateWaits(lambda: news.append(clock["s"]))
    boards = {"b_1": local_board()}

    def look(at_s: float, why: str | None) -> dict[str, Any]:
        clock["s"] = at_s
        waits.looked("local", why)
        return {id_: (wait.waited_s, wait.reason) for id_, wait in waits.told(boards).items()}

    assert look(100.0, "a") == look(100.9, "b") == {}
    assert look(101.0, "c") == {"b_1": (1.0, "c")}
    assert look(105.0, "d") == {"b_1": (5.0, "d")}
    assert look(150.0, "e") == {"b_1": (50.0, "e")}  # in its next lease
    assert news == [101.0, 150.0]
    clock["s"] = 211.0
    assert waits.told(boards) == {}
    assert look(212.0, "f") == {}
    assert look(214.0, "g") == {"b_1": (2.0, "g")}
    assert look(215.0, None) == {}
    assert news == [101.0, 150.0, 214.0, 215.0]
    assert waits.told({}) == {}


def test_a_wait_that_nobody_was_told_of_ends_without_news(clock: Any) -> None:
    news: list[bool] = []
    waits = GateWaits(lambda: news.append(True))
    waits.looked("local", "busy")
    waits.looked("local", None)
    waits.looked("local", None)
    assert news == []
