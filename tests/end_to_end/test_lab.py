"""Labs as their operators run them: real adbd, adb server and sshd, the native and the Python runner, a real farm."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm_core.boards import BoardState, BoardView
from benchfarm_core.jobs import ItemView, JobRequest, JobView
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_workloads.draws import draw_mixed
from tests.agent.agent_process import AgentProcess, wait_until
from tests.engines.native.cache import CACHE
from tests.engines.native.conftest import built
from tests.peers.phone_files import DEFAULT_GOVERNOR
from tests.peers.phones import Phone
from tests.peers.qemu_board import QemuBoard
from tests.peers.sshd import SshHost

LISTED_S = 3.0
GONE_S = 3.0
GRADED_TRIES = 5
EMULATED_S = 120.0
"""What an emulated board may take where a real one takes a moment."""

AT_ITS_HIGHEST = "/c3.t1.2400000/"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, farm_home: Callable[[Path], Path]) -> Iterator[FarmProcess]:
    # on a busy machine some items are tried three times
    env = {"BENCHFARM_RETRY_S": "0.5"}
    with FarmProcess(farm_home(tmp_path_factory.mktemp("farm")), local_board=False, env=env) as farm:
        yield farm


@pytest.fixture(scope="module")
def client(farm: FarmProcess) -> Iterator[Client]:
    with Client(farm.url, farm.admin_token) as client:
        yield client


@pytest.fixture
def lab(start: Callable[[str], AgentProcess], phones: list[Phone], tmp_path: Path) -> AgentProcess:
    """An agent that drives the six phones and nothing else."""
    built("x86_64")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "runners").symlink_to(CACHE)
    addresses = ", ".join(f'"{phone.address}"' for phone in phones)
    return start(f'local = false\nadb = [{addresses}]\nshared_host = ["*"]\n')


def online(client: Client, kind: str = "adb") -> list[BoardView]:
    return [board for board in client.boards() if board.kind == kind and board.state is not BoardState.OFFLINE]


def submitted(client: Client, board_model: str, count: int, seed: int, engine: str = "ncnn") -> JobView:
    """Kernels at the first operating point of a model, on one thread."""
    keys = [one.key for one in client.platforms(engine=[engine], threads=[1], precision=["fp32"])]
    request = JobRequest(
        workloads=tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, count)),
        platforms=(next(key for key in keys if key.startswith(f"{board_model}/")),),
        protocol=ProtocolRequest(name="quick"),
        max_age_s=0,
    )
    return client.submit(request)


def ended(client: Client, job: JobView) -> list[ItemView]:
    return list(client.items(client.wait(job.id, timeout_s=120).id))


def graded(client: Client, board_model: str, seed: int, said: Callable[[], str], **more: str) -> list[ItemView]:
    """The items that got a number, of the first job that has some. What else becomes of items is none but inconclusive.

    A busy machine makes single measurements inconclusive, three times in a row too. That none of some fifteen kernels
    has a number is not its fault: then the board, its runner or its witness says so always.
    """
    for number in range(GRADED_TRIES):
        items = ended(client, submitted(client, board_model, 3, seed=seed + 1000 * number, **more))
        assert all(item.summary or item.failure == "inconclusive" for item in items), (items, said())
        if found := [item for item in items if item.summary is not None]:
            return found
    raise AssertionError(f"no number with a grade of {GRADED_TRIES} jobs on {board_model}: {said()}")


@pytest.mark.timeout(900)  # the first time the native runner has to be built
def test_phones_are_listed_measured_on_and_may_be_pulled_out(
    lab: AgentProcess, client: Client, phones: list[Phone]
) -> None:
    took_s = wait_until(lambda: len(online(client)) == len(phones), "all phones are listed")
    assert took_s < LISTED_S, lab.said()
    boards = online(client)
    assert {board.serial for board in boards} == {phone.serial for phone in phones}
    assert all(board.marks == ["shared_host"] and board.board_model.startswith("shared-") for board in boards)
    models = [board.board_model for board in boards]
    twins = next(model for model in models if models.count(model) == 2)

    assert all(item.board_id in {board.id for board in boards} for item in graded(client, twins, 1, lab.said))

    job = submitted(client, twins, 10, seed=2)
    victim = _leased(client, twins)
    phone = next(phone for phone in phones if phone.serial == victim.serial)
    pulled_s = time.monotonic()
    phone.relay.unplug()
    wait_until(lambda: client.board(victim.id).state is BoardState.OFFLINE, "the phone is offline")
    assert time.monotonic() - pulled_s < GONE_S, lab.said()
    items = ended(client, job)
    assert all(item.summary or item.failure == "inconclusive" for item in items), items
    phone.relay.plug()
    wait_until(lambda: client.board(victim.id).state is not BoardState.OFFLINE, "the phone is back")
    free = {DEFAULT_GOVERNOR}
    wait_until(lambda: all(governors(one) == free for one in phones), "no phone stays pinned")


@pytest.mark.timeout(900)  # beside others on a busy machine several jobs may be needed
def test_a_board_over_ssh_gets_a_python_runner_and_is_measured_on(
    start: Callable[[str], AgentProcess], client: Client, ssh_host: SshHost
) -> None:
    ssh = ssh_host.ssh
    agent = start(
        f"""
