"""The real application on real Postgres and Valkey, and a lab whose one board is played by the test."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from benchfarm_api.main import create_app
from benchfarm_api.settings import Settings
from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, EnrolTokenRequest, TokenRequest
from benchfarm_core.leases import LeaseTimes
from benchfarm_store import accounts, dispatching, planning, tokens
from benchfarm_store.database import Database
from tests.nudges import nudging


def board_report(serial: str = "S-1") -> dict[str, Any]:
    """A board as an agent registers it."""
    return {
        "kind": "simulated",
        "serial": serial,
        "hardware_id": "hw",
        "board_model": "sim-1",
        "model_name": "Simulated board",
        "generation": "g1",
        "facts": {"cores": 2},
        "engines": [
            {
                "name": "onnxruntime",
                "available": True,
                "version": "1.31.1",
                "precisions": ["fp32"],
                "options": {"graph": {"kind": "choice", "default": "all", "choices": ["all", "none"]}},
            },
            {"name": "ncnn", "available": False, "reason": "not installed"},
        ],
        "operating_points": [{"mode": "free", "cores": [0], "threads": 1}],
        "clock_proof": "unpinned",
    }


def launch_samples(launch_no: int, block_ns: int = 400_000) -> dict[str, Any]:
    """A quiet launch of ten blocks."""
    blocks = [block_ns + 50 * n for n in range(10)]
    return {
        "launch_no": launch_no,
        "iterations": 10,
        "blocks_ns": blocks,
        "delays_ns": [0] * 10,
        "switches": [0] * 10,
        "canaries": {"sgemm": [[0, 1_000_000], [9, 1_000_100]], "mobilenet": [[0, 2_000_000], [9, 2_000_100]]},
        "open_ms": 1.0,
        "first_ms": 0.5,
        "warmup_runs": 3,
        "gate_relative_l2": 1e-7,
        "timed_ms": 4.0,
        "canary_ms": 2.0,
    }


@dataclass
class Lab:
    """An agent with one board, which measures nothing and reports what the test wants."""

    client: httpx2.Client
    database: Database
    headers: dict[str, str]
    boards: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def post(self, path: str, body: Any = None) -> httpx2.Response:
        """One call of the agent API."""
        return self.client.post(f"/v1/agent/{path}", json=body, headers=self.headers)

    def register(self, *reports: dict[str, Any]) -> list[dict[str, Any]]:
        """Register the boards."""
        self.reports = list(reports or [board_report()])
        body = {"protocol_version": 2, "agent_version": "0.1.0", "boards": self.reports}
        answer = self.post("boards", body)
        assert answer.status_code == 200, answer.text
        registered: list[dict[str, Any]] = answer.json()["boards"]
        self.boards = [board["board_id"] for board in registered]
        return registered

    def poll(self, *, wait_s: float = 0, leases: Sequence[str] = ()) -> dict[str, Any]:
        """One poll."""
        body = {
            "protocol_version": 2,
            "agent_version": "0.1.0",
            "idle": self.boards,
            "leases": list(leases),
            "wait_s": wait_s,
        }
        answer = self.post("poll", body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def plan_and_dispatch(self, job_id: str) -> None:
        """What the worker does after a submit."""
        more = True
        while more:
            with self.database.transaction() as tx:
                more = planning.plan_chunk(tx, job_id)
        for board in self.boards:
            with self.database.transaction() as tx:
                dispatching.dispatch(tx, board, LeaseTimes())

    def lease(self, job_id: str) -> dict[str, Any]:
        """Plan and dispatch a job, and accept what is offered."""
        self.plan_and_dispatch(job_id)
        offers = self.poll()["offers"]
        assert offers, "nothing was offered"
        answer = self.post(f"leases/{offers[0]['lease_token']}/accept")
        assert answer.status_code == 200, answer.text
        grant: dict[str, Any] = answer.json()
        return grant

    def report(self, grant: dict[str, Any], results: Sequence[dict[str, Any]]) -> httpx2.Response:
        """Hand over results."""
        return self.post(f"leases/{grant['lease_token']}/results", {"results": list(results)})

    def good_results(self, grant: dict[str, Any]) -> list[dict[str, Any]]:
        """A good result for every measurement of the lease."""
        launches = grant["protocol"]["launches_min"]
        samples = [launch_samples(number) for number in range(launches)]
        return [
            {"measurement_id": item["measurement_id"], "outcome": "ok", "launches": samples} for item in grant["items"]
        ]

    def finish(self, job_id: str) -> None:
        """Measure everything that a job still waits for."""
        while True:
            self.plan_and_dispatch(job_id)
            offers = self.poll()["offers"]
            if not offers:
                return
            grant = self.post(f"leases/{offers[0]['lease_token']}/accept").json()
            assert self.report(grant, self.good_results(grant)).status_code == 200
            self.post(f"leases/{grant['lease_token']}/release", {"reason": "done"})


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits for a condition about other processes or threads, up to a limit."""

    def wait(condition: Callable[[], object], limit_s: float = 10) -> None:
        until_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < until_s, "it did not come true"
            time.sleep(0.01)

    return wait


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        benchfarm_data_dir=tmp_path / "data",
        benchfarm_upload_limit_bytes=2_000_000,
        benchfarm_upload_stall_s=2.0,
        benchfarm_heartbeat_s=0.3,
        benchfarm_api_threads=4,
    )


