"""A farm in Postgres without its processes: accounts, agents with boards, and what agents say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, EnrolTokenRequest, Quotas, TokenRequest
from benchfarm_core.agent_protocol import (
    PROTOCOL_VERSION,
    EnrolRequest,
    FinishAnswer,
    FinishRequest,
    LaunchEvidence,
    LeaseGrant,
    RegisterAnswer,
    RegisterBoards,
    ReleaseRequest,
    ResultsAnswer,
    ResultsRequest,
    StartedRequest,
)
from benchfarm_core.boards import BOARD_TRANSITIONS, BoardReport, EngineReport
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.jobs import JOB_TRANSITIONS, JobRequest, JobView
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.measurements import MEASUREMENT_TRANSITIONS, LaunchSamples, MeasurementResult
from benchfarm_core.messages import Message
from benchfarm_core.platforms import ClockProof, OperatingPoint, Precision
from benchfarm_core.predictors import PREDICTOR_TRANSITIONS
from benchfarm_standalone.postgres import EmbeddedPostgres
from benchfarm_store import accounts, agents, boards, dispatching, finishing, jobs, leases, planning, results, tokens
from benchfarm_store.database import Database, Transaction
from benchfarm_store.tokens import Caller
from benchfarm_workloads.draws import draw_mixed
from tests.conftest import Databases

TIMES = LeaseTimes(retry_s=0)
"""What was inconclusive is offered again at once; `test_rests.py` has tests of how long it rests else."""


def board_report(serial: str = "s1", **changes: Any) -> BoardReport:
    """A host with one engine and two operating points: two platforms."""
    fields: dict[str, Any] = {
        "kind": "simulated",
        "serial": serial,
        "hardware_id": "hw",
        "board_model": "host-a",
        "model_name": "Host A",
        "generation": "g1",
        "facts": {"cores": 2},
        "engines": (
            EngineReport(name="onnxruntime", available=True, version="1.31.1", precisions=(Precision.FP32,)),
            EngineReport(name="ncnn", available=False, reason="not installed"),
        ),
        "operating_points": (
            OperatingPoint(mode="free", cores=(0,), threads=1),
            OperatingPoint(mode="free", cores=(0, 1), threads=2),
        ),
        "clock_proof": ClockProof.UNPINNED,
    }
    return BoardReport.model_validate(fields | changes)


def launch(
    launch_no: int = 0,
    *,
    run_ns: int = 1_000_000,
    blocks: int = 20,
    canary_ns: int = 2_000_000,
    neighbours: float = 1.0,
) -> LaunchSamples:
    """An undisturbed launch of a workload that takes `run_ns` per run; `neighbours`: what they make of MobileNet."""
    mobilenet_ns = round(canary_ns * neighbours)
    return LaunchSamples(
        launch_no=launch_no,
        iterations=1,
        blocks_ns=tuple(run_ns + 100 * (block % 7) for block in range(blocks)),
        delays_ns=(0,) * blocks,
        switches=(0,) * blocks,
        canaries={"sgemm": ((0, canary_ns // 2),), "mobilenet": ((0, mobilenet_ns), (blocks, mobilenet_ns))},
        open_ms=1.5,
        first_ms=2.25,
        warmup_runs=3,
        gate_relative_l2=1e-6,
        timed_ms=60.0,
        canary_ms=3.0,
    )


def evidence(launch_no: int = 0, clock: ClockEvidence | None = None) -> LaunchEvidence:
    """The facts of one launch."""
    return LaunchEvidence(
        launch_no=launch_no,
        engine_version="1.31.1",
        precision="fp32",
        threads=1,
        threads_observed=1,
        affinity=(0,),
        confinement=("no_new_privs", "rlimits", "network", "landlock"),
        witness_cost_ns=1500,
        import_ms=80.0,
        canary_open_ms=4.0,
        began_unix_s=1000.0,
        first_block_unix_s=1000.4,
        ended_unix_s=1000.9,
        wall_ms=900.0,
        timed_ms=600.0,
        canary_ms=50.0,
        open_ms=100.0,
        peak_rss_bytes=90_000_000,
        load_1m_before=0.5,
        freq_khz_observed=(),
        governor=None,
        temperature_c_before=None,
        temperature_c_after=None,
        throttled=None,
        clock=clock,
    )


def ok(measurement_id: int, *, launches: int = 3, **changes: Any) -> MeasurementResult:
    """A good result."""
    visits = tuple(launch(number, **changes) for number in range(launches))
    return MeasurementResult(measurement_id=measurement_id, outcome="ok", launches=visits)


def failed(measurement_id: int, code: str, detail: str = "why") -> MeasurementResult:
    """A typed failure."""
    return MeasurementResult.model_validate(
        {"measurement_id": measurement_id, "outcome": "failed", "failure": code, "detail": detail}
    )


class Agent:
    """An agent that enrolled; each call is one transaction, as one request would be."""

    def __init__(self, farm: "Farm", by: Caller, name: str) -> None:
        self.farm = farm
        with farm.database.transaction() as tx:
            enrol_token = tokens.create_enrol_token(tx, EnrolTokenRequest(), by).token
            request = EnrolRequest(
                enrol_token=enrol_token, name=name, agent_version="0.1.0", protocol_version=PROTOCOL_VERSION
            )
            answer = agents.enrol(tx, request)
        self.id = answer.agent_id
        self.token = answer.token
        self.boards: list[str] = []

    def register(self, *reports: BoardReport, process_started: bool = False) -> RegisterAnswer:
        request = RegisterBoards(
            protocol_version=PROTOCOL_VERSION, agent_version="0.1.0", boards=reports, process_started=process_started
        )
        with self.farm.database.transaction() as tx:
            answer = boards.register(tx, self.id, request)
        self.boards = [board.board_id for board in answer.boards]
        return answer

    def take(self, board: str | None = None, times: LeaseTimes = TIMES) -> LeaseGrant | None:
        """Dispatch and accept: the next batch of a board."""
        board = board or self.boards[0]
        with self.farm.database.transaction() as tx:
            token = dispatching.dispatch(tx, board, times)
        if token is None:
            return None
        with self.farm.database.transaction() as tx:
            assert token in [offer.lease_token for offer in leases.offers_for(tx, self.id, [board])]
        with self.farm.database.transaction() as tx:
            return leases.accept(tx, self.id, token, times)

    def must_take(self, board: str | None = None, times: LeaseTimes = TIMES) -> LeaseGrant:
        grant = self.take(board, times)
        assert grant is not None
        return grant

    def start(self, grant: LeaseGrant, ids: Sequence[int] | None = None) -> None:
        ids = ids if ids is not None else [item.measurement_id for item in grant.items]
        with self.farm.database.transaction() as tx:
            leases.started(tx, self.id, grant.lease_token, StartedRequest(measurement_ids=tuple(ids)))

    def send(
        self, grant: LeaseGrant, *found: MeasurementResult, clocks: Sequence[ClockEvidence | None] = (None,)
    ) -> ResultsAnswer:
        """Hand over results; `clocks` is what each launch of the lease saw of its clock."""
        told = tuple(evidence(launch_no, clock) for launch_no, clock in enumerate(clocks))
        request = ResultsRequest(results=found, launches=told)
        with self.farm.database.transaction() as tx:
            return results.ingest(tx, self.id, grant.lease_token, request)

    def finish(
        self,
        grant: LeaseGrant,
        *found: MeasurementResult,
        reason: str = "done",
        wants_next: bool = False,
        times: LeaseTimes = TIMES,
        has_launched: bool = True,
        gate_ms: float = 0,
    ) -> FinishAnswer:
        """The end of a lease in one step, and with `wants_next` the next batch, as the API does it. `has_launched`: a
        launch of it got ready."""
        release = ReleaseRequest.model_validate({"reason": reason, "lease_wall_ms": 1234.5, "gate_ms": gate_ms})
        request = FinishRequest(
            results=found, launches=(evidence(),) * has_launched, release=release, wants_next=wants_next
        )
        with self.farm.database.transaction() as tx:
            answer, board_id, takes = finishing.finish(tx, self.id, grant.lease_token, request, times)
        if answer.lost or not wants_next:
            return answer
        with self.farm.database.transaction() as tx:
            following = finishing.next_lease(tx, self.id, board_id, times, takes=takes)
        return answer.model_copy(update={"next_lease": following})

    def release(self, grant: LeaseGrant, reason: str = "done") -> None:
        with self.farm.database.transaction() as tx:
            leases.release(tx, self.id, grant.lease_token, ReleaseRequest.model_validate({"reason": reason}))

    def measure_all(self, board: str | None = None, **changes: Any) -> int:
        """Work until nothing is offered; how many measurements that were."""
        count = 0
        while (grant := self.take(board)) is not None:
            ids = [item.measurement_id for item in grant.items]
            self.start(grant, ids)
            self.send(grant, *(ok(id_, **changes) for id_ in ids))
            self.release(grant)
            count += len(ids)
        return count


class Farm:
    """The database with a few ready-made moves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[Message] = []
        self.database = Database(url, on_commit=self.messages.extend, pool_size=20)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.database.transaction() as tx:
            yield tx

    def account(self, name: str, role: Role = Role.CLIENT, quotas: Quotas | None = None) -> Caller:
        with self.database.transaction() as tx:
            accounts.create_account(tx, AccountRequest(name=name, quotas=quotas or Quotas()))
            token = tokens.create_token(tx, TokenRequest(account=name, role=role)).token
            return tokens.authenticate(tx, token)

    def agent(self, by: Caller, *reports: BoardReport, name: str = "lab") -> Agent:
        agent = Agent(self, by, name)
        agent.register(*(reports or (board_report(),)))
        return agent

    def submit(self, by: Caller, request: JobRequest) -> JobView:
        with self.database.transaction() as tx:
            return jobs.submit(tx, request, by=by)[0]

    def plan(self, job: JobView) -> None:
        more = True
        while more:
            with self.database.transaction() as tx:
                more = planning.plan_chunk(tx, job.id)

    def submit_planned(self, by: Caller, request: JobRequest) -> JobView:
        job = self.submit(by, request)
        self.plan(job)
        return self.job(job.id, by)

    def job(self, job_id: str, by: Caller) -> JobView:
        with self.database.transaction() as tx:
            return jobs.get_job(tx, job_id, by)

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """What is sent to Postgres meanwhile."""
        sent: list[str] = []

        def keep(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            sent.append(statement)

        event.listen(self.database._engine, "before_cursor_execute", keep)
        yield sent
        event.remove(self.database._engine, "before_cursor_execute", keep)

    def scalar(self, statement: str, **parameters: Any) -> Any:
        from sqlalchemy import text

        with self.database.transaction() as tx:
            return tx.execute(text(statement), parameters).scalar()

    def moves(self, noun: str) -> set[tuple[str, str]]:
        """Every change of a state that was committed, of `boards`, `measurements`, `jobs` or `predictors`."""
        from sqlalchemy import text

        statement = text("SELECT DISTINCT old_state, new_state FROM moves WHERE noun = :noun")
        with self.database.transaction() as tx:
            return {(row.old_state, row.new_state) for row in tx.execute(statement, {"noun": noun})}

    def strays(self) -> list[tuple[str, str, str]]:
        """Changes of a state that were committed and stand in no table of their noun."""
        from sqlalchemy import text

        with self.database.transaction() as tx:
            rows = tx.execute(text("SELECT DISTINCT noun, old_state, new_state FROM moves")).all()
        seen = [(str(row.noun), str(row.old_state), str(row.new_state)) for row in rows]
        return [one for one in seen if one[0] in TRANSITIONS and one[1:] not in moves_of(TRANSITIONS[one[0]])]

    def run(self, statement: str, **parameters: Any) -> None:
        from sqlalchemy import text

        with self.database.transaction() as tx:
            tx.execute(text(statement), parameters)


def kernel_job(kernels: int, *, seed: int = 1, **changes: Any) -> JobRequest:
    """Some kernels drawn with a seed, on every platform that is offered."""
    workloads = [{"kind": "kernel", "type": w.type, "config": w.config} for w in draw_mixed(seed, kernels)]
    return JobRequest.model_validate({"workloads": workloads, **changes})


RECORD_MOVES = """
    CREATE TABLE moves (noun text, old_state text, new_state text);
    CREATE FUNCTION record_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO moves VALUES (TG_TABLE_NAME, OLD.state, NEW.state); RETURN NULL; END $$;
    CREATE TRIGGER moved AFTER UPDATE ON boards FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION record_move();
    CREATE TRIGGER moved AFTER UPDATE ON measurements FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION record_move();
    CREATE TRIGGER moved AFTER UPDATE ON jobs FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION record_move();
    CREATE TRIGGER moved AFTER UPDATE ON predictors FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION record_move();
"""
TRANSITIONS: dict[str, Mapping[Any, frozenset[Any]]] = {
    "boards": BOARD_TRANSITIONS,
    "measurements": MEASUREMENT_TRANSITIONS,
    "jobs": JOB_TRANSITIONS,
    "predictors": PREDICTOR_TRANSITIONS,
}


@pytest.fixture(scope="session")
def recording_database(
    postgres_server: EmbeddedPostgres, databases: Databases, template_database: str
) -> Iterator[str]:
    """Name of a database with the newest schema that keeps every change of a state, for copying."""
    with databases(template_database) as name:
        farm = Farm(postgres_server.database_url(name))
        farm.run(RECORD_MOVES)
        farm.database.dispose()
        yield name


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, databases: Databases, recording_database: str) -> Iterator[str]:
    """URL of a database of this test's own with the newest schema, and what has moved in it."""
    with databases(recording_database) as name:
        yield postgres_server.database_url(name)


