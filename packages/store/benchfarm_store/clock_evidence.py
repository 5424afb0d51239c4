"""What leases' launches saw of the clock: kept with their evidence, read again wherever a result is derived from it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import text

from benchfarm_core.agent_protocol import LaunchEvidence
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import rows_json

_BY_LAUNCH: Final = """
    SELECT jsonb_object_agg(e.launch_no, e.evidence->'clock') FROM launches e
    WHERE jsonb_typeof(e.evidence->'clock') = 'object'
"""
CLOCKS_OF_RESULT: Final = f"({_BY_LAUNCH} AND e.lease_id = r.lease_id) AS clocks"
"""The column `clocks` of a row r of results; `clocks_in` reads it."""


def of_lease(tx: Transaction, lease_id: int) -> dict[int, ClockEvidence]:
    """The evidence of a lease's launches by number; those that told nothing are left out."""
    return clocks_in(tx.execute(_OF_LEASE, {"lease": lease_id}).scalar())


_OF_LEASE = text(f"{_BY_LAUNCH} AND e.lease_id = :lease")


def has_launched(tx: Transaction, lease_id: int) -> bool:
    """Whether any launch of a lease got ready: those that never did leave no evidence."""
    return bool(tx.execute(_HAS_LAUNCHED, {"lease": lease_id}).scalar_one())


_HAS_LAUNCHED = text("SELECT EXISTS (SELECT FROM launches WHERE lease_id = :lease)")


def clocks_in(column: Mapping[str, Any] | None) -> dict[int, ClockEvidence]:
    """What `CLOCKS_OF_RESULT` gave."""
    return {int(number): ClockEvidence.model_validate(one) for number, one in (column or {}).items()}


def keep(tx: Transaction, lease_id: int, evidence: Sequence[LaunchEvidence]) -> dict[int, ClockEvidence]:
    """Keep what is new of a lease's launches; what all of them saw of the clock, by number."""
    rows = [{"no": e.launch_no, "evidence": e.model_dump(mode="json", exclude={"launch_no"})} for e in evidence]
    if not rows:
        return of_lease(tx, lease_id)
    found = tx.execute_prepared(_ADD_LAUNCHES, lease_id, rows_json(rows))
    return clocks_in({row.launch_no: row.clock for row in found if row.clock is not None})


_ADD_LAUNCHES = Prepared(
    "results_launches",
    "bigint, jsonb",
    """
    WITH added AS (
        INSERT INTO launches (lease_id, launch_no, evidence)
        SELECT $1, no, evidence FROM jsonb_to_recordset($2) AS x(no smallint, evidence jsonb)
        ON CONFLICT DO NOTHING RETURNING launch_no, evidence->'clock' AS clock)
    SELECT launch_no, clock FROM added UNION ALL SELECT launch_no, evidence->'clock' FROM launches WHERE lease_id = $1
    """,
)
