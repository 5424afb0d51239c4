"""An agent of simulated boards on a real farm: its results are judged like all others and kept apart from them."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm_agent.boards.simulated_profile import SAMPLE
from benchfarm_core.jobs import JobRequest
from benchfarm_core.platforms import ClockProof, parse_platform_key
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_workloads.draws import draw_mixed
from tests.agent.agent_process import wait_until

BOARDS = 6
QUIET_PROFILE = SAMPLE.read_text().partition("[failures]")[0]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, farm_home: Callable[[Path], Path]) -> Iterator[FarmProcess]:
    with FarmProcess(farm_home(tmp_path_factory.mktemp("farm")), local_board=False) as farm:
        yield farm


@pytest.fixture(scope="module")
def client(farm: FarmProcess) -> Iterator[Client]:
    with Client(farm.url, farm.admin_token) as client:
        yield client


@pytest.fixture
def simulated(farm: FarmProcess, client: Client, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent of six boards that fail at nothing, in time that passes quickly; drained in the end."""
    (tmp_path / "enrol").write_text(client.create_enrol_token().token)
    (tmp_path / "profile.toml").write_text(QUIET_PROFILE)
    words = ["--boards", str(BOARDS), "--speed", "20", "--profile", str(tmp_path / "profile.toml")]
    words += ["--url", farm.url, "--state-dir", str(tmp_path / "state"), "--enrol-token-file", str(tmp_path / "enrol")]
    process = subprocess.Popen([sys.executable, "-m", "benchfarm_agent", "simulate", *words])
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_fleet_measures_for_a_farm_and_is_never_taken_for_a_real_one(
    simulated: subprocess.Popen[bytes], client: Client
) -> None:
    wait_until(lambda: sum(board.state == "idle" for board in client.boards()) == BOARDS, "the boards are registered")
    assert {board.board_model for board in client.boards()} == {"sim-phone"}
    assert all(board.marks == ["simulated"] and board.kind == "simulated" for board in client.boards())
    key = next(one.key for one in client.platforms(threads=[1], precision=["fp32"]))
    workloads = tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(5, 100))
    job = client.wait(client.submit(JobRequest(workloads=workloads, platforms=(key,), repeats=3)).id, timeout_s=120)
    items = list(client.items(job.id))
    grades = Counter(item.summary.grade if item.summary is not None else item.failure for item in items)
    assert grades[Grade.A] + grades[Grade.B] > 0.9 * len(items), grades
    assert all(item.summary.normalised_ms is not None for item in items if item.summary is not None)
    proofs = Counter(item.summary.clock_proof for item in items if item.summary is not None)
    assert proofs[ClockProof.VERIFIED] > 0.9 * len(items)
    assert len({item.board_id for item in items}) > 1, "work spreads"
    platform = parse_platform_key(items[0].platform)
    assert platform.board_model.startswith("sim-")
    assert platform.engine.version.endswith("-sim")