@pytest.fixture
def farm(database_url: str) -> Iterator[Farm]:
    """A farm without accounts. Whatever a test does to it, no state moves outside its noun's table."""
    farm = Farm(database_url)
    yield farm
    strays = farm.strays()
    farm.database.dispose()
    assert not strays


def moves_of(table: Mapping[Any, frozenset[Any]]) -> set[tuple[str, str]]:
    """The moves that a transition table allows."""
    return {(str(state), str(to)) for state, nexts in table.items() for to in nexts}


@pytest.fixture
def ann(farm: Farm) -> Caller:
    """A client."""
    return farm.account("ann")


@pytest.fixture
def agent(farm: Farm, ann: Caller) -> Agent:
    """An agent with one board."""
    return farm.agent(ann)


@pytest.fixture
def job_of() -> Callable[..., JobRequest]:
    """Makes job requests: `job_of(kernels, seed=1, **fields)`."""
    return kernel_job


@pytest.fixture
def report_of() -> Callable[..., BoardReport]:
    """Makes board reports: `report_of(serial, **fields)`."""
    return board_report


@pytest.fixture
def ok_result() -> Callable[..., MeasurementResult]:
    """Makes good results: `ok_result(measurement_id, launches=3, run_ns=..., canary_ns=...)`."""
    return ok


@pytest.fixture
def failed_result() -> Callable[..., MeasurementResult]:
    """Makes failures: `failed_result(measurement_id, code)`."""
    return failed
