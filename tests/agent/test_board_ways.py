"""Phones as the adb server lists them: which are followed, and what is said of those that cannot be."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.board_ways import AdbSource, RemoteLab
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.boards.remote import Place
from benchfarm_agent.boards.remote_runner import MissingRunner
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_file import LabFile
from benchfarm_agent.lab_gate import LabGate, gate_limits
from benchfarm_agent.ports.adb_server import AdbServer
from benchfarm_agent.ports.adb_watch import AdbDevice
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_agent.ways_back import board_name
from benchfarm_core.boards import BoardMark, BoardName
from benchfarm_core.platforms import OperatingPoint
from tests.agent.tree_port import TreePort, laid_out
from tests.agent.trees import RASPBERRY_PI

Run = Callable[[Any], Any]


class NoServer:
    """An adb server that nobody has started."""

    port = 1


@pytest.fixture
def lab(state: StateDir) -> Callable[..., RemoteLab]:
    settings = Settings(url="http://127.0.0.1:1", state_dir=state.root)
    return lambda **file: RemoteLab(settings, state, LabFile(**file))


def test_phones_are_followed_while_they_can_be_used(lab: Callable[..., RemoteLab], running: Run) -> None:
    source = AdbSource(lab(adb=("a*",)), cast(AdbServer, NoServer()))
    watch = BoardWatch()

    async def play() -> None:
        async with watch.open():
            ours = source.take_over(watch, [AdbDevice("a1", "device"), AdbDevice("other", "device")], set())
            assert ours == watch.labels() == {"a1"}
            ours = source.take_over(watch, [AdbDevice("a1", "offline"), AdbDevice("a2", "unauthorized")], ours)
            assert ours == watch.labels() == set()
            states = {one.label: (one.state, bool(one.advice)) for one in watch.standings()}
            assert states == {"a1": ("offline", True), "a2": ("unauthorized", True)}
            ours = source.take_over(watch, [AdbDevice("a1", "device")], ours)
            assert watch.labels() == {"a1"}
            assert {one.label: one.state for one in watch.standings()}["a2"] == "gone"

    running(play())


def test_two_phones_with_one_serial_are_neither_driven(lab: Callable[..., RemoteLab], running: Run) -> None:
    """The adb server could not tell them apart."""
    source = AdbSource(lab(adb=True), cast(AdbServer, NoServer()))
    watch = BoardWatch()

    async def play() -> None:
        async with watch.open():
            ours = source.take_over(watch, [AdbDevice("a1", "device")], set())
            ours = source.take_over(watch, [AdbDevice("a1", "device"), AdbDevice("a1", "device")], ours)
            assert ours == watch.labels() == set()
            assert [(one.label, one.state) for one in watch.standings()] == [("a1", "contested")]

    running(play())


def test_a_board_that_shares_this_host_is_not_held_up_by_what_runs_here(lab: Callable[..., RemoteLab]) -> None:
    settings = lab().settings
    assert gate_limits(settings, 8, ()).foreign_threads == 8
    shared: tuple[BoardMark, ...] = ("shared_host",)
    assert gate_limits(settings, 8, shared).foreign_threads > 10**9
    strict = settings.model_copy(update={"gate_foreign_threads": 0.5})
    assert gate_limits(strict, 8, ()).foreign_threads == 0.5
    said = LabGate(foreign_threads=2)
    assert gate_limits(strict, 8, (), said).foreign_threads == 2
    assert gate_limits(strict, 8, shared, said).foreign_threads > 10**9


def test_what_is_noted_of_the_way_to_a_board_names_it_as_the_farm_knows_it(
    lab: Callable[..., RemoteLab], running: Run, state: StateDir
) -> None:
    """Another one may have its address, when it is to be told that it is changed still."""
    ours = lab()
    with laid_out(RASPBERRY_PI) as root:
        port = TreePort(root)
        facts = running(read_board_facts(port))
        board = ours.board(Place("ssh", "pi"), port, facts, f"{root}/tmp/board", MissingRunner((), "none"))
        report = running(board.describe())
        point = next(one for one in report.operating_points if one.mode == "pinned")
        running(board.pin(point))
    name = board_name(Journal(state.journal), board.name)
    assert name == BoardName(kind=report.kind, serial=report.serial, hardware_id=report.hardware_id)


def test_a_board_that_comes_back_hot_cools_down_to_where_it_was_at_rest(
    lab: Callable[..., RemoteLab], running: Run
) -> None:
    """A phone that is pulled out and plugged in again in mid-job has not rested by it."""
    ours, point = lab(), OperatingPoint(mode="free", cores=(0,), threads=1)
    heat = "/sys/class/thermal/thermal_zone0/temp"
    with laid_out(RASPBERRY_PI) as root:
        port = TreePort(root)

        def plugged_in() -> Board:
            facts = running(read_board_facts(port))
            return ours.board(Place("ssh", "pi"), port, facts, f"{root}/tmp/board", MissingRunner((), "none"))

        port.put(heat, "40000")
        assert running(plugged_in().gate(point)) is None
        port.put(heat, "60000")
        assert running(plugged_in().gate(point)) == "60 degrees: it cools down to 44"
