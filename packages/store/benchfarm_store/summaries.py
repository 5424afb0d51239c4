"""Summaries: derived from raw data by a numbered rule, derivable again, one active per measurement."""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, insert, text

from benchfarm_core.boards import is_witness_enforced
from benchfarm_core.correctness import is_ungated, without_gate
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import Timing
from benchfarm_core.protocols import Protocol, in_situ
from benchfarm_core.quality import RULE_VERSION, CanaryGolden, accepted_launches, summarise
from benchfarm_core.summaries import Summary, as_noisy
from benchfarm_store import sample_codec
from benchfarm_store.clock_evidence import CLOCKS_OF_RESULT, clocks_in
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, clock_level
from benchfarm_store.tables import summaries

MAX_DERIVED: Final = 500
"""Summaries that are derived anew in one transaction."""
SUMMARY_COLUMNS = """
    s.rule_version, s.median_ms, s.normalised_ms, s.canary, s.low_ms, s.high_ms, s.interval_coverage, s.spread,
    s.grade, s.clock_proof, s.launches, s.blocks, s.clean_share, s.load_ms, s.first_ms, s.peak_pss_bytes,
    s.model_pss_bytes, s.mapped_weights_bytes, s.noisy AS is_noisy
"""


def summary_columns(measurement_id: int, summary: Summary) -> dict[str, Any]:
    """The columns of an active summary."""
    return {
        **summary.model_dump(),
        "measurement_id": measurement_id,
        "clock_proof": clock_level(summary.clock_proof),
        "active": True,
    }


def summary_of(row: Any) -> Summary | None:
    """The summary in a row with SUMMARY_COLUMNS; None where there is none."""
    if row.median_ms is None:
        return None
    return Summary(
        rule_version=row.rule_version,
        median_ms=row.median_ms,
        normalised_ms=row.normalised_ms,
        canary=row.canary,
        low_ms=row.low_ms,
        high_ms=row.high_ms,
        interval_coverage=row.interval_coverage,
        spread=row.spread,
        grade=row.grade,
        clock_proof=CLOCK_PROOFS[row.clock_proof],
        launches=row.launches,
        blocks=row.blocks,
        clean_share=row.clean_share,
        load_ms=row.load_ms,
        first_ms=row.first_ms,
        peak_pss_bytes=row.peak_pss_bytes,
        model_pss_bytes=row.model_pss_bytes,
        mapped_weights_bytes=row.mapped_weights_bytes,
        noisy=row.is_noisy,
    )


def rederive(tx: Transaction, *, limit: int = MAX_DERIVED) -> int:
    """Give up to `limit` results whose samples are kept a summary by `RULE_VERSION`, and make it the active one.

    Returns how many; 0 means that nothing is left. A result that the rule finds inconclusive keeps the summary
    it has; one that another transaction holds is left for the next time. What was noisy stays so: what the board's
    canaries took then is not known any more.
    """
    rows = tx.execute(_OUTDATED, {"version": RULE_VERSION, "limit": limit}).all()
    ids = [row.measurement_id for row in rows]
    derived = {row.measurement_id: _derive(row) for row in rows}
    _activate(tx, ids, {id_: summary for id_, summary in derived.items() if isinstance(summary, Summary)})
    return len(ids)


# a summary that the rule could not replace is marked as looked at by a copy under the new version
_OUTDATED = text(f"""
    SELECT s.measurement_id, s.clock_proof, s.noisy AS is_noisy, m.timing, d.data, t.spec::text AS protocol,
        p.spec->'engine'->>'name' AS engine, p.key AS platform, c.mobilenet_ns,
        CASE WHEN l.fastest_ns IS NULL THEN c.sgemm_ns ELSE c.fastest_ns END AS sgemm_ns,
        coalesce(l.fastest_ns, l.sgemm_ns) AS lease_sgemm_ns, l.mobilenet_ns AS lease_mobilenet_ns, {CLOCKS_OF_RESULT}
    FROM summaries s
    JOIN samples d ON d.measurement_id = s.measurement_id
    JOIN results r ON r.measurement_id = s.measurement_id
    JOIN leases l ON l.id = r.lease_id
    JOIN measurements m ON m.id = s.measurement_id
    JOIN protocols t ON t.id = m.protocol_id
    JOIN platforms p ON p.id = m.platform_id
    LEFT JOIN canary_goldens c ON c.generation_id = r.generation_id AND c.platform_id = m.platform_id
    WHERE s.active AND s.rule_version < :version
    ORDER BY s.rule_version LIMIT :limit FOR NO KEY UPDATE OF s SKIP LOCKED
""")


def _derive(row: Row[Any]) -> Summary | FailureCode:
    protocol = Protocol.model_validate(json.loads(row.protocol))
    protocol = in_situ(protocol) if row.timing == Timing.IN_SITU else protocol
    kept = accepted_launches(sample_codec.decode(bytes(row.data)), clocks_in(row.clocks), protocol)
    if isinstance(kept, FailureCode):
        return kept
    found = summarise(
        kept,
        protocol=protocol,
        golden=CanaryGolden(sgemm_ns=row.sgemm_ns, mobilenet_ns=row.mobilenet_ns),
        clock_proof=CLOCK_PROOFS[row.clock_proof],
        beside=_beside(row),
        is_enforced=is_witness_enforced(row.platform),
    )
    if isinstance(found, FailureCode):
        return found
    summary = without_gate(found) if is_ungated(row.engine) else found
    return as_noisy(summary) if row.is_noisy else summary


def _beside(row: Row[Any]) -> CanaryGolden | None:
    """The canaries of the lease; None where none were kept."""
    if row.lease_sgemm_ns is None and row.lease_mobilenet_ns is None:
        return None
    return CanaryGolden(sgemm_ns=row.lease_sgemm_ns, mobilenet_ns=row.lease_mobilenet_ns)


def _activate(tx: Transaction, ids: Sequence[int], derived: dict[int, Summary]) -> None:
    kept = [id_ for id_ in ids if id_ not in derived]
    tx.execute(_COPY, {"ids": kept, "version": RULE_VERSION})
    tx.execute(_RETIRE, {"ids": list(ids), "version": RULE_VERSION})
    tx.execute(_ACTIVATE_COPIES, {"ids": kept, "version": RULE_VERSION})
    if derived:
        tx.execute(insert(summaries), [summary_columns(id_, summary) for id_, summary in derived.items()])


_COPY = text("""
    INSERT INTO summaries (measurement_id, median_ms, normalised_ms, low_ms, high_ms, interval_coverage, spread,
        clean_share, blocks, rule_version, launches, clock_proof, active, grade, canary, load_ms, first_ms,
        peak_pss_bytes, model_pss_bytes, mapped_weights_bytes, noisy)
    SELECT measurement_id, median_ms, normalised_ms, low_ms, high_ms, interval_coverage, spread, clean_share,
        blocks, :version, launches, clock_proof, false, grade, canary, load_ms, first_ms,
        peak_pss_bytes, model_pss_bytes, mapped_weights_bytes, noisy
    FROM summaries WHERE active AND measurement_id = ANY(CAST(:ids AS bigint[]))
""")
_RETIRE = text("""
    UPDATE summaries SET active = false
    WHERE active AND measurement_id = ANY(CAST(:ids AS bigint[])) AND rule_version < :version
""")
_ACTIVATE_COPIES = text("""
    UPDATE summaries SET active = true
    WHERE measurement_id = ANY(CAST(:ids AS bigint[])) AND rule_version = :version
""")
