"""A real worker process on a real broker and database: from a submitted job to an offer, whatever is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from sqlalchemy import text

from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, EnrolTokenRequest, TokenRequest
from benchfarm_core.agent_protocol import (
    PROTOCOL_VERSION,
    EnrolRequest,
    Offer,
    RegisterBoards,
    ReleaseRequest,
    ResultsRequest,
)
from benchfarm_core.boards import BoardReport, EngineReport
from benchfarm_core.jobs import JobRequest, JobState, JobView
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.measurements import LaunchSamples, MeasurementResult
from benchfarm_core.messages import AHEAD_MAX_S, Task, TaskMessage, agent_channel
from benchfarm_core.platforms import ClockProof, OperatingPoint, Precision
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.children import run_alone
from benchfarm_standalone.valkey import embedded_valkey
from benchfarm_store import (
    accounts,
    agents,
    board_health,
    boards,
    dispatching,
    jobs,
    leases,
    planning,
    results,
    tokens,
)
from benchfarm_store.database import Database
from benchfarm_store.endings import COOLING_S
from benchfarm_store.files import Files
from benchfarm_store.tokens import Caller
from benchfarm_worker.celery_app import create_celery
from benchfarm_worker.sending import sender
from benchfarm_worker.settings import Settings
from benchfarm_workloads.draws import draw_mixed

T = TypeVar("T")

REPORT = BoardReport(
    kind="simulated", serial="s1", hardware_id="h1", board_model="sim-1", model_name="a simulated board",
    generation="g1", facts={},
    engines=(EngineReport(name="onnxruntime", available=True, version="1.31.1", precisions=(Precision.FP32,)),),
    operating_points=(OperatingPoint(mode="free", cores=(0,), threads=1),), clock_proof=ClockProof.UNPINNED,
)  # fmt: skip


def launch(launch_no: int) -> LaunchSamples:
    """An undisturbed launch of something that takes a millisecond."""
    return LaunchSamples(
        launch_no=launch_no, iterations=1, blocks_ns=(1_000_000,) * 10, delays_ns=(0,) * 10, switches=(0,) * 10,
        canaries={"sgemm": ((0, 500_000),)}, open_ms=1, first_ms=1, warmup_runs=3, gate_relative_l2=None,
        timed_ms=10, canary_ms=1,
    )  # fmt: skip


def within(limit_s: float, look: Callable[[], T]) -> T:
    """What `look` gives as soon as it is true, or its last answer when the time is up."""
    end = time.monotonic() + limit_s
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Farm:
    """The database with one client, one agent and one board, and the worker that serves it."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.redis_url, self.ready_file, self.log = redis_url, folder / "ready", folder / "worker.log"
        self.env = os.environ | {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "BENCHFARM_SWEEP_S": "1",
            "BENCHFARM_DATA_DIR": str(folder / "data"),
            "BENCHFARM_READY_FILE": str(self.ready_file),
        }
        self.database = Database(database_url)
        self.caller, self.agent_id, self.board_id = self._populate()
        self.process: subprocess.Popen[bytes] | None = None

    def _populate(self) -> tuple[Caller, str, str]:
        with self.database.transaction() as tx:
            accounts.create_account(tx, AccountRequest(name="lab"))
            token = tokens.create_token(tx, TokenRequest(account="lab", role=Role.OPERATOR)).token
            caller = tokens.authenticate(tx, token)
            enrol = tokens.create_enrol_token(tx, EnrolTokenRequest(), caller).token
            agent = agents.enrol(
                tx,
                EnrolRequest(enrol_token=enrol, name="a", agent_version="1", protocol_version=PROTOCOL_VERSION),
            )
            request = RegisterBoards(protocol_version=PROTOCOL_VERSION, agent_version="1", boards=(REPORT,))
            board = boards.register(tx, agent.agent_id, request).boards[0]
        return caller, agent.agent_id, board.board_id

    def start_worker(self) -> None:
        self.ready_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "benchfarm_worker", "run"]
            self.process = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log, start_new_session=True)
        assert within(30, self.ready_file.exists), self.log.read_text()[-2000:]

    def stop_worker(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if how is signal.SIGKILL:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        return self.process.wait(30)

    def submit(self, count: int) -> JobView:
        request = JobRequest(
            workloads=tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(1, count)),
        )
        with self.database.transaction() as tx:
            job = jobs.submit(tx, request, by=self.caller, idempotency_key=None, request_sha256="0" * 64)[0]
            # the sweep waits for the message, which is lost here, as long as it may take: it has waited
            tx.execute(text("UPDATE jobs SET created_at = created_at - interval '1 minute'"))
        return job

    def job(self, job_id: str) -> JobView:
        with self.database.transaction() as tx:
            return jobs.get_job(tx, job_id, self.caller)

    def offers(self) -> list[Offer]:
        with self.database.transaction() as tx:
            agents.heard(tx, self.agent_id, "1")
            return leases.offers_for(tx, self.agent_id, [self.board_id])

    def measure(self, offer: Offer) -> None:
        with self.database.transaction() as tx:
            grant = leases.accept(tx, self.agent_id, offer.lease_token, LeaseTimes())
        launches = tuple(launch(number) for number in range(grant.protocol.launches_min))
        found = tuple(
            MeasurementResult(measurement_id=item.measurement_id, outcome="ok", launches=launches)
            for item in grant.items
        )
        with self.database.transaction() as tx:
            results.ingest(tx, self.agent_id, offer.lease_token, ResultsRequest(results=found))

    def waiting_for_locks(self) -> object:
        return self.scalar("SELECT count(*) FROM pg_locks WHERE NOT granted")

    def scalar(self, statement: str) -> object:
        with self.database.transaction() as tx:
            return tx.execute(text(statement)).scalar()


