"""Results as people read them: by workload, platform, time and origin; one measurement with its evidence."""

import json
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.profilers import InSituBy
from benchfarm_core.protocols import PROTOCOLS, Protocol, changed_parameters
from benchfarm_core.views import AttemptView, MeasurementView, ResultsWanted, ResultView
from benchfarm_core.workloads import WORKLOAD, workload_label
from benchfarm_store import cursors, platforms, sample_codec
from benchfarm_store.comparisons import COMPARISON_COLUMNS, comparison_of
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import precisions_of, workload_digest, workload_text
from benchfarm_store.ingesting import ingest
from benchfarm_store.pairs import VISIBLE
from benchfarm_store.summaries import SUMMARY_COLUMNS, summary_of
from benchfarm_store.timings import way_of
from benchfarm_store.tokens import Caller

__all__ = ["get_measurement", "ingest", "list_results"]

ANY_RESULT: Final = ResultsWanted()


def list_results(
    tx: Transaction,
    by: Caller,
    wanted: ResultsWanted = ANY_RESULT,
    *,
    cursor: str | None = None,
    limit: int = 200,
) -> Page[ResultView]:
    """Results that the caller may see, newest first.

    Results of uploads are shown to accounts that uploaded the same bytes. Raises InvalidRequest.
    """
    filters, parameters = _filters(tx, wanted)
    if cursor:
        at, last = cursors.decode("results", cursor, datetime, int)
        filters.append("(r.measured_at, r.measurement_id) < (:at, :last)")
        parameters |= {"at": at, "last": last}
    # the page is found by index alone; only its rows are then joined with what people want to read
    statement = text(f"{_RESULTS} WHERE {' AND '.join([VISIBLE, *filters])} {_NEWEST}")
    rows = tx.execute(statement, {**parameters, "account": by.account_number, "limit": limit + 1}).all()
    return cursors.page(
        rows, limit, _result, lambda row: cursors.encode("results", row.measured_at, row.measurement_id)
    )


_RESULTS = f"""
    SELECT r.measurement_id, r.measured_at, w.digest::text AS digest, w.spec::text AS workload,
        p.public_id AS platform_id, p.key AS platform, t.spec::text AS protocol, m.timing, m.repeat_no, m.purpose,
        f.name AS origin, b.public_id AS board_id, g.name AS generation, r.effective_precision, {SUMMARY_COLUMNS},
        (SELECT n.public_id FROM bundle_parts i JOIN bundles n ON n.id = i.bundle_id
         WHERE i.lease_id = r.lease_id LIMIT 1) AS bundle_id
    FROM results r
    JOIN measurements m ON m.id = r.measurement_id
    JOIN workloads w ON w.id = m.workload_id
    JOIN platforms p ON p.id = m.platform_id
    JOIN protocols t ON t.id = m.protocol_id
    JOIN farms f ON f.id = m.origin_id
    JOIN summaries s ON s.measurement_id = r.measurement_id AND s.active
    JOIN generations g ON g.id = r.generation_id
    JOIN boards b ON b.id = g.board_id
"""
_NEWEST = "ORDER BY r.measured_at DESC, r.measurement_id DESC LIMIT :limit"


def _filters(tx: Transaction, wanted: ResultsWanted) -> tuple[list[str], dict[str, Any]]:
    filters: dict[str, tuple[str, Any]] = {}
    if wanted.workload_id is not None:
        try:
            filters["w.digest = CAST(:workload AS uuid)"] = ("workload", workload_digest(wanted.workload_id))
        except NotFound as error:
            raise InvalidRequest("that is no workload id", field="workload_id") from error
    if wanted.platform is not None:
        filters["r.platform_id = :platform"] = ("platform", platforms.find(tx, wanted.platform).id)
    if wanted.origin is not None:
        filters["f.name = :origin"] = ("origin", wanted.origin.replace("\x00", ""))
    if wanted.protocol is not None:
        if wanted.protocol not in PROTOCOLS:
            named = ", ".join(sorted(PROTOCOLS))
            raise InvalidRequest(f"the protocols are {named}", code="protocol_unknown", field="protocol")
        filters["t.spec->>'name' = :protocol"] = ("protocol", wanted.protocol)
    if wanted.timing is not None:
        filters["m.timing = :timing"] = ("timing", wanted.timing)
    if wanted.since is not None:
        filters["r.measured_at >= :since"] = ("since", wanted.since)
    if wanted.until is not None:
        filters["r.measured_at < :until"] = ("until", wanted.until)
    return list(filters), dict(filters.values())


