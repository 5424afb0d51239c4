"""Remote boards on real adbd: what a killed agent left pinned is put back, and a pinned launch tells of its clock."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchfarm_agent.boards.interface import LaunchOrder
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import OperatingPoint
from tests.agent.conftest import LEASE_TOKEN
from tests.agent.remote_boards import StandInKit, remote_board
from tests.peers.phone_files import DEFAULT_GOVERNOR
from tests.peers.phones import Phone

Run = Callable[[Any], Any]
ROOT = "/data/local/tmp/benchfarm"


@pytest.fixture
def open_board(phone: Phone, peer_adb: Any, state: StateDir, running: Run) -> Callable[..., RemoteBoard]:
    """The phone as a process of the agent finds it: facts read anew, the same journal."""
    peer_adb.connect(phone.address)
    port = AdbPort(peer_adb, phone.address)

    def found(*faults: str) -> RemoteBoard:
        facts = running(read_board_facts(port))
        return remote_board(port, facts, state, ROOT, StandInKit(*faults), place=Place("adb", phone.address))

    return found


def pinned_point(phone: Phone) -> OperatingPoint:
    cluster = phone.model.clusters[0]
    return OperatingPoint(mode="pinned", cores=cluster.cores[-1:], threads=1, freq_khz=cluster.freq_khz[-1:])


def governor(phone: Phone) -> str:
    return phone.read(f"{phone.model.clusters[0].policy}/scaling_governor")


def test_the_next_start_puts_back_what_a_killed_agent_left(
    open_board: Callable[..., RemoteBoard], phone: Phone, running: Run
) -> None:
    board = open_board()

    async def lease() -> None:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        await board.pin(pinned_point(phone))

    running(lease())
    assert governor(phone) != DEFAULT_GOVERNOR
    assert phone.read(f"{ROOT}/lock").split()[1] == LEASE_TOKEN
    later = open_board()  # the agent was killed here
    assert later.name == board.name
    running(later.restore())
    assert governor(phone) == DEFAULT_GOVERNOR
    assert not (phone.root / ROOT.lstrip("/") / "lock").exists()


def test_a_pinned_launch_tells_of_its_clock(open_board: Callable[..., RemoteBoard], phone: Phone, running: Run) -> None:
    board = open_board()
    point = pinned_point(phone)
    request = {"engine": "e", "threads": 1, "cores": list(point.cores), "visits": [{"visit": 1}]}

    async def lease() -> Any:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        await board.pin(point)
        try:
            return await board.launch(LaunchOrder(request, (), silence_s=20, lines_max=100), lambda _: None)
        finally:
            await board.restore()

    ended = running(lease())
    assert ended.returncode == 0
    assert ended.clock is not None
    assert ended.clock.asked_khz == point.freq_khz
    assert not ended.clock.throttle_events
    assert governor(phone) == DEFAULT_GOVERNOR


def test_a_point_that_the_phone_does_not_have_is_refused(
    open_board: Callable[..., RemoteBoard], phone: Phone, running: Run
) -> None:
    odd = pinned_point(phone).model_copy(update={"freq_khz": (123_456,)})
    with pytest.raises(TransientDeviceError, match="cannot be brought to"):
        running(open_board().pin(odd))
    assert governor(phone) == DEFAULT_GOVERNOR


def test_a_phone_that_moves_and_restarts_is_the_same_board(
    open_board: Callable[..., RemoteBoard], phone: Phone, peer_adb: Any, running: Run, state: StateDir
) -> None:
    before = open_board()
    phone.reboot()
    phone.relay.move()
    peer_adb.connect(phone.address)
    port = AdbPort(peer_adb, phone.address)
    after = remote_board(port, running(read_board_facts(port)), state, ROOT, StandInKit(), place=Place("adb", "moved"))
    assert after.name == before.name
    assert running(after.describe()).serial == phone.serial


def test_a_launch_that_lost_its_power_leaves_nothing(
    open_board: Callable[..., RemoteBoard], phone: Phone, peer_adb: Any, running: Run
) -> None:
    board = open_board("hang@1")
    request = {"engine": "e", "threads": 1, "cores": [0], "visits": [{"visit": 1}]}
    folder = phone.root / "data/local/tmp"

    async def lease() -> None:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        started = asyncio.Event()
        order = LaunchOrder(request, (), silence_s=20, lines_max=100)
        launch = asyncio.create_task(board.launch(order, lambda _: started.set()))
        await started.wait()
        await asyncio.to_thread(phone.reboot)
        with pytest.raises(BoardUnreachable):
            await launch

    running(lease())
    left = {path.name.partition("-")[0] for path in [*folder.glob(".benchfarm-*"), *folder.glob("benchfarm/launch-*")]}
    assert left == {".benchfarm", "launch"}
    peer_adb.connect(phone.address)
    running(open_board().restore())
    assert not list(folder.glob(".benchfarm-*"))
    assert sorted(path.name for path in (folder / "benchfarm").iterdir()) == ["files", "runner"]
