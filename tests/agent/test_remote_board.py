"""A remote board keeps its promises over a port: what is put there, who holds it, what is left, what is seen."""

import asyncio
import errno
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.interface import LaunchOrder
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.remote import RemoteBoard
from benchfarm_agent.boards.remote_runner import MissingRunner, NativeKit
from benchfarm_agent.boards.sensors import GateLimits
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.journal import Journal
from benchfarm_agent.leases import LeaseWork
from benchfarm_agent.main import open_lab
from benchfarm_agent.ports.interface import LAUNCH_LIMIT_S, BoardUnreachable, PortTransferFailed, Streamed
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import OperatingPoint
from tests.agent.conftest import LEASE_TOKEN
from tests.agent.ports.local_shell import LocalShellPort
from tests.agent.remote_boards import StandInKit, local_shell, remote_board
from tests.agent.scripted_farm import given_back, handed_in, results_in, scripted_farm, taken

Run = Callable[[Any], Any]
OTHER_LEASE = "l_" + "0b" * 16


class WatchedPort(LocalShellPort):
    """Notes what is put on the board; goes away, or runs out of room, when told to."""

    def __init__(self, inner: LocalShellPort) -> None:
        super().__init__(inner._shell, inner._env)
        self.pushed: list[str] = []
        self.is_away = False
        self.full_for: set[str] = set()

    async def _open(self, command: str) -> Any:
        if self.is_away:
            raise BoardUnreachable("nobody answers")
        return await super()._open(command)

    async def push(self, local: Path, remote: str, *, mode: int = 0o644, timeout_s: float) -> None:
        name = remote.rpartition("/")[2]
        self.pushed.append(name)
        if name in self.full_for:
            self.full_for.discard(name)
            raise PortTransferFailed(f"could not take {remote}: No space left on device")
        await super().push(local, remote, mode=mode, timeout_s=timeout_s)

    async def stream(self, *arguments: Any, **options: Any) -> Streamed:
        if self.is_away:
            raise BoardUnreachable("nobody answers")
        return await super().stream(*arguments, **options)


@pytest.fixture
def port(tmp_path: Path) -> WatchedPort:
    return WatchedPort(local_shell(tmp_path / "calls"))


@pytest.fixture
def facts(running: Run, tmp_path: Path) -> BoardFacts:
    found: BoardFacts = running(read_board_facts(local_shell(tmp_path / "calls")))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The agent's folder on the board."""
    return tmp_path / "board"


@pytest.fixture
def make(port: WatchedPort, facts: BoardFacts, state: StateDir, root: Path) -> Callable[..., RemoteBoard]:
    def board(*faults: str, **more: Any) -> RemoteBoard:
        return remote_board(port, facts, state, str(root), StandInKit(*faults), **more)

    return board


def order(files: dict[str, Path], *visits: int) -> LaunchOrder:
    """A launch whose visits open these files."""
    artifacts = list(files.values())
    request = {
        "engine": "e",
        "threads": 1,
        "cores": [0],
        "visits": [
            {"visit": visit, "artifact": str(artifacts[0]), "gates": [{"reference": str(artifacts[-1])}]}
            for visit in visits
        ],
    }
    return LaunchOrder(request=request, readable=tuple(artifacts), silence_s=20, lines_max=100)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("graph", "reference")}
    for name, path in found.items():
        path.write_text(f"content of the {name}")
    return found


def launched(board: RemoteBoard, wanted: LaunchOrder) -> Any:
    async def led() -> tuple[Any, list[bytes]]:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        lines: list[bytes] = []
        return await board.launch(wanted, lines.append), lines

    return led()


def test_files_go_once_and_the_runner_reads_them_there(
    make: Callable[..., RemoteBoard], port: WatchedPort, files: dict[str, Path], root: Path, running: Run
) -> None:
    board = make("reads@1")

    async def twice() -> list[bytes]:
        await board.prepare(LEASE_TOKEN)
        lines: list[bytes] = []
        for _ in range(2):
            await board.launch(order(files, 1), lines.append)
        return lines

    lines = running(twice())
    said = [json.loads(line) for line in lines if b"detail" in line]
    assert [one["detail"] for one in said] == ["content of the graph"] * 2
    assert len([name for name in port.pushed if name != "stand_in.sh"]) == 2, "each file once"
    assert len(list((root / "files").iterdir())) == 2


