"""What every kind of board promises the agent. A new kind is one module, and one entry in BOARDS."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.interface import Board, LaunchExit, LaunchOrder
from benchfarm_agent.boards.linux_facts import BOOT_ID, BoardFacts, read_board_facts
from benchfarm_agent.boards.remote import Place
from benchfarm_agent.boards.simulated import SimulatedBoard
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.matching import offered_platforms
from benchfarm_core.platforms import OperatingPoint
from tests.agent.conftest import LEASE_TOKEN
from tests.agent.remote_boards import StandInKit, local_shell, remote_board
from tests.agent.scripted_farm import true_soon
from tests.agent.simulated_boards import simulated_board_with

BOARDS = ("local", "remote", "ssh", "adb", "qemu", "simulated")
Make = Callable[..., Board]
Run = Callable[[Any], Any]


@pytest.fixture
def running() -> Iterator[Run]:
    """Runs coroutines of one test in one loop: a connection lives in the loop that made it."""
    watch_children_without_threads()
    with asyncio.Runner() as runner:
        yield lambda work: runner.run(asyncio.wait_for(work, timeout=60))


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest, running: Run, state: StateDir, tmp_path: Path) -> Iterator[Make]:
    """Makes a board of each kind, with a runner of the given faults."""
    if request.param == "local":
        yield request.getfixturevalue("local_board")
        return
    if request.param == "simulated":
        yield simulated_board_with
        return
    port, root = _reached(request, tmp_path)
    facts = running(_facts_of(port, is_emulated=request.param == "qemu"))
    place = Place("adb" if request.param == "adb" else "ssh", "bench-1")

    def make(*faults: str) -> Board:
        one = remote_board(port, facts, state, root, StandInKit(*faults), place=place)
        running(one.restore())
        running(one.prepare(LEASE_TOKEN))
        return one

    yield make
    running(port.run(["rm", "-rf", root], timeout_s=10))
    running(port.close())


def _reached(request: pytest.FixtureRequest, folder: Path) -> tuple[Port, str]:
    """A port to a board of one kind, and where the agent's folder is on it."""
    if request.param == "ssh":
        ssh = request.getfixturevalue("ssh_host").ssh
        target = SshTarget(ssh.host, ssh.user, ssh.key_file, ssh.known_hosts_file, ssh.port)
        return SshPort(target), "/mnt/board/benchfarm"
    if request.param == "adb":
        server, phone = request.getfixturevalue("peer_adb"), request.getfixturevalue("phone")
        server.connect(phone.address)
        return AdbPort(server, phone.address), "/data/local/tmp/benchfarm"
    if request.param == "qemu":
        ssh = request.getfixturevalue("qemu_board").ssh
        target = SshTarget(ssh.host, ssh.user, ssh.key_file, ssh.known_hosts_file, ssh.port)
        return SshPort(target), "/var/lib/benchfarm-runner"
    return local_shell(folder / "calls"), str(folder / "board")


_known: dict[str, BoardFacts] = {}  # by boot: an emulated board needs seconds to tell them


async def _facts_of(port: Port, *, is_emulated: bool) -> BoardFacts:
    if not is_emulated:
        return await read_board_facts(port)
    boot_id = (await port.read([BOOT_ID]))[BOOT_ID] or ""
    if boot_id not in _known:
        _known[boot_id] = await read_board_facts(port)
    return _known[boot_id]


@pytest.fixture
def children_before(board: Make) -> set[int]:
    """Children of this process that are there for other tests."""
    del board
    return children()


def order(*visits: int, silence_s: float = 20.0, lines_max: int = 100) -> LaunchOrder:
    request = {
        "engine": "e",
        "precision": "fp32",
        "threads": 1,
        "cores": [0],
        "visits": [{"visit": visit} for visit in visits],
    }
    return LaunchOrder(request=request, readable=(), silence_s=silence_s, lines_max=lines_max)


def when_started(started: asyncio.Event) -> Callable[[bytes], None]:
    """Sets the event at the first visit."""

    def on_line(line: bytes) -> None:
        if b'"started"' in line:
            started.set()

    return on_line


async def free_point(board: Board) -> OperatingPoint:
    """One core that the board has, at whatever clock it runs."""
    report = await board.describe()
    return OperatingPoint(mode="free", cores=report.operating_points[0].cores[-1:], threads=1)


def launched(running: Run, board: Board, wanted: LaunchOrder) -> tuple[LaunchExit, list[bytes]]:
    lines: list[bytes] = []
    return running(board.launch(wanted, lines.append)), lines


def test_its_name_is_a_file_name(board: Make) -> None:
    name = board().name
    assert name
    assert name == Path(name).name