@pytest.fixture
def database(database_url: str, redis_url: str) -> Iterator[Database]:
    """The test's own door to the same database; it nudges as a worker does."""
    with nudging(redis_url) as nudge:
        database = Database(database_url, on_commit=nudge, pool_size=2)
        yield database
        database.dispose()


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    """The application in this process, without a token."""
    with TestClient(app) as client:
        yield client


def issue(database: Database, account: str, role: Role) -> str:
    """A token text."""
    with database.transaction() as tx:
        return tokens.create_token(tx, TokenRequest(account=account, role=role)).token


@pytest.fixture
def token(database: Database) -> Callable[..., str]:
    """Makes tokens: `token(role, account)`; accounts come into being when first named."""
    known: set[str] = set()

    def make(role: str = "client", account: str = "alice") -> str:
        if account not in known:
            with database.transaction() as tx:
                accounts.create_account(tx, AccountRequest(name=account))
            known.add(account)
        return issue(database, account, Role(role))

    return make


@pytest.fixture
def caller(http: TestClient, token: Callable[..., str]) -> Callable[..., httpx2.Client]:
    """Makes clients with a token of a role and account."""

    def make(role: str = "client", account: str = "alice") -> httpx2.Client:
        client = TestClient(http.app, headers={"Authorization": f"Bearer {token(role, account)}"})
        client.portal = http.portal  # one event loop for all, as in one process
        return client

    return make


@pytest.fixture
def alice(caller: Callable[..., httpx2.Client]) -> httpx2.Client:
    return caller("client", "alice")


def enrolled(client: httpx2.Client, database: Database, account: str) -> Lab:
    """A lab whose agent has enrolled, without a board yet."""
    with database.transaction() as tx:
        by = tokens.authenticate(tx, issue(database, account, Role.OPERATOR))
    with database.transaction() as tx:
        enrol_token = tokens.create_enrol_token(tx, EnrolTokenRequest(), by).token
    body = {"enrol_token": enrol_token, "name": "lab", "agent_version": "0.1.0", "protocol_version": 2}
    answer = client.post("/v1/agent/enrol", json=body)
    assert answer.status_code == 201, answer.text
    return Lab(client, database, {"Authorization": f"Bearer {answer.json()['token']}"})


@pytest.fixture
def lab(http: TestClient, token: Callable[..., str], database: Database) -> Lab:
    """A lab with one registered board."""
    token("client", "labs")
    lab = enrolled(http, database, "labs")
    lab.register()
    return lab


@dataclass
class Served:
    """The API as a process of its own."""

    url: str
    process: subprocess.Popen[bytes]


Serving = Callable[[dict[str, str]], AbstractContextManager[Served]]


@pytest.fixture
def serving() -> Serving:
    return serve


@contextmanager
def serve(environment: dict[str, str]) -> Iterator[Served]:
    """`python -m benchfarm_api` on an inherited socket, ready to be called."""
    log = Path(environment["BENCHFARM_DATA_DIR"]).with_name("api.log")
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener, log.open("ab") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchfarm_api"],
            env={**os.environ, **environment, "BENCHFARM_API_FD": str(listener.fileno())},
            pass_fds=[listener.fileno()],
            stderr=lines,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            # The socket listens already, so this call waits until the process answers it.
            assert httpx2.get(f"{url}/v1/ready", timeout=30).status_code == 200
            yield Served(url, process)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a process."""
    return {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "BENCHFARM_DATA_DIR": str(settings.benchfarm_data_dir),
        "BENCHFARM_UPLOAD_LIMIT_BYTES": str(settings.benchfarm_upload_limit_bytes),
        "BENCHFARM_UPLOAD_STALL_S": str(settings.benchfarm_upload_stall_s),
        "BENCHFARM_HEARTBEAT_S": str(settings.benchfarm_heartbeat_s),
    }


@pytest.fixture
def served(environment: dict[str, str]) -> Iterator[Served]:
    with serve(environment) as served:
        yield served
