"""Boards come and go, and none waits for another: ways that a test opens, closes and lets hang."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import board_watch
from benchfarm_agent.board_watch import BoardWatch, watch_of
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.boards.remote_runner import MissingRunner
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.standings import read_standings, write_standings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.boards import BoardReport
from benchfarm_core.errors import PermanentDeviceError
from tests.agent.remote_boards import local_shell, remote_board
from tests.agent.scripted_farm import true_soon

Run = Callable[[Any], Any]
NO_RUNNER = MissingRunner(("ncnn",), "no runner in this test")


@pytest.fixture
def facts(running: Run, tmp_path: Path) -> BoardFacts:
    """This host, as a board says what it is."""
    found: BoardFacts = running(read_board_facts(local_shell(tmp_path / "calls")))
    return found


class SlowBoard(RemoteBoard):
    """Takes its time where a test says so."""

    restores = 0
    hangs_in: str = ""

    async def restore(self) -> None:
        self.restores += 1
        await self._hang("restore")

    async def describe(self) -> BoardReport:
        await self._hang("describe")
        report = await super().describe()
        return report.model_copy(update={"serial": self._place.label.partition("@")[0]})

    async def _hang(self, where: str) -> None:
        if self.hangs_in == where:
            await asyncio.Event().wait()


class ScriptedWay:
    """A way that is there while `plugged` is set. A label such as `a@2` is a second way to the board `a`."""

    def __init__(self, label: str, bench: "Bench", *, is_fixed: bool = False) -> None:
        self.label = label
        self.is_fixed = is_fixed
        self.plugged = asyncio.Event()
        self.pulled = asyncio.Event()
        self.fault: Exception | None = None
        self.hangs_in = ""
        self.boards: list[SlowBoard] = []
        self.is_closed = False
        self._bench = bench

    def plug(self) -> None:
        self.pulled.clear()
        self.plugged.set()

    def pull(self) -> None:
        self.plugged.clear()
        self.pulled.set()

    async def open(self) -> Board:
        if self.hangs_in == "open":
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        if not self.plugged.is_set():
            raise BoardUnreachable("nobody answers")
        board = self._bench.board(self.label)
        board.hangs_in = self.hangs_in
        self.boards.append(board)
        return board

    async def gone(self, board: Board) -> str:
        del board
        await self.pulled.wait()
        return "it was pulled"

    async def close(self) -> None:
        self.is_closed = True


class Bench:
    """Makes boards that are this host under different names."""

    def __init__(self, state: StateDir, facts: BoardFacts, folder: Path) -> None:
        self._state = state
        self._facts = facts
        self._folder = folder

    def board(self, label: str) -> SlowBoard:
        port, root, place = local_shell(self._folder / "calls"), str(self._folder / label), Place("ssh", label)
        board = remote_board(port, self._facts, self._state, root, NO_RUNNER, place=place, kind=SlowBoard)
        assert isinstance(board, SlowBoard)
        return board


@pytest.fixture
def bench(state: StateDir, facts: BoardFacts, tmp_path: Path) -> Bench:
    return Bench(state, facts, tmp_path)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchfarm_agent.pauses.LONGEST_S", 0.1)
    monkeypatch.setattr(board_watch, "TRY_AGAIN_S", 0.05)


def labels(watch: BoardWatch) -> list[str]:
    return [one.report.serial for one in watch.present()]


def state_of(watch: BoardWatch, label: str) -> str:
    return next((one.state for one in watch.standings() if one.label == label), "")


def watching(running: Run, watch: BoardWatch, play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def led() -> None:
        async with watch.open():
            await play()

    running(led())


def test_boards_come_and_go_and_come_back(running: Run, bench: Bench) -> None:
    a, b = ScriptedWay("a", bench), ScriptedWay("b", bench)
    watch = BoardWatch([a, b])
    changes: list[list[str]] = []
    watch.on_change = lambda: changes.append(labels(watch))

    async def play() -> None:
        a.plug()
        await true_soon(lambda: labels(watch) == ["a"])
        b.plug()
        await true_soon(lambda: labels(watch) == ["a", "b"])
        a.pull()
        await true_soon(lambda: labels(watch) == ["b"])
        a.plug()
        await true_soon(lambda: labels(watch) == ["a", "b"])

    watching(running, watch, play)
    assert changes == [["a"], ["a", "b"], ["b"], ["a", "b"]]
    assert [one.restores for one in a.boards][:1] == [1], "what was changed is put back before a board is offered"
    assert len(a.boards) == 2
    assert a.boards[0].name == a.boards[1].name, "it is the same board"
    assert (a.is_closed, b.is_closed) == (True, True)


@pytest.mark.parametrize("where", ["open", "restore", "describe"])
def test_a_board_that_hangs_holds_up_no_other(
    running: Run, bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(board_watch, f"{where.upper()}_S", 0.2)
    hanging, fine = ScriptedWay("hanging", bench), ScriptedWay("fine", bench)
    hanging.hangs_in = where
    watch = BoardWatch([hanging, fine])

    async def play() -> None:
        hanging.plug()
        fine.plug()
        await true_soon(lambda: labels(watch) == ["fine"])
        assert state_of(watch, "hanging") in ("", "opening"), "nobody waited for it"
        await true_soon(lambda: state_of(watch, "hanging") == "away")
        hanging.hangs_in = ""
        await true_soon(lambda: labels(watch) == ["fine", "hanging"])

    watching(running, watch, play)


def test_two_ways_to_one_board_are_not_both_driven(
    running: Run, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ScriptedWay("a", bench), ScriptedWay("a@2", bench)
    watch = BoardWatch([first, second])

    async def play() -> None:
        first.plug()
        await true_soon(lambda: len(watch.present()) == 1)
        second.plug()
        await true_soon(lambda: state_of(watch, "a@2") == "contested")
        assert len(watch.present()) == 1
        first.pull()
        await true_soon(lambda: state_of(watch, "a@2") == "ready")

    watching(running, watch, play)
    contested = [one for one in caplog.records if "contested" in one.getMessage()]
    assert len(contested) == 1
    assert "serial of a" in contested[0].__dict__["why"]


def test_a_fault_is_told_and_tried_again(running: Run, bench: Bench) -> None:
    way = ScriptedWay("a", bench)
    watch = BoardWatch([way])

    async def play() -> None:
        way.fault = PermanentDeviceError("its Android is too old")
        await true_soon(lambda: state_of(watch, "a") == "refused")
        way.fault = ValueError("nobody has foreseen this")
        await true_soon(lambda: any("foreseen" in one.detail for one in watch.standings()))
        way.fault = None
        way.plug()
        await true_soon(lambda: labels(watch) == ["a"])

    watching(running, watch, play)


def test_only_fixed_ways_are_waited_for(running: Run, bench: Bench) -> None:
    fixed, other = ScriptedWay("fixed", bench, is_fixed=True), ScriptedWay("other", bench)
    other.hangs_in = "open"
    watch = BoardWatch([fixed, other])

    async def play() -> None:
        assert not watch.is_settled
        fixed.plug()
        await true_soon(lambda: watch.is_settled)
        assert labels(watch) == ["fixed"]

    watching(running, watch, play)


def test_a_way_that_is_removed_takes_its_board_along_at_once(running: Run, bench: Bench) -> None:
    way = ScriptedWay("a", bench)
    watch = BoardWatch()

    async def play() -> None:
        way.plug()
        watch.add(way)
        await true_soon(lambda: labels(watch) == ["a"])
        watch.remove("a", "unplugged")
        assert labels(watch) == []
        assert [(one.state, one.detail) for one in watch.standings()] == [("gone", "unplugged")]
        watch.add(way)
        await true_soon(lambda: labels(watch) == ["a"])

    watching(running, watch, play)


def test_what_is_late_of_a_removed_way_takes_nothing_from_the_next(running: Run, bench: Bench) -> None:
    class Clinging(ScriptedWay):
        async def gone(self, board: Board) -> str:
            try:
                return await super().gone(board)
            finally:
                await late.wait()

    late = asyncio.Event()
    first, second = Clinging("a", bench), ScriptedWay("a", bench)
    watch = BoardWatch()

    async def play() -> None:
        first.plug()
        second.plug()
        watch.add(first)
        await true_soon(lambda: labels(watch) == ["a"])
        watch.remove("a", "unplugged")
        watch.add(second)
        await true_soon(lambda: labels(watch) == ["a"])
        late.set()
        await asyncio.sleep(0.05)
        assert labels(watch) == ["a"]

    watching(running, watch, play)


def test_boards_are_put_back_at_the_end(running: Run, bench: Bench) -> None:
    board = bench.board("a")
    watching(running, watch_of([board]), lambda: true_soon(lambda: board.restores == 1))
    assert board.restores == 2


def test_what_is_seen_is_written_for_people(running: Run, bench: Bench, tmp_path: Path) -> None:
    way, path = ScriptedWay("a", bench), tmp_path / "boards.json"
    watch = BoardWatch([way])
    watch.on_note = lambda: write_standings(path, watch)
    watching(running, watch, lambda: true_soon(lambda: any(one.state == "away" for one in read_standings(path))))
    assert [(one.label, one.detail) for one in read_standings(path)] == [("a", "nobody answers")]
    path.write_text(json.dumps([{"no": "standing"}]))
    assert read_standings(path) == []