local = false
shared_host = ["bench"]
[[ssh]]
name = "bench"
host = "{ssh.host}"
port = {ssh.port}
user = "{ssh.user}"
key_file = "{ssh.key_file}"
known_hosts_file = "{ssh.known_hosts_file}"
"""
    )
    took_s = wait_until(lambda: bool(online(client, "ssh")), "the board is listed")
    assert took_s < LISTED_S, agent.said()
    wait_until(
        lambda: any(one.available for board in online(client, "ssh") for one in board.engines), "its runner is there"
    )
    (board,) = online(client, "ssh")
    found = graded(client, board.board_model, 3, agent.said, engine="onnxruntime")
    assert {item.board_id for item in found} == {board.id}
    assert not list(ssh_host.home.glob(".cache/benchfarm/launch-*"))
    ssh_host.change_host_key()
    wait_until(lambda: not online(client, "ssh"), "a board with another host key is refused")
    assert "host key" in agent.said()


def governors(phone: Phone) -> set[str]:
    return {phone.read(f"{cluster.policy}/scaling_governor") for cluster in phone.model.clusters}


def _leased(client: Client, board_model: str) -> BoardView:
    found: list[BoardView] = []

    def one_is_leased() -> bool:
        found[:] = [board for board in client.boards(state=BoardState.LEASED) if board.board_model == board_model]
        return bool(found)

    wait_until(one_is_leased, "a phone is leased")
    return found[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_emulated_board_is_pinned_and_measured_on_by_the_native_runner(
    start: Callable[[str], AgentProcess], client: Client, qemu_board: QemuBoard, tmp_path: Path
) -> None:
    built("aarch64")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "runners").symlink_to(CACHE)
    agent = start(f'local = false\nadb = ["{qemu_board.adb_address}"]\n')
    wait_until(lambda: bool(online(client)), "the board is listed", EMULATED_S)
    (board,) = online(client)
    assert (board.marks, board.serial) == (["emulated"], "BFQEMU0001")
    wait_until(lambda: bool(client.platforms(board_model=[board.board_model])), "its engine has answered", EMULATED_S)
    job = submitted(client, board.board_model, 2, seed=4)
    items = list(client.items(client.wait(job.id, timeout_s=600).id))
    assert all(item.summary or item.failure == "inconclusive" for item in items), (items, agent.said())
    measured = [item for item in items if item.summary]
    assert measured, items
    assert all(AT_ITS_HIGHEST in item.platform for item in measured)
    assert all(item.summary.clock_proof is not ClockProof.UNPINNED for item in measured if item.summary)
