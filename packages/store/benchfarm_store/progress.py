"""How jobs advance when measurements end.

Lock order, everywhere: board, lease, measurements by id, jobs by id, items, account. Whoever changes a
measurement's state holds its row, so no planner can link an item to it meanwhile.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.events import EventKind
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import JOB_TRANSITIONS, ItemState, JobState, Progress, job_outcome
from benchfarm_core.messages import Nudge, job_channel
from benchfarm_core.states import advance as move
from benchfarm_core.values import Value
from benchfarm_store import events
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import rows_json

PROGRESS_EVERY: Final = timedelta(seconds=1)
SHOWN_ITEMS: Final = 20
"""Numbers of failed items that one event lists; the count is always complete."""


class Finished(Value):
    """A measurement that reached a final state."""

    measurement_id: int
    state: ItemState
    failure: FailureCode | None = None
    reason: str = ""


def advance(tx: Transaction, finished: Sequence[Finished], *, are_jobs_held: bool = False) -> None:
    """Close the items that waited for these measurements, and the jobs that waited for those items."""
    if not finished:
        return
    if not are_jobs_held and not lock_jobs(tx, waiting_jobs(tx, [one.measurement_id for one in finished])):
        return
    closed = tx.execute_prepared(_CLOSE_ITEMS, rows_json([one.model_dump(mode="json") for one in finished])).all()
    by_job: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in closed:
        by_job[row.job_id].append(row)
    for job_id in sorted(by_job):
        count_closed(tx, job_id, by_job[job_id])


def waiting_jobs(tx: Transaction, measurement_ids: Sequence[int]) -> list[str]:
    """Jobs with items that wait for these measurements; stable while the measurements are held."""
    return list(tx.execute(_WAITING_JOBS, {"ids": list(measurement_ids)}).scalars())


_WAITING_JOBS = text("""
    SELECT DISTINCT job_id::text FROM job_items
    WHERE measurement_id = ANY(CAST(:ids AS bigint[])) AND state = 'pending'
""")
_CLOSE_ITEMS = Prepared(
    "close_items",
    "jsonb",
    """
    UPDATE job_items i SET state = x.state, failure = x.failure, reason = x.reason
    FROM jsonb_to_recordset($1) AS x(measurement_id bigint, state text, failure text, reason text)
    WHERE i.measurement_id = x.measurement_id AND i.state = 'pending'
    RETURNING i.job_id::text AS job_id, i.item_no, i.state, i.failure, i.reason
    """,
)


def lock_jobs(tx: Transaction, job_ids: Sequence[str]) -> list[str]:
    """Take the rows of some jobs in id order; returns the ids that exist."""
    statement = text(
        "SELECT id::text AS id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE"
    )
    return [row.id for row in tx.execute(statement, {"ids": list(job_ids)})]


def lock_jobs_of(tx: Transaction, measurement_ids: Sequence[int]) -> None:
    """Take the rows, in id order, of all jobs that wait for some held measurements or pay for them."""
    tx.execute_prepared(_LOCK_JOBS_OF, list(measurement_ids))


_LOCK_JOBS_OF = Prepared(
    "lock_jobs_of",
    "bigint[]",
    """
    SELECT id FROM jobs WHERE id IN (
        SELECT job_id FROM job_items WHERE measurement_id = ANY($1) AND (state = 'pending' OR source = 'new'))
    ORDER BY id FOR NO KEY UPDATE
    """,
)


def count_closed(tx: Transaction, job_id: str, closed: Sequence[Any]) -> None:
    """Move items from pending to their final counts, with events.

    `closed` are rows with `item_no`, `state`, `failure`, `reason`; the caller holds the job's row.
    """
    counts = Counter(row.state for row in closed)
    numbers = [counts[state] for state in (ItemState.SUCCEEDED, ItemState.FAILED, ItemState.CANCELLED)]
    standing = tx.execute_prepared(_COUNT, job_id, len(closed), *numbers, tx.now).one()
    tell_failures(tx, job_id, [row for row in closed if row.state == ItemState.FAILED])
    _settle(tx, job_id, standing)


_JOB_STANDING: Final = "state, total, planned, pending, succeeded, failed, cancelled, known, progress_event_at"
_COUNT = Prepared(
    "count_closed",
    "uuid, int, int, int, int, timestamptz",
    f"""
    UPDATE jobs SET pending = pending - $2, succeeded = succeeded + $3, failed = failed + $4,
        cancelled = cancelled + $5, progressed_at = $6
    WHERE id = $1 RETURNING {_JOB_STANDING}
    """,
)


def tell_failures(tx: Transaction, job_id: str, failed: Sequence[Any]) -> None:
    """One event per failure code and transaction, however many items it closed."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in failed:
        groups[str(row.failure)].append(row)
    for code in sorted(groups):
        rows = sorted(groups[code], key=lambda row: row.item_no)
        data = {
            "failure": code,
            "reason": rows[0].reason,
            "count": len(rows),
            "item_nos": [row.item_no for row in rows[:SHOWN_ITEMS]],
        }
        events.append(tx, job_id, EventKind.ITEM_FAILED, data)


