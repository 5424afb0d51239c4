"""Golden runs of boards that an agent reaches over adb and SSH: real adbd and sshd, the native and the Python runner.

These boards are this host, and not told so: boards with marks run no golden suite.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm_core.board_health import CANARIES, GOLDEN_SUITE, GoldenOutcome, GoldenReason, GoldenRunView
from benchfarm_core.boards import BoardState, BoardView, Health
from benchfarm_standalone.farm_process import FarmProcess
from tests.agent.agent_process import AgentProcess, wait_until
from tests.engines.native.cache import CACHE
from tests.engines.native.conftest import built
from tests.peers.phones import Phone
from tests.peers.sshd import SshHost

TRIES = 5
RUN_S = 150.0
SETTINGS = {"BENCHFARM_GOLDEN_EVERY_S": "86400", "BENCHFARM_RETRY_S": "0.5"}


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("farm")
    with FarmProcess(home, local_board=False, env=SETTINGS) as farm, Client(farm.url, farm.admin_token) as client:
        yield client


def listed(client: Client, kind: str) -> BoardView:
    """The board, once one of its engines can be used."""

    def found() -> list[BoardView]:
        present = [one for one in client.boards() if one.kind == kind and one.state is not BoardState.OFFLINE]
        return [one for one in present if any(engine.available for engine in one.engines)]

    wait_until(lambda: bool(found()), "the board is listed with an engine", RUN_S)
    (board,) = found()
    return board


def golden_run(client: Client, board: BoardView, said: Callable[[], str]) -> GoldenRunView:
    """The first run that measured something: on a busy machine every time of one may be inconclusive, and the next one
    comes when a person releases the board. That none of several did is not the machine's fault."""

    def ended() -> list[GoldenRunView]:
        return [run for run in client.golden_runs(board.id) if run.outcome is not None]

    for number in range(TRIES):
        wait_until(lambda least=number: len(ended()) > least, "a golden run has ended", RUN_S)  # type: ignore[misc]
        newest, *_ = runs = ended()
        assert runs[-1].reason is GoldenReason.ENROLLED
        if newest.outcome is not GoldenOutcome.FAILED:
            return newest
        for health in (Health.QUARANTINED, Health.GOOD):
            client.set_board_health(board.id, health, "its golden run measured nothing")
    raise AssertionError(f"no golden run of {TRIES} measured anything: {said()}")


def check(run: GoldenRunView, engine: str) -> None:
    """A first run compares with nothing: it begins the board's history, by times of the suite and of its canaries."""
    assert (run.outcome, run.drift) == (GoldenOutcome.BEGUN, None), run
    assert run.ended_at is not None
    assert {one.name for one in run.times} <= {*GOLDEN_SUITE, *CANARIES}
    measured = [one for one in run.times if one.median_ms is not None or one.normalised_ms is not None]
    assert {one.name for one in measured} & set(GOLDEN_SUITE), run
    assert all(f"/{engine}-" in one.platform for one in measured), run


@pytest.mark.timeout(900)  # beside others on a busy machine several runs may be needed
def test_a_board_over_ssh_begins_its_history(
    start: Callable[[str], AgentProcess], client: Client, ssh_host: SshHost
) -> None:
    ssh = ssh_host.ssh
    agent = start(
        f"""
local = false
[[ssh]]
name = "bench"
host = "{ssh.host}"
port = {ssh.port}
user = "{ssh.user}"
engines = ["onnxruntime"]
key_file = "{ssh.key_file}"
known_hosts_file = "{ssh.known_hosts_file}"
"""
    )
    board = listed(client, "ssh")
    assert board.marks == []
    check(golden_run(client, board, agent.said), "onnxruntime")


@pytest.mark.timeout(900)  # the first time the native runner has to be built
def test_a_phone_begins_its_history(
    start: Callable[[str], AgentProcess], client: Client, phone: Phone, tmp_path: Path
) -> None:
    built("x86_64")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "runners").symlink_to(CACHE)
    agent = start(f'local = false\nadb = ["{phone.address}"]\n')
    board = listed(client, "adb")
    assert board.marks == []
    check(golden_run(client, board, agent.said), "ncnn")
