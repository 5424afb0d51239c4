"""Comparisons: the answer of a pair's measurement, derived from its samples by a numbered rule, derivable again."""

import json
from typing import Any, Final

from sqlalchemy import insert, text

from benchfarm_core.boards import is_witness_enforced
from benchfarm_core.comparing import COMPARISON_RULE_VERSION, Comparison, compare
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import Protocol
from benchfarm_core.quality import accepted_launches
from benchfarm_store import sample_codec
from benchfarm_store.clock_evidence import CLOCKS_OF_RESULT, clocks_in
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import clock_level
from benchfarm_store.tables import comparisons

MAX_DERIVED: Final = 200
"""Comparisons that are derived anew in one transaction."""
COMPARISON_COLUMNS: Final = """
    c.rule_version AS comparison_rule, c.verdict, c.change_percent, c.low_percent, c.high_percent, c.coverage,
    c.tolerance_percent, c.a_ms, c.b_ms, c.pairs, c.rounds, c.launches AS comparison_launches,
    c.clean_share AS comparison_clean
"""
GRADE_OF_COMPARISON: Final = "CASE c.verdict WHEN 'inconclusive' THEN 'D' ELSE 'A' END"
"""What planning takes for a comparison's grade: an answer is reused while it is fresh, the want of one never."""


def write(tx: Transaction, found: dict[int, tuple[Comparison, ClockProof]]) -> None:
    """The answers of measurements that have just got their results."""
    rows = [
        {**one.model_dump(), "measurement_id": id_, "clock_proof": clock_level(clock_proof)}
        for id_, (one, clock_proof) in found.items()
    ]
    if rows:
        tx.execute(insert(comparisons), rows)


def comparison_of(row: Any) -> Comparison | None:
    """The comparison in a row with COMPARISON_COLUMNS; None where there is none."""
    if row.verdict is None:
        return None
    return Comparison(
        rule_version=row.comparison_rule,
        verdict=row.verdict,
        change_percent=row.change_percent,
        low_percent=row.low_percent,
        high_percent=row.high_percent,
        coverage=row.coverage,
        tolerance_percent=row.tolerance_percent,
        a_ms=row.a_ms,
        b_ms=row.b_ms,
        pairs=row.pairs,
        rounds=row.rounds,
        launches=row.comparison_launches,
        clean_share=row.comparison_clean,
    )


def rederive(tx: Transaction, *, limit: int = MAX_DERIVED) -> int:
    """Derive up to `limit` answers of an older rule anew; returns how many, 0 when nothing is left.

    One that the rule finds contended keeps what it says, marked as looked at.
    """
    rows = tx.execute(_OUTDATED, {"version": COMPARISON_RULE_VERSION, "limit": limit}).all()
    for row in rows:
        protocol = Protocol.model_validate(json.loads(row.protocol))
        kept = accepted_launches(sample_codec.decode(bytes(row.data)), clocks_in(row.clocks), protocol)
        is_enforced = is_witness_enforced(row.platform)
        found = kept if isinstance(kept, FailureCode) else compare(kept, protocol, is_enforced=is_enforced)
        values = found.model_dump() if isinstance(found, Comparison) else {"rule_version": COMPARISON_RULE_VERSION}
        tx.execute(comparisons.update().where(comparisons.c.measurement_id == row.measurement_id).values(**values))
    return len(rows)


_OUTDATED = text(f"""
    SELECT c.measurement_id, d.data, t.spec::text AS protocol, p.key AS platform, {CLOCKS_OF_RESULT}
    FROM comparisons c
    JOIN samples d ON d.measurement_id = c.measurement_id
    JOIN results r ON r.measurement_id = c.measurement_id
    JOIN measurements m ON m.id = c.measurement_id
    JOIN protocols t ON t.id = m.protocol_id
    JOIN platforms p ON p.id = m.platform_id
    WHERE c.rule_version < :version
    ORDER BY c.rule_version LIMIT :limit FOR NO KEY UPDATE OF c SKIP LOCKED
""")
