"""Runs the store's hot calls against a full database and looks at the plan of every statement they send."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine

from benchfarm_core.access import Role
from benchfarm_core.agent_protocol import (
    FinishRequest,
    LeaseReport,
    ReleaseRequest,
    ReportsRequest,
    ResultsRequest,
    StartedRequest,
)
from benchfarm_core.jobs import ItemState, JobRequest
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.platforms import PlatformFilter
from benchfarm_core.views import ResultsWanted
from benchfarm_store import (
    dispatching,
    events,
    finishing,
    jobs,
    latency,
    leases,
    planning,
    platforms,
    results,
    sample_codec,
    summaries,
    sweeping,
)
from benchfarm_store.database import Database, Transaction
from benchfarm_store.tokens import Caller
from benchfarm_workloads.draws import draw_mixed

BIG_TABLES = frozenset(
    {
        "measurements",
        "results",
        "samples",
        "summaries",
        "job_items",
        "lease_items",
        "leases",
        "launches",
        "events",
        "workloads",
    }
)
MOST_WORKLOADS = 200
"""What one EXPLAINed call asks for; more only makes the program slower."""
TIMES = LeaseTimes()
CALLER = Caller(token_id="t_0", account_id="acct_1", account="account-1", role=Role.CLIENT, agent_id=None)

_KIND = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|EXECUTE)\b", re.IGNORECASE)


Calls = Iterable[tuple[str, Callable[[], object]]]


def check(calls: Calls, big_tables: Set[str] = BIG_TABLES) -> tuple[int, list[str]]:
    """How many plans were looked at, and a line for each sequential scan of a big table."""
    plans = 0
    complaints: list[str] = []
    for name, call in calls:
        with _explained() as found:
            call()
        plans += len(found)
        for statement, plan in found:
            scans = [node["Relation Name"] for node in _nodes(plan) if _is_scan(node, big_tables)]
            complaints += [f"{name}: sequential scan of {table} in {statement}" for table in scans]
    return plans, complaints


@contextmanager
def _explained() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    found: list[tuple[str, dict[str, Any]]] = []

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        if many or not _KIND.match(statement):
            return
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters or None)
            (plans,) = cursor.fetchall()[0]
        plan = json.loads(plans) if isinstance(plans, str) else plans
        found.append((" ".join(statement.split())[:120], plan[0]["Plan"]))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _is_scan(node: dict[str, Any], big_tables: Set[str]) -> bool:
    return node["Node Type"] == "Seq Scan" and node.get("Relation Name") in big_tables


def hot_calls(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every hot call, in the order in which a farm makes them."""
    yield from _reading(database)
    yield from _submitting(database)
    yield from _leasing(database)

    def sweep() -> object:
        return sweeping.sweep(database)

    yield "sweep", sweep

    def rederive() -> object:
        with database.transaction() as tx:
            return summaries.rederive(tx)

    yield "rederive", rederive