def _result(row: Any) -> ResultView:
    workload = WORKLOAD.validate_json(row.workload)
    summary, protocol = summary_of(row), Protocol.model_validate_json(row.protocol)
    assert summary is not None  # the join is an inner one
    return ResultView(
        measurement_id=row.measurement_id,
        workload_id=workload_text(row.digest),
        workload=workload,
        label=workload_label(workload),
        platform_id=row.platform_id,
        platform=row.platform,
        protocol=protocol,
        timing=row.timing,
        repeat_no=row.repeat_no,
        purpose=row.purpose,
        origin=row.origin,
        board_id=row.board_id,
        generation=row.generation,
        measured_at=row.measured_at,
        summary=summary,
        bundle_id=row.bundle_id,
        in_situ_by=_in_situ_by(row),
        effective_precision=row.effective_precision,
        protocol_parameters=changed_parameters(protocol),
    )


def _in_situ_by(row: Any) -> InSituBy | None:
    """How the engine of a row's platform times in situ; None of what is timed alone."""
    return way_of(Timing.IN_SITU, parse_platform_key(row.platform)) if row.timing == Timing.IN_SITU else None


def get_measurement(tx: Transaction, measurement_id: int, by: Caller) -> MeasurementView:
    """A measurement with its evidence and samples. Raises NotFound, also for uploads of others."""
    if not 0 < measurement_id < 2**63:
        raise NotFound("there is no such measurement")
    row = tx.execute(_MEASUREMENT, {"id": measurement_id, "account": by.account_number}).one_or_none()
    if row is None:
        raise NotFound("there is no such measurement")
    precision, b_precision = precisions_of(row.effective_precision)
    return MeasurementView(
        measurement_id=row.id,
        state=row.state,
        workload=WORKLOAD.validate_json(row.workload),
        platform=row.platform,
        protocol=Protocol.model_validate_json(row.protocol),
        timing=row.timing,
        repeat_no=row.repeat_no,
        purpose=row.purpose,
        attempts=row.attempts,
        inconclusive=row.inconclusive,
        failure=row.failure,
        detail=row.detail or "",
        summary=summary_of(row),
        comparison=comparison_of(row),
        evidence=_evidence(tx, row.id),
        samples=[] if row.data is None else list(sample_codec.decode(bytes(row.data))),
        in_situ_by=_in_situ_by(row),
        effective_precision=precision,
        b_effective_precision=b_precision,
    )


_MEASUREMENT = text(f"""
    SELECT m.*, w.spec::text AS workload, p.key AS platform, t.spec::text AS protocol, d.data, r.effective_precision,
        {SUMMARY_COLUMNS}, {COMPARISON_COLUMNS}
    FROM measurements m
    JOIN workloads w ON w.id = m.workload_id
    JOIN platforms p ON p.id = m.platform_id
    JOIN protocols t ON t.id = m.protocol_id
    LEFT JOIN summaries s ON s.measurement_id = m.id AND s.active
    LEFT JOIN comparisons c ON c.measurement_id = m.id
    LEFT JOIN results r ON r.measurement_id = m.id
    LEFT JOIN samples d ON d.measurement_id = m.id
    WHERE m.id = :id AND {VISIBLE}
""")


def _evidence(tx: Transaction, measurement_id: int) -> AttemptView | None:
    """The lease that gave the result; for want of one, the latest that worked on the measurement."""
    row = tx.execute(_LATEST_LEASE, {"id": measurement_id}).one_or_none()
    if row is None:
        return None
    launches = tx.execute(_LAUNCHES, {"lease": row.id}).all()
    return AttemptView(
        lease_id=str(row.id),
        board_id=row.board_id,
        started_at=row.started_at,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        launches=[{"launch_no": launch.launch_no, **json.loads(launch.evidence)} for launch in launches],
    )


_LATEST_LEASE = text("""
    SELECT l.id, b.public_id AS board_id, i.started_at, l.ended_at, l.end_reason
    FROM measurements m LEFT JOIN results r ON r.measurement_id = m.id
        JOIN leases l ON l.id = coalesce(r.lease_id, m.lease_id)
        JOIN lease_items i ON i.lease_id = l.id AND i.measurement_id = m.id
        JOIN boards b ON b.id = l.board_id
    WHERE m.id = :id
""")
_LAUNCHES = text(
    "SELECT launch_no, evidence::text AS evidence FROM launches WHERE lease_id = :lease ORDER BY launch_no"
)