def test_another_process_of_the_agent_finds_the_files_again(
    make: Callable[..., RemoteBoard], port: WatchedPort, files: dict[str, Path], running: Run
) -> None:
    running(launched(make(), order(files, 1)))
    before = len(port.pushed)
    running(launched(make(), order(files, 1)))
    assert len(port.pushed) == before


@pytest.mark.parametrize("content", [b"", b"content of th", bytes(20)])
def test_a_file_that_the_board_damaged_is_put_there_again(
    make: Callable[..., RemoteBoard],
    port: WatchedPort,
    files: dict[str, Path],
    root: Path,
    running: Run,
    content: bytes,
) -> None:
    running(launched(make(), order(files, 1)))
    damaged = root / "files" / _sha256(files["graph"])
    damaged.chmod(0o600)
    damaged.write_bytes(content)
    port.pushed.clear()
    running(launched(make(), order(files, 1)))
    assert damaged.read_bytes() == files["graph"].read_bytes()
    assert port.pushed == [damaged.name]


def test_a_lock_names_the_lease_and_keeps_another_agent_out(
    make: Callable[..., RemoteBoard], root: Path, running: Run
) -> None:
    ours, theirs = make(), make(owner="agent2")
    running(ours.restore())
    running(ours.prepare(LEASE_TOKEN))
    assert (root / "lock").read_text().split()[:2] == ["agent1", LEASE_TOKEN]
    with pytest.raises(TransientDeviceError, match=r"another agent \(agent1\) measures on this board"):
        running(theirs.prepare(OTHER_LEASE))
    running(theirs.restore())
    assert (root / "lock").exists(), "an agent lets go of its own locks only"
    running(ours.restore())
    running(theirs.prepare(OTHER_LEASE))
    assert (root / "lock").read_text().split()[:2] == ["agent2", OTHER_LEASE]


@pytest.mark.parametrize("left", ["agent2 l_x 1", "agent2 l_x", "", "agent2 l_x 99999999999", "agent2 l_x garbage"])
def test_a_stale_or_broken_lock_keeps_nobody_out(
    make: Callable[..., RemoteBoard], root: Path, running: Run, left: str
) -> None:
    board = make()
    running(board.restore())
    (root / "lock").write_text(left)
    running(board.prepare(LEASE_TOKEN))
    assert (root / "lock").read_text().startswith("agent1")


def test_what_a_killed_agent_left_is_swept(make: Callable[..., RemoteBoard], root: Path, running: Run) -> None:
    (root / "launch-agent1-0123").mkdir(parents=True)
    (root / "launch-agent2-0123").mkdir()
    running(make().restore())
    assert sorted(path.name for path in root.glob("launch-*")) == ["launch-agent2-0123"]