def settle(tx: Transaction, job_id: str) -> None:
    """After counts changed: tell the progress, and end the job when nothing is left to wait for.

    The caller holds the job's row. A progress event at most once a second; the final one always.
    """
    _settle(tx, job_id, tx.execute(_STANDING, {"id": job_id}).one())


def _settle(tx: Transaction, job_id: str, row: Row[Any]) -> None:
    if JobState(row.state) not in _UNFINISHED:
        return
    progress = progress_of(row)
    ended = progress.planned == 0 and progress.pending == 0
    if ended or row.progress_event_at is None or tx.now - row.progress_event_at >= PROGRESS_EVERY:
        tell_progress(tx, job_id, progress)
    if ended:
        finish(tx, job_id, JobState(row.state), *job_outcome(progress))
    tx.after_commit(Nudge(channel=job_channel(job_id)))


_UNFINISHED: Final = frozenset({JobState.QUEUED, JobState.PLANNING, JobState.RUNNING})
_STANDING = text(f"SELECT {_JOB_STANDING} FROM jobs WHERE id = CAST(:id AS uuid)")


def tell_progress(tx: Transaction, job_id: str, progress: Progress) -> None:
    """A progress event now."""
    events.append(tx, job_id, EventKind.PROGRESS, progress.model_dump(mode="json"))
    tx.execute(
        text("UPDATE jobs SET progress_event_at = :now WHERE id = CAST(:id AS uuid)"), {"now": tx.now, "id": job_id}
    )


def finish(tx: Transaction, job_id: str, current: JobState, to: JobState, reason: str) -> None:
    """End a job, with its event."""
    change_state(tx, job_id, current, to, reason)
    tx.execute(text("UPDATE jobs SET finished_at = :now WHERE id = CAST(:id AS uuid)"), {"now": tx.now, "id": job_id})


def change_state(tx: Transaction, job_id: str, current: JobState, to: JobState, reason: str) -> None:
    """Move a job whose row the caller holds, with its event. Raises Conflict."""
    state = move(JOB_TRANSITIONS, current, to)
    tx.execute(
        text("UPDATE jobs SET state = :state, reason = :reason WHERE id = CAST(:id AS uuid)"),
        {"state": state, "reason": reason, "id": job_id},
    )
    events.append(tx, job_id, EventKind.STATE, {"state": state, "reason": reason})


def progress_of(row: Any) -> Progress:
    """The counts of a job's row."""
    return Progress(
        total=row.total,
        planned=row.planned,
        pending=row.pending,
        succeeded=row.succeeded,
        failed=row.failed,
        cancelled=row.cancelled,
        known=row.known,
    )
