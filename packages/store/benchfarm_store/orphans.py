"""Orphans: results that came after their lease had ended. Kept for a while, never an answer."""

from collections.abc import Sequence

import zstandard
from sqlalchemy import text

from benchfarm_core.agent_protocol import ResultsAnswer, ResultsRequest
from benchfarm_core.errors import LeaseLost, NotFound
from benchfarm_core.measurements import MeasurementResult
from benchfarm_store import leases
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import lease_column


def too_late(tx: Transaction, agent_id: str, token: str, request: ResultsRequest) -> ResultsAnswer:
    """The lease is over: what it delivered before is repeated, the rest is orphaned. Raises LeaseLost."""
    done = _delivered(tx, _lease_id(tx, agent_id, token), request)
    late = [result for result in request.results if result.measurement_id not in done]
    keep(tx, agent_id, token, late)
    return ResultsAnswer(
        accepted=[],
        repeated=[result.measurement_id for result in request.results if result.measurement_id in done],
        orphaned=[result.measurement_id for result in late],
    )


def _delivered(tx: Transaction, lease_id: int, request: ResultsRequest) -> set[int]:
    """Those of a request that a lease, which may be over, has an outcome of. Raises InvalidRequest."""
    ids = [result.measurement_id for result in request.results]
    outcomes = {row.measurement_id: row.outcome for row in tx.execute(_OUTCOMES, {"lease": lease_id, "ids": ids})}
    leases.refuse_strangers(ids, outcomes, field="results")
    return {id_ for id_, outcome in outcomes.items() if outcome is not None}


_OUTCOMES = text("""
    SELECT measurement_id, outcome FROM lease_items
    WHERE lease_id = :lease AND measurement_id = ANY(CAST(:ids AS bigint[]))
""")


def _lease_id(tx: Transaction, agent_id: str, token: str) -> int:
    """The agent's lease, live or not. Raises LeaseLost."""
    statement = text("SELECT id FROM leases WHERE token = CAST(:token AS uuid) AND agent_id = :agent")
    try:
        found = tx.execute(statement, {"token": lease_column(token), "agent": agent_id}).scalar_one_or_none()
    except NotFound as error:
        raise LeaseLost("there is no such lease") from error
    if found is None:
        raise LeaseLost("this agent never had such a lease")
    return int(found)


def keep(tx: Transaction, agent_id: str, token: str, late: Sequence[MeasurementResult]) -> None:
    """Results for people who look for what went wrong."""
    column = lease_column(token)
    compressor = zstandard.ZstdCompressor()
    for result in late:
        row = {
            "measurement_id": result.measurement_id,
            "lease_token": column,
            "agent_id": agent_id,
            "data": compressor.compress(result.model_dump_json().encode()),
            "received_at": tx.now,
        }
        tx.execute(_ADD_ORPHAN, row)


_ADD_ORPHAN = text("""
    INSERT INTO orphans (measurement_id, lease_token, agent_id, data, received_at)
    VALUES (:measurement_id, CAST(:lease_token AS uuid), :agent_id, :data, :received_at) ON CONFLICT DO NOTHING
""")