def test_what_calls_left_when_the_power_went_is_swept(
    make: Callable[..., RemoteBoard], facts: BoardFacts, running: Run, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    for digit, boot in (("1", "of the boot before\n"), ("2", ""), ("3", f"{facts.boot_id}\n")):
        (calls / f".benchfarm-{digit * 16}").mkdir()
        (calls / f".benchfarm-{digit * 16}" / "boot").write_text(boot)
    others = {".benchfarm-of-a-bundle", f".benchfarm-{'4' * 16}", "of-somebody-else"}
    for name in others:
        (calls / name).mkdir()
    running(make().restore())
    assert {path.name for path in calls.iterdir()} == {f".benchfarm-{'3' * 16}", *others}


def test_a_launch_may_last_as_long_as_it_can_speak(
    port: WatchedPort, facts: BoardFacts, state: StateDir, root: Path, files: dict[str, Path], running: Run
) -> None:
    kit = StandInKit()
    board = remote_board(port, facts, state, str(root), kit)
    wanted = replace(order(files, 1), silence_s=20.0, lines_max=4)
    assert running(launched(board, wanted))[0].returncode == 0
    running(launched(board, replace(wanted, lines_max=10_000)))
    assert kit.limits_s == [80.0, LAUNCH_LIMIT_S]


def test_the_native_runner_gets_a_lock_and_a_limit(
    port: WatchedPort, facts: BoardFacts, state: StateDir, root: Path, files: dict[str, Path], running: Run
) -> None:
    binary = files["graph"].with_name("runner")
    binary.write_text('#!/bin/sh\necho "$*"\n')
    board = remote_board(port, facts, state, str(root), NativeKit(binary, _sha256(binary)))
    _, lines = running(launched(board, replace(order(files, 1), silence_s=20.5, lines_max=3)))
    assert lines == [f"--lock {root}/running --limit-s 62".encode()]


def test_nothing_is_left_after_a_lease(
    make: Callable[..., RemoteBoard], root: Path, files: dict[str, Path], running: Run
) -> None:
    board = make()

    async def lease() -> None:
        await board.prepare(LEASE_TOKEN)
        await board.launch(order(files, 1), lambda _: None)
        await board.restore()

    running(lease())
    assert sorted(path.name for path in root.iterdir()) == ["files", "runner"]


def test_what_is_not_needed_makes_room(
    make: Callable[..., RemoteBoard], port: WatchedPort, files: dict[str, Path], root: Path, running: Run
) -> None:
    running(launched(board := make(), order({"graph": files["graph"]}, 1)))
    first = next((root / "files").iterdir())
    other = order({"reference": files["reference"]}, 1)
    port.full_for = {_sha256(files["reference"])}
    ended, _ = running(launched(board, other))
    assert ended.returncode == 0
    assert not first.exists(), "what was used longest ago went"


def test_a_full_board_is_told_as_such(
    make: Callable[..., RemoteBoard], port: WatchedPort, files: dict[str, Path], running: Run
) -> None:
    board = make()
    running(board.restore())
    port.full_for = {_sha256(files["graph"])}
    with pytest.raises(OSError, match="storage") as full:
        running(launched(board, order({"graph": files["graph"]}, 1)))
    assert full.value.errno == errno.ENOSPC


def test_a_board_that_went_away_is_told_of(
    make: Callable[..., RemoteBoard], port: WatchedPort, files: dict[str, Path], running: Run
) -> None:
    board = make()

    async def pull() -> str:
        await board.restore()
        away = asyncio.create_task(board.away())
        port.is_away = True
        with pytest.raises(BoardUnreachable):
            await board.launch(order(files, 1), lambda _: None)
        return await asyncio.wait_for(away, timeout=1)

    assert running(pull()) == "nobody answers"


def test_a_board_that_started_anew_is_another_time_of_it(
    port: WatchedPort,
    facts: BoardFacts,
    state: StateDir,
    root: Path,
    running: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchfarm_agent.boards.remote.LOOK_EVERY_S", 0.01)
    earlier = remote_board(port, replace(facts, boot_id="of the boot before"), state, str(root), StandInKit())
    assert running(earlier.away()) == "it has started anew"


def test_a_runner_that_times_otherwise_makes_another_generation(
    port: WatchedPort, facts: BoardFacts, state: StateDir, root: Path, running: Run
) -> None:
    plain, other = StandInKit(), StandInKit()
    other.timing = "native 3"
    before, after = (
        running(remote_board(port, facts, state, str(root), kit).describe()).generation for kit in (plain, other)
    )
    assert before == facts.host.generation != after


def test_without_a_runner_it_is_shown_with_the_reason(
    port: WatchedPort, facts: BoardFacts, state: StateDir, root: Path, running: Run
) -> None:
    board = remote_board(port, facts, state, str(root), MissingRunner(("ncnn",), "build one"))
    report = running(board.describe())
    assert [(one.name, one.available, one.reason) for one in report.engines] == [("ncnn", False, "build one")]
    with pytest.raises(TransientDeviceError, match="build one"):
        running(board.prepare(LEASE_TOKEN))


def test_the_native_runner_is_checked_at_each_lease(
    port: WatchedPort, facts: BoardFacts, state: StateDir, root: Path, running: Run, tmp_path: Path
) -> None:
    binary = tmp_path / "runner"
    binary.write_text('#!/bin/sh\necho \'{"engine": "ncnn", "available": true, "version": "7"}\'\n')
    kit = NativeKit(binary, _sha256(binary))
    board = remote_board(port, facts, state, str(root), kit)
    running(board.restore())
    (engine,) = running(board.describe()).engines
    assert (engine.name, engine.version) == ("ncnn", "7")
    placed = next((root / "runner").glob("native-*"))
    running(board.prepare(LEASE_TOKEN))
    assert port.pushed.count(placed.name) == 1
    placed.write_text("#!/bin/sh\necho tampered\n")
    (root / "runner" / "native-of-an-older-version").write_text("old")
    running(board.prepare(LEASE_TOKEN))
    assert placed.read_text() == binary.read_text()
    assert [path.name for path in (root / "runner").iterdir()] == [placed.name]


def test_it_waits_for_quiet_by_its_own_sensors(make: Callable[..., RemoteBoard], running: Run) -> None:
    board = make(limits=GateLimits(foreign_threads=-1))
    point = running(board.describe()).operating_points[0]
    assert "other threads want to run" in running(board.gate(point))


def test_what_is_not_put_back_keeps_the_gate_shut(
    make: Callable[..., RemoteBoard], state: StateDir, running: Run, root: Path
) -> None:
    board = make()
    journal = Journal(state.journal)
    journal.remember(board.name, f"clock:{root}/no-such-setting", "1")
    point = running(board.describe()).operating_points[0]
    assert "no-such-setting" in running(board.gate(point))
    journal.forget(board.name, f"clock:{root}/no-such-setting")
    assert running(board.gate(point)) is None


def lease_on(board: RemoteBoard, state: StateDir, grant: LeaseGrant) -> Any:
    """One lease with the agent's own preparation; what the farm heard."""

    async def led() -> list[Any]:
        async with scripted_farm(taken) as farm:
            client = FarmClient(farm.url)
            settings = Settings(url=farm.url, state_dir=state.root, gate_wait_s=0.2)
            try:
                async with open_lab(settings, state, client) as lab:
                    await LeaseWork(lab, board, await at_a_free_clock(board, grant), asked_s=boottime_s()).run()
            finally:
                await client.close()
            return farm.calls

    return led()


async def at_a_free_clock(board: RemoteBoard, grant: LeaseGrant) -> LeaseGrant:
    """The same lease on a core that the board has."""
    cores = (await board.describe()).operating_points[0].cores[-1:]
    point = OperatingPoint(mode="free", cores=cores, threads=1)
    return grant.model_copy(update={"platform": grant.platform.model_copy(update={"operating_point": point})})


def outcomes(calls: list[Any]) -> dict[int, str]:
    return {number: one["failure"] or "ok" for number, one in results_in(calls).items()}


def released(calls: list[Any]) -> Any:
    return given_back(calls)[0]


def test_a_whole_lease(
    make: Callable[..., RemoteBoard], state: StateDir, grant: Callable[..., LeaseGrant], running: Run
) -> None:
    calls = running(lease_on(make(), state, grant(3)))
    assert outcomes(calls) == dict.fromkeys((1, 2, 3), "ok")
    assert released(calls)["reason"] == "done"
    launches = [one for body in handed_in(calls) for one in body["launches"]]
    assert len(launches) == 3
    assert all(launch["clock"]["asked_khz"] == [] for launch in launches), "a free clock is watched for throttling"


def test_a_lease_whose_board_goes_away_ends_and_only_what_ran_pays(
    make: Callable[..., RemoteBoard],
    port: WatchedPort,
    state: StateDir,
    grant: Callable[..., LeaseGrant],
    running: Run,
) -> None:
    class Vanishing(RemoteBoard):
        async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> Any:
            def then_away(line: bytes) -> None:
                on_line(line)
                if b'"started"' in line:
                    port.is_away = True
                    raise BoardUnreachable("the cable was pulled")

            return await super().launch(order, then_away)

    calls = running(lease_on(make(kind=Vanishing), state, grant(3)))
    assert list(outcomes(calls).values()) == [FailureCode.BOARD_LOST]
    assert released(calls)["reason"] == "board_lost"


def test_a_board_that_another_agent_holds_costs_nothing(
    make: Callable[..., RemoteBoard], state: StateDir, grant: Callable[..., LeaseGrant], running: Run
) -> None:
    other = make(owner="agent2")
    running(other.restore())
    running(other.prepare(OTHER_LEASE))
    calls = running(lease_on(make(), state, grant(3)))
    assert outcomes(calls) == {}
    assert released(calls)["reason"] == "error"
    assert "another agent" in released(calls)["detail"]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