def test_it_describes_itself_the_same_twice(board: Make, running: Run) -> None:
    one = running(board().describe())
    two = running(board().describe())
    assert one == two
    assert one.operating_points
    assert [engine.name for engine in one.engines if engine.available] == ["onnxruntime"]
    assert len({point.key for point in one.operating_points}) == len(one.operating_points)
    assert len({platform.id for platform in offered_platforms(one)}) == len(offered_platforms(one))


def test_a_launch_hands_over_every_line_in_order(board: Make, running: Run) -> None:
    ended, lines = launched(running, board(), order(1, 2))
    assert (ended.returncode, ended.cut) == (0, None)
    assert len(lines) == 6
    assert b'"ready"' in lines[0]
    assert b'"end"' in lines[-1]
    assert ended.wall_ms > 0
    assert ended.began_unix_s < ended.ended_unix_s <= time.time()


@pytest.mark.parametrize("fault", ["segfault", "exit", "bad-alloc", "hang-in-child"])
def test_a_crash_is_an_exit(board: Make, running: Run, fault: str) -> None:
    ended, lines = launched(running, board(f"{fault}@1"), order(1, silence_s=1.0))
    assert ended.returncode != 0
    assert b'"started"' in lines[-1]
    assert ended.out_of_memory == (fault == "bad-alloc")


def test_silence_is_cut(board: Make, running: Run) -> None:
    ended, _ = launched(running, board("hang@1"), order(1, silence_s=0.5))
    assert ended.cut == "silent"


@pytest.mark.parametrize("fault", ["long-line", "flood"])
def test_too_much_is_cut(board: Make, running: Run, fault: str) -> None:
    ended, lines = launched(running, board(f"{fault}@1"), order(1, lines_max=10))
    assert ended.cut == "garbage"
    assert len(lines) <= 10 + 1


def test_stopping_ends_the_launch(board: Make, running: Run) -> None:
    one = board("hang@1")

    async def stop_when_started() -> LaunchExit:
        started = asyncio.Event()
        launch = asyncio.create_task(one.launch(order(1), when_started(started)))
        await started.wait()
        await one.stop()
        return await launch

    assert running(stop_when_started()).cut == "stopped"


def test_cancelling_ends_the_launch_first(
    board: Make, running: Run, state: StateDir, children_before: set[int]
) -> None:
    one = board("hang@1")

    async def cancel_when_started() -> None:
        started = asyncio.Event()
        launch = asyncio.create_task(one.launch(order(1), when_started(started)))
        await started.wait()
        launch.cancel()
        await asyncio.gather(launch, return_exceptions=True)

    running(cancel_when_started())
    running(true_soon(lambda: children() <= children_before, limit_s=5))
    assert not list(state.scratch.iterdir())


def test_two_launches_at_once_are_refused(board: Make, running: Run) -> None:
    one = board("hang@1")

    async def twice() -> None:
        started = asyncio.Event()
        launch = asyncio.create_task(one.launch(order(1), when_started(started)))
        await started.wait()
        with pytest.raises(TransientDeviceError):
            await one.launch(order(1), lambda _: None)
        await one.stop()
        await launch

    running(twice())


def test_nothing_is_inherited(board: Make, running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHFARM_AGENT_ENROL_TOKEN", "secret")
    one = board("environment@1")
    if isinstance(one, SimulatedBoard):
        pytest.skip("a simulated launch is no process that could inherit anything")
    _, lines = launched(running, one, order(1))
    names = str(lines[2])
    assert "HOME" in names
    assert "BENCHFARM" not in names


def test_stopping_and_restoring_without_a_launch_are_harmless(board: Make, running: Run) -> None:
    one = board()

    async def nothing_to_do() -> None:
        await one.stop()
        await one.restore()
        await one.restore()

    running(nothing_to_do())


def test_restoring_leaves_nothing_of_a_lease(
    board: Make, running: Run, state: StateDir, children_before: set[int]
) -> None:
    one = board()

    async def lease() -> None:
        await one.prepare(LEASE_TOKEN)
        await one.pin(await free_point(one))
        await one.launch(order(1), lambda _: None)
        await one.restore()

    running(lease())
    running(true_soon(lambda: children() <= children_before, limit_s=5))
    assert not list(state.scratch.iterdir())


def test_an_impossible_operating_point_is_refused(board: Make, running: Run) -> None:
    with pytest.raises(TransientDeviceError):
        running(board().pin(OperatingPoint(mode="free", cores=(4000,), threads=1)))


def test_evidence_and_gate_answer(board: Make, running: Run) -> None:
    one = board()
    point = running(free_point(one))
    conditions = running(one.evidence(point))
    assert conditions.load_1m is None or conditions.load_1m >= 0
    why = running(one.gate(point))
    assert why is None or why


def children() -> set[int]:
    """Living children of this process."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(status.parent.name))
    return found
