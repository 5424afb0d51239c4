"""The real API as a process, a lab whose one board the test plays, and the command as a function."""

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchfarm import Client
from benchfarm.commands.main import run
from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, EnrolTokenRequest, TokenRequest
from benchfarm_core.leases import LeaseTimes
from benchfarm_standalone.postgres import EmbeddedPostgres
from benchfarm_standalone.valkey import EmbeddedValkey
from benchfarm_store import accounts, dispatching, planning, tokens
from benchfarm_store.database import Database
from tests.conftest import Databases
from tests.nudges import nudging

_numbers = itertools.count(1)
TimeMs = Callable[[dict[str, Any], int], float | None]
"""Of a workload and the number of the launch; None: it fails."""
BOARD = {
    "kind": "simulated",
    "serial": "S-1",
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
VERSIONS = {"protocol_version": 2, "agent_version": "0.1.0"}


@dataclass
class ServedFarm:
    """The API at `url`, and a lab that measures nothing and reports what the test wants."""

    url: str
    database: Database
    agent: httpx2.Client
    listener: socket.socket
    environment: dict[str, str]
    account: str = "nobody"
    kernels: tuple[str, ...] = ()
    slower: float = 1.0
    time_ms: TimeMs | None = None
    nodes: list[dict[str, Any]] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    board_ids: list[str] = field(default_factory=list)
    made_accounts: set[str] = field(default_factory=set)

    def start(self) -> None:
        fd = self.listener.fileno()
        environment = {**os.environ, **self.environment, "BENCHFARM_API_FD": str(fd)}
        argv = [sys.executable, "-m", "benchfarm_api"]
        self.processes.append(subprocess.Popen(argv, env=environment, pass_fds=[fd]))

    def stop(self) -> None:
        process = self.processes.pop()
        process.terminate()
        process.wait(30)

    def restart(self) -> None:
        """Kill the API, as a fault would, and start another one on the same socket."""
        process = self.processes.pop()
        process.kill()
        process.wait(30)
        self.start()

    def token(self, role: str = "client", account: str | None = None) -> str:
        account = account or self.account
        with self.database.transaction() as tx:
            if account not in self.made_accounts:
                accounts.create_account(tx, AccountRequest(name=account))
                self.made_accounts.add(account)
            return tokens.create_token(tx, TokenRequest(account=account, role=Role(role))).token

    def client(self, role: str = "client", account: str | None = None) -> Client:
        return Client(self.url, self.token(role, account))

    def plug_in(self) -> None:
        """Enrol the agent and register its board."""
        with self.database.transaction() as tx:
            by = tokens.authenticate(tx, self.token("operator", "lab"))
        with self.database.transaction() as tx:
            once = tokens.create_enrol_token(tx, EnrolTokenRequest(), by).token
        enrolled = self._agent("enrol", {"enrol_token": once, "name": "lab", **VERSIONS})
        self.agent.headers["Authorization"] = f"Bearer {enrolled['token']}"
        self.register(BOARD)

    def register(self, *boards: dict[str, Any]) -> None:
        """All boards that are plugged in now."""
        registered = self._agent("boards", {**VERSIONS, "boards": list(boards)})["boards"]
        self.board_ids = [board["board_id"] for board in registered]

    def measure(self, job_id: str, *, failing: str | None = None) -> None:
        """Plan the job and report a result for all that it waits for; a failure where `failing` is in the label."""
        self.plan(job_id)
        self.measure_waiting(failing=failing)

    def measure_waiting(self, *, failing: str | None = None) -> None:
        """Report a result for all that waits, whoever waits for it."""
        while True:
            for board in self.board_ids:
                with self.database.transaction() as tx:
                    dispatching.dispatch(tx, board, LeaseTimes())
            polled = self._agent("poll", {**VERSIONS, "idle": self.board_ids, "leases": [], "wait_s": 0})
            if not polled["offers"]:
                return
            lease = f"leases/{polled['offers'][0]['lease_token']}"
            grant = self._agent(f"{lease}/accept")
            results = [
                _result(item, grant["protocol"]["launches_min"], failing, self.slower, self.time_ms)
                for item in grant["items"]
            ]
            if grant["protocol"]["name"] == "profile":
                for visit in (visit for result in results for visit in result.get("launches", [])):
                    visit["nodes"] = self.nodes
            self._agent(f"{lease}/results", {"results": results})
            self._agent(f"{lease}/release", {"reason": "done"})

    def plan(self, job_id: str) -> None:
        """What the worker does first."""
        more = True
        while more:
            with self.database.transaction() as tx:
                more = planning.plan_chunk(tx, job_id)

    def _agent(self, path: str, body: Any = None) -> Any:
        answer = self.agent.post(f"/v1/agent/{path}", json=body)
        assert answer.status_code < 400, answer.text
        return answer.json() if answer.content else None


def _result(
    item: dict[str, Any], launches: int, failing: str | None, slower: float, time_ms: TimeMs | None
) -> dict[str, Any]:
    result: dict[str, Any] = {"measurement_id": item["measurement_id"]}
    times = [time_ms(item["workload"], number) if time_ms else 0.04 for number in range(launches)]
    if None in times or (failing is not None and failing in json.dumps(item["workload"])):
        return {**result, "outcome": "failed", "failure": "out_of_memory", "detail": "needs 3 GB"}
    visits = [_launch(number, time or 0.0) for number, time in enumerate(times)]
    if item["workload"]["kind"] == "pair":
        visits = [visit | {"beside": _beside(visit, slower)} for visit in visits]
    return {**result, "outcome": "ok", "launches": visits}


def _beside(visit: dict[str, Any], slower: float) -> dict[str, Any]:
    """The b side of a pair, whose blocks take `slower` times as long as a's."""
    side = {name: value for name, value in visit.items() if name not in ("launch_no", "canaries", "canary_ms")}
    return {**side, "blocks_ns": [round(slower * ns) for ns in visit["blocks_ns"]], "rounds": [3, 3, 4], "threads": 1}


def _launch(number: int, run_ms: float) -> dict[str, Any]:
    return {
        "launch_no": number,
        "iterations": 10,
        "blocks_ns": [round(run_ms * 1e7) + 50 * block for block in range(10)],
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


@pytest.fixture(scope="module")
def module_database_url(
    postgres_server: EmbeddedPostgres, databases: Databases, template_database: str
) -> Iterator[str]:
    """A database of the test file's own with the newest schema."""
    with databases(template_database) as name:
        yield postgres_server.database_url(name)


@pytest.fixture(scope="module")
def served_farm(
    module_database_url: str, valkey_server: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedFarm]:
    """`python -m benchfarm_api` with one registered board, for all tests of a file."""
    redis_url = valkey_server.redis_url(0)
    environment = {
        "DATABASE_URL": module_database_url,
        "REDIS_URL": redis_url,
        "BENCHFARM_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "BENCHFARM_HEARTBEAT_S": "0.3",
    }
    with nudging(redis_url) as nudge, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        database = Database(module_database_url, on_commit=nudge, pool_size=2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # The socket listens already, so the first call waits until the process answers it.
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as agent:
            served = ServedFarm(url, database, agent, listener, environment)
            served.start()
            try:
                served.plug_in()
                yield served
            finally:
                served.stop()
                database.dispose()


@pytest.fixture
def farm(served_farm: ServedFarm) -> ServedFarm:
    """The file's farm with an account, and kernels that nobody has measured, for this test alone."""
    number = next(_numbers)
    served_farm.account = f"account-{number}"
    served_farm.slower = 1.0
    served_farm.time_ms = None
    served_farm.kernels = tuple(f"fc cin={cin} cout={number}" for cin in (16, 17, 18))
    return served_farm


@dataclass(frozen=True)
class Ended:
    """How one run of the command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document of stdout."""
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("jobs", "list")` runs `benchfarm jobs list` in this process, with a configuration of its own."""
    for name in [name for name in os.environ if name.startswith("BENCHFARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(int(code), captured.out, captured.err)

    return call


@pytest.fixture
def logged_in(farm: ServedFarm, command: Command, tmp_path: Path) -> Command:
    """The command with a stored login of an administrator: it may do everything."""
    path = tmp_path / "admin-token"
    path.write_text(farm.token("admin"))
    assert command("login", farm.url, "--token-file", path).code == 0
    return command
