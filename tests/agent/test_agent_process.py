"""An agent as its operator runs it, against a real farm: it enrols, measures, drains, and survives being killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchfarm import Client
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_core.agent_protocol import PROTOCOL_VERSION, PollAnswer, PollRequest
from benchfarm_core.boards import BoardState
from benchfarm_core.jobs import ItemView, JobRequest, JobState, JobView
from benchfarm_core.measurements import MeasurementState
from benchfarm_core.platforms import PlatformFilter
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_workloads.draws import draw_mixed
from tests.agent.agent_process import AgentProcess, is_alive, wait_until
from tests.agent.scripted_farm import HANG_UP, Call, problem, scripted_farm

STAND_IN = Path(__file__).with_name("stand_in_runner.py")
HANGING = (sys.executable, "-I", str(STAND_IN), "hang@all")
SHORT_LEASES = {"BENCHFARM_LEASE_S": "4", "BENCHFARM_RENEW_S": "1", "BENCHFARM_RETRY_S": "0.5"}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, farm_home: Callable[[Path], Path]) -> Iterator[FarmProcess]:
    """A farm without a board, whose leases are short."""
    with FarmProcess(farm_home(tmp_path_factory.mktemp("farm")), local_board=False, env=SHORT_LEASES) as farm:
        yield farm


@pytest.fixture(scope="module")
def client(farm: FarmProcess) -> Iterator[Client]:
    with Client(farm.url, farm.admin_token) as client:
        yield client


@pytest.fixture(scope="module")
def lab(farm: FarmProcess, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """An agent that has enrolled and is not running: one host is one board, so all tests share it."""
    folder = tmp_path_factory.mktemp("lab")
    folder.chmod(0o711)
    token_file = folder / "enrol"
    token_file.write_text(client.create_enrol_token().token)
    agent = AgentProcess(farm.url, folder / "state", folder / "agent.log")
    agent.start("--enrol-token-file", str(token_file))
    agent.wait_ready()
    agent.signal(signal.SIGTERM)
    assert agent.wait_ended() == 0
    return agent


@pytest.fixture
def agent(lab: AgentProcess, client: Client) -> Iterator[AgentProcess]:
    """The agent, to be started by the test; no job is left behind for the next one."""
    yield lab
    for job in client.jobs():
        if job.state in (JobState.QUEUED, JobState.PLANNING, JobState.RUNNING):
            client.cancel(job.id)
    lab.stop()


def submit(client: Client, seed: int, count: int, engine_version: str | None = None, **parameters: int) -> JobView:
    """A job of `count` kernels that measures anew, on one thread of ONNX Runtime."""
    wanted = [key for key in offered(client) if engine_version is None or f"-{engine_version}/" in key]
    if engine_version is None:
        wanted = [key for key in wanted if "onnxruntime-1/" not in key]
    request = JobRequest(
        workloads=tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, count)),
        platforms=tuple(wanted) if wanted else PlatformFilter(),
        protocol=ProtocolRequest(name="quick", parameters=dict(parameters)),
        max_age_s=0,
    )
    return client.submit(request)


def offered(client: Client) -> list[str]:
    """Platforms with one thread of ONNX Runtime; those of a stand-in have version 1."""
    return [one.key for one in client.platforms(engine=["onnxruntime"], threads=[1], precision=["fp32"])]


def measurements(client: Client, job: JobView) -> list[ItemView]:
    wait_until(lambda: all(item.measurement_id for item in client.items(job.id)), "the job is planned")
    return list(client.items(job.id))


def attempts(client: Client, job: JobView) -> list[int]:
    return [client.measurement(item.measurement_id or 0).attempts for item in measurements(client, job)]


def test_it_measures_what_a_client_asks_for(agent: AgentProcess, client: Client) -> None:
    agent.start()
    agent.wait_ready()
    job = client.wait(submit(client, 1, 4).id, timeout_s=60)
    items = list(client.items(job.id))
    assert all(item.summary or item.failure == "inconclusive" for item in items), items
    assert any(item.summary for item in items)
    assert agent.runners() == set()
    spool = agent.state_dir / "spool"
    wait_until(lambda: not list(spool.iterdir()), "every result is confirmed")
    assert not list((agent.state_dir / "scratch").glob("launch-*"))


def test_its_identity_is_private_and_its_name_is_known(agent: AgentProcess, client: Client) -> None:
    identity = agent.state_dir / "identity.json"
    assert identity.stat().st_mode & 0o777 == 0o600
    assert json.loads(identity.read_text())["agent_id"] in {one.id for one in client.agents()}
    assert json.loads(identity.read_text())["token"] not in agent.said()


def test_sigterm_while_parked_ends_it_at_once(agent: AgentProcess, client: Client) -> None:
    agent.start()
    agent.wait_ready()
    agent.signal(signal.SIGTERM)
    assert wait_until(lambda: agent.ended() is not None, "the agent drains") < 3
    assert agent.ended() == 0
    assert [board.state for board in client.boards()] == [BoardState.OFFLINE], "another agent may have it at once"


def test_sigterm_during_a_launch_drains_within_10_s_and_costs_nothing(agent: AgentProcess, client: Client) -> None:
    agent.start(runner=HANGING)
    agent.wait_ready()
    job = submit(client, 2, 3, engine_version="1")
    wait_until(lambda: bool(agent.runners()), "a runner lives")
    runners = agent.runners()
    agent.signal(signal.SIGTERM)
    assert wait_until(lambda: agent.ended() is not None, "the agent drains") < 10
    assert agent.ended() == 0
    assert not [pid for pid in runners if is_alive(pid)]
    assert attempts(client, job) == [0, 0, 0]
    states = {client.measurement(item.measurement_id or 0).state for item in measurements(client, job)}
    assert states == {MeasurementState.WANTED}


def test_a_killed_agent_leaves_no_runner_and_only_what_ran_pays(agent: AgentProcess, client: Client) -> None:
    agent.start()
    agent.wait_ready()
    job = submit(client, 3, 3, visit_ms=20_000)
    # without a runner the note names what is being built
    wait_until(lambda: bool(agent.runners() and running_note(agent)), "a visit has begun")
    runners = agent.runners()
    agent.signal(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in runners if is_alive(pid)], "the runner is dead", limit_s=3)
    agent.start()
    agent.wait_ready()
    assert sorted(attempts(client, job)) == [0, 0, 1]
    assert not [one for one in (agent.state_dir / "spool").iterdir() if not one.name.startswith("l_")]


def test_what_was_built_inside_a_killed_agent_pays(agent: AgentProcess, client: Client) -> None:
    agent.start()
    agent.wait_ready()
    platform = next(key for key in offered(client) if "onnxruntime-1/" not in key)
    request = JobRequest(
        workloads=(KernelRequest(type="fc", config={"cin": 5600, "cout": 5599}),), platforms=(platform,), max_age_s=0
    )
    job = client.submit(request)
    wait_until(lambda: bool(running_note(agent)), "its file is being built")
    agent.signal(signal.SIGSTOP)
    assert not agent.runners()
    agent.signal(signal.SIGKILL)
    agent.start()
    agent.wait_ready()
    assert attempts(client, job) == [1]


def running_note(agent: AgentProcess) -> str:
    notes = [one.read_text().strip() for one in (agent.state_dir / "spool").glob("*/running")]
    return "".join(notes)


def test_a_board_stops_when_its_lease_cannot_be_renewed(agent: AgentProcess, client: Client, farm: FarmProcess) -> None:
    agent.start(runner=HANGING)
    agent.wait_ready()
    submit(client, 4, 1, engine_version="1")
    wait_until(lambda: bool(agent.runners()), "a runner lives")
    api = farm.pid("api")
    os.kill(api, signal.SIGSTOP)
    try:
        assert wait_until(lambda: not agent.runners(), "the board is stopped") < 6
    finally:
        os.kill(api, signal.SIGCONT)
    assert agent.ended() is None


def test_it_outlives_the_api(agent: AgentProcess, client: Client, farm: FarmProcess) -> None:
    agent.start()
    agent.wait_ready()
    farm.wait_until_back("api", farm.kill("api"))
    job = client.wait(submit(client, 5, 2).id, timeout_s=60)
    assert all(item.summary or item.failure == "inconclusive" for item in client.items(job.id))


def test_a_cancelled_job_frees_the_board(agent: AgentProcess, client: Client) -> None:
    agent.start()
    agent.wait_ready()
    job = submit(client, 6, 40, visit_ms=500)
    wait_until(lambda: bool(agent.runners()), "a runner lives")
    client.cancel(job.id)
    other = client.wait(submit(client, 7, 1).id, timeout_s=100)
    assert other.state in (JobState.SUCCEEDED, JobState.FAILED)


@pytest.mark.root
def test_a_full_disk_is_a_typed_failure_and_the_board_goes_on(
    agent: AgentProcess, client: Client, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=711", "tmpfs", str(small)], check=True)
    on_small_disk = AgentProcess(agent.url, small / "state", agent.log_file)
    try:
        on_small_disk.state_dir.mkdir()
        (on_small_disk.state_dir / "identity.json").write_bytes((agent.state_dir / "identity.json").read_bytes())
        on_small_disk.start()
        on_small_disk.wait_ready()
        platform = next(
            one.key
            for one in client.platforms(engine=["onnxruntime"], threads=[1], precision=["fp32"])
            if "onnxruntime-1/" not in one.key
        )
        request = JobRequest.model_validate(
            {
                "workloads": [{"kind": "model", "name": "resnet18"}, {"kind": "kernel", **small_kernel()}],
                "platforms": [platform],
                "protocol": {"name": "quick"},
                "max_age_s": 0,
            }
        )
        job = client.wait(client.submit(request).id, timeout_s=100)
        big, little = client.items(job.id)
        assert big.failure == "disk_full"
        assert little.summary or little.failure == "inconclusive"
    finally:
        on_small_disk.stop()
        subprocess.run(["umount", "-l", str(small)], check=True)


def small_kernel() -> dict[str, object]:
    kernel = draw_mixed(8, 1)[0]
    return {"type": kernel.type, "config": kernel.config}


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://farm.example", 2, "url: a token would travel in the clear: use https"),
        ("nonsense", 2, "address"),
    ],
)
def test_an_unsafe_address_is_refused(tmp_path: Path, url: str, code: int, words: str) -> None:
    agent = AgentProcess(url, tmp_path / "state", tmp_path / "log")
    agent.start()
    assert agent.wait_ended() == code
    assert words in agent.said()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--enrol-token-file", "/nope"], "cannot read a token from /nope (No such file or directory): give another"),
        (
            ["--state-dir", "/proc/foo"],
            "cannot use /proc/foo as the agent's folder (No such file or directory): choose",
        ),
    ],
)
def test_what_cannot_be_opened_is_a_wrong_command_line(options: list[str], words: str, tmp_path: Path) -> None:
    agent = AgentProcess("http://127.0.0.1:1", tmp_path / "state", tmp_path / "log")
    agent.start(*options)
    assert agent.wait_ended() == 2
    assert words in agent.said()


def test_one_that_cannot_enrol_says_at_once_that_its_farm_is_away(tmp_path: Path) -> None:
    agent = AgentProcess("http://127.0.0.1:1", tmp_path / "state", tmp_path / "log")
    agent.start(env={"BENCHFARM_AGENT_ENROL_TOKEN": "bfe_" + "0" * 43})
    try:
        wait_until(lambda: "cannot reach the farm at http://127.0.0.1:1" in agent.said(), "it says so", limit_s=10)
    finally:
        agent.stop()


def test_without_a_token_it_says_how_to_enrol(farm: FarmProcess, tmp_path: Path) -> None:
    agent = AgentProcess(farm.url, tmp_path / "state", tmp_path / "log")
    agent.start()
    assert agent.wait_ended() == 3
    assert "--enrol-token-file" in agent.said()


def test_a_used_token_enrols_nobody(farm: FarmProcess, tmp_path: Path) -> None:
    agent = AgentProcess(farm.url, tmp_path / "state", tmp_path / "log")
    agent.start(env={"BENCHFARM_AGENT_ENROL_TOKEN": "bfe_" + "0" * 43})
    assert agent.wait_ended() == 3
    assert "agent stopped" in agent.said()
    assert not (tmp_path / "state" / "identity.json").exists()


def test_a_token_that_the_farm_does_not_know_stops_it(farm: FarmProcess, tmp_path: Path) -> None:
    agent = AgentProcess(farm.url, tmp_path / "state", tmp_path / "log")
    agent.state_dir.mkdir()
    (agent.state_dir / "identity.json").write_text('{"agent_id": "a_x", "token": "bft_unknown"}')
    agent.start()
    assert agent.wait_ended() == 3
    assert "agent stopped" in agent.said()
    assert "bft_unknown" not in agent.said()


def test_two_agents_do_not_share_a_folder(agent: AgentProcess, farm: FarmProcess, tmp_path: Path) -> None:
    agent.start()
    agent.wait_ready()
    second = AgentProcess(farm.url, agent.state_dir, tmp_path / "log")
    second.start()
    assert second.wait_ended() == 3
    assert "another agent" in second.said()
    assert agent.ended() is None


def test_the_farm_answers_a_busy_agent_too(lab: AgentProcess, running: Callable[[Any], Any]) -> None:
    """Nothing idle and nothing to say: the poll is parked. A lease that is not live any more is named at once."""
    lease = "l_" + "8" * 32

    async def poll(leases: tuple[str, ...], wait_s: float) -> PollAnswer:
        token = json.loads((lab.state_dir / "identity.json").read_text())["token"]
        farm = FarmClient(lab.url, token=token)
        try:
            version = {"protocol_version": PROTOCOL_VERSION, "agent_version": "1"}
            return await farm.poll(
                PollRequest.model_validate({**version, "leases": leases, "idle": (), "wait_s": wait_s})
            )
        finally:
            await farm.close()

    began_s = boottime_s()
    assert running(poll((), 0.5)) == PollAnswer(offers=[], ended_leases=[], unknown_boards=[])
    assert boottime_s() - began_s > 0.4
    began_s = boottime_s()
    assert running(poll((lease,), 50.0)).ended_leases == [lease]
    assert boottime_s() - began_s < 25


def test_what_is_owed_is_handed_over_before_the_farm_hears_of_a_new_process(
    tmp_path: Path, running: Callable[[Any], Any]
) -> None:
    lease = tmp_path / "state" / "spool" / ("l_" + "7" * 32)
    refusals = [HANG_UP, problem(503, "unavailable"), *[problem(503, "unavailable")] * 10]

    def farm_that_comes_back(call: Call) -> Any:
        verb = call.path.rsplit("/", 1)[1]
        if verb == "results":
            return refusals.pop() if refusals else (200, {"accepted": [7], "repeated": [], "orphaned": []})
        if verb == "boards":
            return 200, {"boards": [{"board_id": "b_1", "state": "idle", "health": "good", "reason": ""}]}
        return (204, b"") if verb == "release" else (200, {"offers": [], "ended_leases": [], "unknown_boards": []})

    async def restart() -> list[Call]:
        async with scripted_farm(farm_that_comes_back) as farm:
            agent = AgentProcess(farm.url, tmp_path / "state", tmp_path / "log")
            lease.mkdir(parents=True)
            (lease / "running").write_text("7")
            (agent.state_dir / "identity.json").write_text('{"agent_id": "a_x", "token": "bft_x"}')
            try:
                agent.start()
                await asyncio.to_thread(agent.wait_ready)
                agent.signal(signal.SIGTERM)
                assert await asyncio.to_thread(agent.wait_ended) == 0
            finally:
                agent.stop()
            return farm.calls

    tmp_path.chmod(0o711)
    calls = running(restart())
    verbs = [call.path.rsplit("/", 1)[1] for call in calls]
    assert verbs[:14] == ["results"] * 13 + ["release"]
    assert verbs[14] == "boards"
    assert calls[14].body["process_started"] is True
    assert not lease.exists()


def test_an_agent_whose_farm_is_away_says_so_and_goes_on(tmp_path: Path) -> None:
    agent = AgentProcess("http://127.0.0.1:1", tmp_path / "state", tmp_path / "log")
    agent.state_dir.mkdir()
    (agent.state_dir / "identity.json").write_text('{"agent_id": "a_x", "token": "bft_x"}')
    agent.start()
    try:
        wait_until(lambda: "cannot reach the farm at http://127.0.0.1:1, trying again" in agent.said(), "it says so")
        agent.signal(signal.SIGTERM)
        assert agent.wait_ended() == 0
    finally:
        agent.stop()
