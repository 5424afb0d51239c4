"""A job's items as people read them: by number, each with its result."""

from functools import lru_cache
from typing import Any

from sqlalchemy import text

from benchfarm_core.jobs import ItemState, ItemView, Page
from benchfarm_core.protocols import ChangedParameters, Protocol, changed_parameters
from benchfarm_core.workloads import WORKLOAD, workload_label
from benchfarm_store import cursors
from benchfarm_store.comparisons import COMPARISON_COLUMNS, comparison_of
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import precisions_of, workload_text
from benchfarm_store.summaries import SUMMARY_COLUMNS, summary_of


def list_items(
    tx: Transaction, job_id: str, *, state: ItemState | None, cursor: str | None, limit: int
) -> Page[ItemView]:
    """The planned items of a job by number. The caller has checked whose job it is."""
    after = cursors.decode("items", cursor, int)[0] if cursor else -1
    parameters = {"job": job_id, "after": after, "state": state, "limit": limit + 1}
    rows = tx.execute(_ITEMS, parameters).all()
    return cursors.page(rows, limit, _item, lambda row: cursors.encode("items", row.item_no))


# an item without a measurement still names its workload and platform, by its number
_ITEMS = text(f"""
    SELECT i.item_no, i.timing, i.state, i.source, i.reason, i.failure, i.measurement_id, i.repeat,
        w.digest::text AS digest, w.spec::text AS workload, p.public_id AS platform_id, p.key AS platform,
        f.name AS origin, b.public_id AS board_id, r.measured_at, r.effective_precision, t.spec::text AS protocol,
        {SUMMARY_COLUMNS}, {COMPARISON_COLUMNS}
    FROM (
        SELECT i.*, j.protocol_id, coalesce(j.options->>'timing', 'alone') AS timing,
            i.item_no % (j.options->>'repeats')::int AS repeat,
            j.workload_ids[i.item_no / ((j.options->>'repeats')::int * cardinality(j.platform_ids)) + 1] AS workload_id,
            j.platform_ids[i.item_no / (j.options->>'repeats')::int % cardinality(j.platform_ids) + 1] AS platform_id
        FROM job_items i JOIN jobs j ON j.id = i.job_id
        WHERE i.job_id = CAST(:job AS uuid) AND i.item_no > :after
            AND (CAST(:state AS text) IS NULL OR i.state = :state)
        ORDER BY i.item_no LIMIT :limit) i
    JOIN workloads w ON w.id = i.workload_id
    JOIN protocols t ON t.id = i.protocol_id
    JOIN platforms p ON p.id = i.platform_id
    LEFT JOIN measurements m ON m.id = i.measurement_id
    LEFT JOIN results r ON r.measurement_id = m.id
    LEFT JOIN summaries s ON s.measurement_id = m.id AND s.active
    LEFT JOIN comparisons c ON c.measurement_id = m.id
    LEFT JOIN farms f ON f.id = m.origin_id AND r.measurement_id IS NOT NULL
    LEFT JOIN generations g ON g.id = r.generation_id
    LEFT JOIN boards b ON b.id = g.board_id
    ORDER BY i.item_no
""")


def _item(row: Any) -> ItemView:
    workload = WORKLOAD.validate_json(row.workload)
    precision, b_precision = precisions_of(row.effective_precision)
    return ItemView(
        item_no=row.item_no,
        workload_id=workload_text(row.digest),
        workload=workload,
        label=workload_label(workload),
        platform_id=row.platform_id,
        platform=row.platform,
        repeat=row.repeat,
        timing=row.timing,
        state=row.state,
        source=row.source,
        reason=row.reason,
        failure=row.failure,
        measurement_id=row.measurement_id,
        origin=row.origin,
        board_id=row.board_id,
        measured_at=row.measured_at,
        summary=summary_of(row) if row.state == ItemState.SUCCEEDED else None,
        comparison=comparison_of(row) if row.state == ItemState.SUCCEEDED else None,
        effective_precision=precision,
        b_effective_precision=b_precision,
        protocol_parameters=dict(_changed(row.protocol)),
    )


@lru_cache(maxsize=64)
def _changed(protocol: str) -> ChangedParameters:
    """All items of a job have the same one."""
    return changed_parameters(Protocol.model_validate_json(protocol))
