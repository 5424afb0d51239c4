"""What leases' launches saw of the clock: kept with their evidence, read again wherever a result is derived from it."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import text

from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_store.database import Transaction

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


def clocks_in(column: Mapping[str, Any] | None) -> dict[int, ClockEvidence]:
    """What `CLOCKS_OF_RESULT` gave."""
    return {int(number): ClockEvidence.model_validate(one) for number, one in (column or {}).items()}
