"""The latency question, answered from what is measured."""

from typing import Any

from sqlalchemy import Row, text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import MAX_ANSWERS, LatencyAnswer, LatencyRequest, LatencyResponse
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS, purpose_of
from benchfarm_core.summaries import GRADE_ORDER, Grade
from benchfarm_core.workloads import workload_id
from benchfarm_store import estimates, platforms, specs
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, rows_json, workload_digest
from benchfarm_store.tokens import Caller


def ask(tx: Transaction, request: LatencyRequest, by: Caller) -> LatencyResponse:
    """Every item on every platform, items outer: the newest fresh result, of any protocol of the farm's own.

    What is not measured answers `no_predictor`. Raises InvalidRequest (`too_large` above `MAX_ANSWERS`), NotFound for
    models of other accounts.
    """
    rows = platforms.find_all(tx, request.platforms)
    _check_size(len(request.items) * len(rows))
    resolved = specs.resolve_workloads(tx, request.items, by.account_number, field="items")
    digests = [workload_digest(workload_id(one.workload)) for one in resolved]
    ids = estimates.workload_rows(tx, resolved)
    pairs = {(ids[digest], row.id) for digest in digests if digest in ids for row in rows}
    best = _best(tx, request, pairs)
    return LatencyResponse(
        answers=[
            _answer(index, row.key, best.get((ids.get(digest, 0), row.id)))
            for index, digest in enumerate(digests)
            for row in rows
        ]
    )


def _check_size(answers: int) -> None:
    if answers > MAX_ANSWERS:
        raise InvalidRequest(
            f"the question has {answers} answers (items x platforms); the limit is {MAX_ANSWERS}", code="too_large"
        )


def _best(tx: Transaction, request: LatencyRequest, pairs: set[tuple[int, int]]) -> dict[tuple[int, int], Row[Any]]:
    parameters = {
        "pairs": rows_json([{"w": w, "p": p} for w, p in sorted(pairs)]),
        "protocols": [protocol.id for protocol in PROTOCOLS.values() if purpose_of(protocol) == "latency"],
        "grades": [grade for grade in Grade if GRADE_ORDER[grade] <= min(GRADE_ORDER[request.min_grade], 2)],
        "age": request.max_age_s,
        "now": tx.now,
    }
    found = tx.execute(_BEST, parameters) if pairs else ()
    return {(row.w, row.p): row for row in found}


# more launches say more than a newer visit: the steadier protocol goes first, then the newest
_BEST = text("""
    SELECT DISTINCT ON (x.w, x.p) x.w, x.p, m.id, s.median_ms, s.low_ms, s.high_ms, s.normalised_ms, s.grade,
        s.clock_proof, s.interval_coverage, r.measured_at, f.name AS origin
    FROM jsonb_to_recordset(CAST(:pairs AS jsonb)) AS x(w bigint, p int)
    JOIN measurements m ON m.workload_id = x.w AND m.platform_id = x.p AND m.state = 'done' AND m.timing = 'alone'
    JOIN protocols t ON t.id = m.protocol_id AND t.public_id = ANY(:protocols)
    JOIN results r ON r.measurement_id = m.id AND r.measured_at >= :now - make_interval(secs => :age)
    JOIN summaries s ON s.measurement_id = m.id AND s.active AND s.grade = ANY(:grades)
    JOIN generations g ON g.id = r.generation_id
    JOIN boards b ON b.id = g.board_id AND b.generation_id = g.id
    JOIN farms f ON f.id = m.origin_id
    ORDER BY x.w, x.p, (s.launches >= 3) DESC, r.measured_at DESC
""")


def _answer(item_no: int, platform: str, row: Row[Any] | None) -> LatencyAnswer:
    if row is None:
        return _unanswered(item_no, platform)
    return LatencyAnswer(
        item_no=item_no,
        platform=platform,
        source="measured",
        median_ms=row.median_ms,
        low_ms=row.low_ms,
        high_ms=row.high_ms,
        normalised_ms=row.normalised_ms,
        grade=row.grade,
        clock_proof=ClockProof(CLOCK_PROOFS[row.clock_proof]),
        coverage=row.interval_coverage,
        measurement_id=row.id,
        measured_at=row.measured_at,
        origin=row.origin,
        error=None,
        detail=None,
    )


def _unanswered(item_no: int, platform: str) -> LatencyAnswer:
    return LatencyAnswer(
        item_no=item_no,
        platform=platform,
        source=None,
        median_ms=None,
        low_ms=None,
        high_ms=None,
        normalised_ms=None,
        grade=None,
        clock_proof=None,
        coverage=None,
        measurement_id=None,
        measured_at=None,
        origin=None,
        error="no_predictor",
        detail="nothing fresh is measured and there is no predictor for this platform; submit a job",
    )