def _reading(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    with database.transaction(read_only=True) as tx:
        known = tx.execute(_SOME_RESULT).one()
        job = tx.execute(_SOME_JOB).scalar_one()
        day = tx.now.replace(hour=0, minute=0, second=0)
    reads: dict[str, Callable[[Transaction], object]] = {
        "get_job": lambda tx: jobs.get_job(tx, job, CALLER),
        "list_jobs": lambda tx: jobs.list_jobs(tx, CALLER),
        "items": lambda tx: jobs.items(tx, job, CALLER),
        "items by state": lambda tx: jobs.items(tx, job, CALLER, state=ItemState.PENDING),
        "explain": lambda tx: jobs.explain(tx, job, CALLER),
        "events": lambda tx: events.after(tx, job, CALLER, 0, 100),
        "results by time": lambda tx: results.list_results(tx, CALLER),
        "results since": lambda tx: results.list_results(tx, CALLER, ResultsWanted(since=day)),
        "results by platform": lambda tx: results.list_results(tx, CALLER, ResultsWanted(platform=known.key)),
        "results by workload": lambda tx: results.list_results(tx, CALLER, ResultsWanted(workload_id=known.workload)),
        "get_measurement": lambda tx: results.get_measurement(tx, known.id, CALLER),
        "get_platform": lambda tx: platforms.get_platform(tx, known.key),
        "ask_latency": lambda tx: latency.ask(tx, _question(known.key), CALLER),
    }
    for name, read in reads.items():
        yield name, in_transaction(database, read)


_SOME_RESULT = text("""
    SELECT r.measurement_id AS id, p.key, 'w_' || replace(w.digest::text, '-', '') AS workload
    FROM results r JOIN measurements m ON m.id = r.measurement_id JOIN platforms p ON p.id = m.platform_id
        JOIN workloads w ON w.id = m.workload_id OFFSET 500 LIMIT 1
""")
_SOME_JOB = text("SELECT id::text FROM jobs WHERE account_id = 1 AND state = 'running' LIMIT 1")


def in_transaction(database: Database, call: Callable[[Transaction], object]) -> Callable[[], object]:
    """A call that needs nothing more."""

    def run() -> object:
        with database.transaction() as tx:
            return call(tx)

    return run


def _question(platform: str) -> LatencyRequest:
    items = [{"kind": "kernel", "type": k.type, "config": k.config} for k in draw_mixed(1, MOST_WORKLOADS)]
    return LatencyRequest.model_validate({"platforms": [platform], "items": items})


def _submitting(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    made: list[str] = []

    def submit(seed: int) -> None:
        workloads = [{"kind": "kernel", "type": k.type, "config": k.config} for k in draw_mixed(seed, MOST_WORKLOADS)]
        wanted = PlatformFilter(board_model=("model-7",))
        request = JobRequest.model_validate({"workloads": workloads, "platforms": wanted.model_dump()})
        with database.transaction() as tx:
            jobs.dry_run(tx, request, CALLER)
            made.append(jobs.submit(tx, request, by=CALLER)[0].id)

    def plan(tx: Transaction) -> None:
        planning.plan_chunk(tx, made[-1])

    for what, seed in (("known", 1), ("joined", 2), ("new", 99)):
        yield f"submit {what}", partial(submit, seed)
        yield f"plan {what}", in_transaction(database, plan)
    yield "cancel", in_transaction(database, lambda tx: jobs.cancel(tx, made[-1], CALLER))


def _leasing(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    board, agent = "b_11", "a_1"
    with database.transaction(read_only=True) as tx:
        packed = tx.execute(text("SELECT data FROM samples LIMIT 1")).scalar_one()
    state: dict[str, Any] = {"launches": sample_codec.decode(bytes(packed))}

    def dispatch(tx: Transaction) -> None:
        state["token"] = dispatching.dispatch(tx, board, TIMES)

    def accept(tx: Transaction) -> None:
        grant = leases.accept(tx, agent, state["token"], TIMES)
        state["ids"] = tuple(item.measurement_id for item in grant.items)

    def found() -> tuple[MeasurementResult, ...]:
        launches = state["launches"]
        return tuple(MeasurementResult(measurement_id=id_, outcome="ok", launches=launches) for id_ in state["ids"][1:])

    def ingest(tx: Transaction) -> None:
        results.ingest(tx, agent, state["token"], ResultsRequest(results=found()))

    def report(tx: Transaction) -> None:
        told = LeaseReport(lease_token=state["token"], measurement_ids=state["ids"], renew=True)
        leases.report(tx, agent, ReportsRequest(leases=(told,)), TIMES)

    def finish(tx: Transaction) -> None:
        request = FinishRequest(results=found(), release=ReleaseRequest(reason="done"), wants_next=True)
        finishing.finish(tx, agent, state["token"], request, TIMES)

    yield "dispatch", in_transaction(database, dispatch)
    yield "offers", in_transaction(database, lambda tx: leases.offers_for(tx, agent, [board]))
    yield "ended", in_transaction(database, lambda tx: leases.ended(tx, agent, [state["token"]]))
    yield "accept", in_transaction(database, accept)
    yield "renew", in_transaction(database, lambda tx: leases.renew(tx, agent, state["token"], TIMES))
    started = StartedRequest
    yield (
        "started",
        in_transaction(
            database, lambda tx: leases.started(tx, agent, state["token"], started(measurement_ids=state["ids"]))
        ),
    )
    yield "ingest", in_transaction(database, ingest)
    yield (
        "release",
        in_transaction(database, lambda tx: leases.release(tx, agent, state["token"], ReleaseRequest(reason="done"))),
    )
    yield "dispatch again", in_transaction(database, dispatch)
    yield "accept again", in_transaction(database, accept)
    yield "report", in_transaction(database, report)
    yield "finish", in_transaction(database, finish)
    yield "next lease", in_transaction(database, lambda tx: finishing.next_lease(tx, agent, board, TIMES, takes=True))