@contextmanager
def running_farm(database_url: str, redis_url: str, folder: Path) -> Iterator[Farm]:
    """A farm whose worker, if one was started, is gone afterwards."""
    farm = Farm(database_url, redis_url, folder)
    try:
        yield farm
    finally:
        if farm.process is not None and farm.process.poll() is None:
            farm.stop_worker(signal.SIGKILL)
        farm.database.dispose()


@pytest.fixture
def farm(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Farm]:
    with running_farm(database_url, redis_url, tmp_path) as farm:
        yield farm


def test_the_sweep_alone_brings_a_job_to_a_board(farm: Farm) -> None:
    """Nobody told the worker of the job: the hint was lost, the tick finds it."""
    farm.start_worker()
    with redis.Redis.from_url(farm.redis_url) as channel, channel.pubsub() as heard:
        heard.subscribe(agent_channel(farm.agent_id))
        job = farm.submit(1500)
        assert within(20, lambda: farm.job(job.id).state is JobState.RUNNING), farm.log.read_text()[-2000:]
        progress = farm.job(job.id).progress
        assert (progress.total, progress.pending) == (1500, 1500)
        assert len(within(20, farm.offers)) == 1
        messages = within(5, lambda: [m for m in [heard.get_message(timeout=0.1)] if m and m["type"] == "message"])
        assert messages, "the agent was not nudged"
    assert farm.stop_worker() == 0


def test_a_killed_worker_loses_nothing(farm: Farm) -> None:
    farm.start_worker()
    job = farm.submit(3000)
    within(20, lambda: farm.job(job.id).state is not JobState.QUEUED)
    farm.stop_worker(signal.SIGKILL)
    farm.start_worker()
    assert within(30, lambda: farm.job(job.id).state is JobState.RUNNING)
    assert farm.job(job.id).progress.pending == 3000


def test_a_worker_outlives_a_broker_that_dies_while_a_task_runs(
    database_url: str, socket_dir: Path, tmp_path: Path
) -> None:
    """A task that waits for a lock has not acknowledged its message when the broker goes."""
    valkey = embedded_valkey(tmp_path / "valkey", socket_dir / "dies", durable=False)
    with ExitStack() as ending:
        broker = ending.enter_context(run_alone(valkey.service(), tmp_path))
        farm = ending.enter_context(running_farm(database_url, valkey.redis_url(), tmp_path))
        farm.start_worker()
        job = farm.submit(3)
        with farm.database.transaction() as tx:
            tx.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
            assert within(10, farm.waiting_for_locks), farm.log.read_text()[-2000:]
            broker.kill()
            broker.wait(10)
            time.sleep(1)  # wait: long enough for the worker to find nobody listening
        ending.enter_context(run_alone(valkey.service(), tmp_path))
        assert within(30, lambda: farm.job(job.id).state is JobState.RUNNING), farm.log.read_text()[-2000:]
        assert farm.process is not None
        assert farm.process.poll() is None
        assert "Unrecoverable" not in farm.log.read_text()


