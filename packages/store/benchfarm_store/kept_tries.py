"""Kept tries: answers that were given up in hope of a better one, for the case that none comes.

One of each measurement at most, and while that waits; the sweep forgets it afterwards. It counts, marked and graded D
as a third noisy try is, when the last inconclusive try has come (`judging.judge`). Nobody reads it before.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import text

from benchfarm_core.measurements import LaunchSamples, MeasurementResult
from benchfarm_core.summaries import Summary
from benchfarm_store import sample_codec
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import precisions_text, rows_json
from benchfarm_store.summaries import summary_columns
from benchfarm_store.tables import summaries


class Kept(NamedTuple):
    """What a try would have answered.

    `summary`: as it would count, marked. `slowest_ns`: None where the try was of a loud moment by what was known then;
    else how slow the fastest canary of a later lease may be that shows it: till then the board may have changed.
    """

    result: MeasurementResult
    packed: bytes
    summary: Summary
    slowest_ns: int | None


def keep(tx: Transaction, lease_id: int, tries: Iterable[Kept]) -> None:
    """Keep tries of measurements that a lease holds. A later try takes an earlier one's place, but no doubtful one
    does: the longer ago that was, the more leases have met the board since."""
    rows = [{**_row(one), "lease": lease_id, "now": tx.now} for one in tries]
    if rows:
        tx.execute(_KEEP, rows)


def _row(one: Kept) -> dict[str, object]:
    result = one.result
    return {
        "id": result.measurement_id,
        "artifact": result.artifact_sha256,
        "precision": precisions_text(result.effective_precision, result.b_effective_precision),
        "slowest": one.slowest_ns,
        "summary": rows_json([summary_columns(result.measurement_id, one.summary)])[1:-1],
        "data": one.packed,
    }


_KEEP = text("""
    INSERT INTO kept_tries (
        measurement_id, lease_id, measured_at, slowest_ns, artifact_sha256, effective_precision, summary, data)
    VALUES (:id, :lease, :now, CAST(:slowest AS bigint), decode(:artifact, 'hex'), :precision,
        CAST(:summary AS jsonb), :data)
    ON CONFLICT (measurement_id) DO UPDATE SET lease_id = excluded.lease_id, measured_at = excluded.measured_at,
        slowest_ns = excluded.slowest_ns, artifact_sha256 = excluded.artifact_sha256,
        effective_precision = excluded.effective_precision, summary = excluded.summary, data = excluded.data
    WHERE excluded.slowest_ns IS NULL
""")


def answering(tx: Transaction, measurement_ids: Sequence[int]) -> set[int]:
    """Those held measurements whose kept try counts, should no other come.

    Golden runs have none: what judges a board's health is measured when nobody is beside it. The proof of the clock may
    have been asked for since.
    """
    if not measurement_ids:
        return set()
    return set(tx.execute(_ANSWERING, {"ids": list(measurement_ids)}).scalars())


# a lease of the same board in the same state, later than the try, whose canaries no file of a stranger ran beside
_ANSWERING = text("""
    SELECT k.measurement_id FROM kept_tries k
        JOIN measurements m ON m.id = k.measurement_id AND m.only_board_id IS NULL
            AND m.clock_need <= CAST(k.summary->>'clock_proof' AS int)
        JOIN leases t ON t.id = k.lease_id
    WHERE k.measurement_id = ANY(CAST(:ids AS bigint[])) AND (k.slowest_ns IS NULL OR EXISTS (
        SELECT FROM leases l JOIN queues q ON q.id = l.queue_id AND q.platform_id = m.platform_id
        WHERE l.board_id = t.board_id AND l.generation_id = t.generation_id AND l.id > t.id
            AND l.fastest_ns <= k.slowest_ns))
""")


class Answered(NamedTuple):
    """A try that has become a result."""

    measurement_id: int
    effective_precision: str | None
    launches: Sequence[LaunchSamples]


def answer(tx: Transaction, measurement_ids: Sequence[int]) -> list[Answered]:
    """Make kept tries the results of their measurements, which the caller holds and ends; what was written."""
    if not measurement_ids:
        return []
    rows = tx.execute(_ANSWER, {"ids": list(measurement_ids)})
    return [Answered(r.measurement_id, r.effective_precision, sample_codec.decode(bytes(r.data))) for r in rows]


_COLUMNS: Final = summaries.c.keys()
_ANSWER = text(f"""
    WITH kept AS MATERIALIZED (
        DELETE FROM kept_tries WHERE measurement_id = ANY(CAST(:ids AS bigint[])) RETURNING *),
    written AS (
        INSERT INTO results (
            measurement_id, lease_id, measured_at, platform_id, generation_id, artifact_sha256, effective_precision)
        SELECT k.measurement_id, k.lease_id, k.measured_at, m.platform_id, l.generation_id, k.artifact_sha256,
            k.effective_precision
        FROM kept k JOIN leases l ON l.id = k.lease_id JOIN measurements m ON m.id = k.measurement_id),
    packed AS (
        INSERT INTO samples (measurement_id, data) SELECT measurement_id, data FROM kept),
    summarised AS (
        INSERT INTO summaries ({", ".join(_COLUMNS)})
        SELECT {", ".join(f"s.{name}" for name in _COLUMNS)}
        FROM kept k CROSS JOIN LATERAL jsonb_populate_record(NULL::summaries, k.summary) s)
    SELECT measurement_id, effective_precision, data FROM kept ORDER BY measurement_id
""")


def forget(tx: Transaction, limit: int) -> int:
    """Drop up to `limit` tries of measurements that have ended; how many."""
    return tx.execute(_FORGET, {"limit": limit}).rowcount


_FORGET = text("""
    DELETE FROM kept_tries WHERE measurement_id IN (
        SELECT k.measurement_id FROM kept_tries k JOIN measurements m ON m.id = k.measurement_id
        WHERE m.state IN ('done', 'failed', 'cancelled') LIMIT :limit FOR UPDATE OF k SKIP LOCKED)
""")