def test_the_sweep_looks_after_the_golden_suite_where_it_is_wanted(farm: Farm) -> None:
    farm.env["BENCHFARM_GOLDEN_EVERY_S"] = "86400"
    farm.start_worker()
    (offer,) = within(20, farm.offers)
    assert offer.board_id == farm.board_id
    with farm.database.transaction() as tx:
        (run,) = board_health.list_runs(tx, farm.board_id).items
    assert (run.reason, run.outcome) == ("enrolled", None)


def test_files_that_nobody_needs_are_deleted(farm: Farm, tmp_path: Path) -> None:
    files = Files(tmp_path / "data")
    old, young = (files.keep(files.receive(iter([content]), 10)) for content in (b"old", b"young"))
    os.utime(old, (1000, 1000))
    farm.start_worker()
    assert within(60, lambda: not old.exists()), farm.log.read_text()[-2000:]
    assert young.exists()


def test_a_board_that_has_rested_is_offered_work_without_a_sweep(farm: Farm) -> None:
    """As it is told of the rest: the next sweep would be a minute later."""
    farm.env["BENCHFARM_SWEEP_S"] = "60"
    job = farm.submit(3)
    with farm.database.transaction() as tx:
        planning.plan_chunk(tx, job.id)
        assert dispatching.dispatch(tx, farm.board_id, LeaseTimes())
    (offer,) = farm.offers()
    farm.start_worker()
    celery = create_celery(Settings(database_url="postgresql://nowhere/x", redis_url=farm.redis_url))
    told = Database(farm.env["DATABASE_URL"], on_commit=sender(celery, farm.redis_url))
    with told.transaction() as tx:
        leases.accept(tx, farm.agent_id, offer.lease_token, LeaseTimes())
    with told.transaction() as tx:
        leases.release(tx, farm.agent_id, offer.lease_token, ReleaseRequest(reason="error"))
        rests_until = tx.now + timedelta(seconds=COOLING_S["error"])
    assert farm.offers() == []
    assert within(20, farm.offers), farm.log.read_text()[-2000:]
    offered_at = farm.scalar("SELECT max(offered_at) FROM leases")
    assert isinstance(offered_at, datetime)
    assert timedelta(0) <= offered_at - rests_until < timedelta(seconds=2)
    told.dispose()
    celery.close()


def test_boards_that_rest_keep_no_other_waiting(farm: Farm) -> None:
    """Many times as many as a worker takes at once."""
    farm.env["BENCHFARM_SWEEP_S"] = "60"
    job = farm.submit(3)
    with farm.database.transaction() as tx:
        planning.plan_chunk(tx, job.id)
    farm.start_worker()
    celery = create_celery(Settings(database_url="postgresql://nowhere/x", redis_url=farm.redis_url))
    resting = [TaskMessage(task=Task.DISPATCH, args=(f"b_{number}",), after_s=AHEAD_MAX_S) for number in range(200)]
    sender(celery, farm.redis_url)([*resting, TaskMessage(task=Task.DISPATCH, args=(farm.board_id,))])
    assert len(within(15, farm.offers)) == 1, farm.log.read_text()[-2000:]
    assert farm.stop_worker() == 0
    celery.close()


def test_a_summary_of_an_older_rule_is_replaced_after_sweeps(farm: Farm) -> None:
    farm.start_worker()
    farm.submit(1)
    (offer,) = within(20, farm.offers)
    farm.measure(offer)
    with farm.database.transaction() as tx:
        tx.execute(text("UPDATE summaries SET rule_version = 1, median_ms = 77"))
    outdated = "SELECT count(*) FROM summaries WHERE active AND rule_version = 1"
    assert within(20, lambda: farm.scalar(outdated) == 0), farm.log.read_text()[-2000:]
    assert farm.scalar("SELECT median_ms FROM summaries WHERE active") == pytest.approx(1, rel=0.001)
    assert farm.scalar("SELECT median_ms FROM summaries WHERE NOT active AND rule_version = 1") == 77
    assert farm.stop_worker() == 0


def test_missing_settings_are_named() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    argv = [sys.executable, "-m", "benchfarm_worker", "run"]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "DATABASE_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_lease_times_that_cannot_work_are_refused() -> None:
    told = {"DATABASE_URL": "postgresql://nowhere", "REDIS_URL": "redis://nowhere", "BENCHFARM_LEASE_S": "20"}
    argv = [sys.executable, "-m", "benchfarm_worker", "run"]
    ended = subprocess.run(argv, env=os.environ | told, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "renew_s must be at most half of lease_s" in ended.stderr
    assert "Traceback" not in ended.stderr
