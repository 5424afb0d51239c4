"""One sweep repairs every loss. Each part does nothing where nothing is wrong, and never waits for a lock."""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Row, TextClause, select, text

from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemState, JobState, job_outcome
from benchfarm_core.leases import AGENT_SILENT_S
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.values import Value
from benchfarm_store import board_history, bundles, dispatching, endings, kept_tries, progress, wanted_platforms
from benchfarm_store import jobs as job_moves
from benchfarm_store.board_history import Happened
from benchfarm_store.database import Database, Transaction
from benchfarm_store.jobs import KEY_LIFE_DAYS
from benchfarm_store.tables import jobs

MAX_JOBS: Final = 100
"""Jobs of one kind that one sweep looks after; the next sweep takes the others."""
MAX_ENDINGS: Final = 10
"""Of jobs to end one sweep takes fewer: a hundred thousand waiting items take seconds."""
UNPLANNED_S: Final = 15
"""A job whose planning has not moved for this long has lost its message."""
MAX_RETIRED: Final = 1000
"""Measurements that wait where nothing will be measured, of one sweep."""
MAX_FORGOTTEN: Final = 1000
"""Rows of one kind that one sweep forgets."""
ORPHAN_LIFE_DAYS: Final = 30
BOARD_EVENT_LIFE_DAYS: Final = 90
"""Of a board's comings and goings; what else happened to it is kept."""


class SweepReport(Value):
    """What a sweep found and set right."""

    expired_leases: int
    offline_boards: int
    unplanned_jobs: int
    retired_measurements: int
    boards_to_dispatch: int
    settled_jobs: int
    told_jobs: int
    ended_jobs: int
    forgotten_keys: int
    forgotten_orphans: int
    forgotten_board_events: int
    forgotten_bundles: int
    forgotten_tries: int


def sweep(database: Database) -> SweepReport:
    """Repair what was lost and send its messages again, each part in a transaction of its own.

    A slow part then holds nothing that the others need and undoes none of them; what takes longest comes last.
    """

    def part(repair: Callable[[Transaction], Any]) -> Any:
        with database.transaction() as tx:
            return repair(tx)

    found = {
        "expired_leases": part(lambda tx: endings.expire(tx, None)),
        "offline_boards": part(_set_silent_offline),
        "unplanned_jobs": part(_plan_again),
        "retired_measurements": part(lambda tx: wanted_platforms.retire(tx, MAX_RETIRED)),
        "boards_to_dispatch": part(_dispatch_again),
    }
    settled, told = part(_settle_jobs)
    found |= {"settled_jobs": settled, "told_jobs": told, "ended_jobs": 0}
    while found["ended_jobs"] < MAX_ENDINGS and part(_end_job):
        found["ended_jobs"] += 1
    found |= {"forgotten_keys": part(_forget(_OLD_KEYS)), "forgotten_orphans": part(_forget(_OLD_ORPHANS))}
    found["forgotten_board_events"] = part(_forget(_OLD_BOARD_EVENTS))
    found["forgotten_bundles"] = part(lambda tx: bundles.forget_bundles(tx, MAX_FORGOTTEN))
    found["forgotten_tries"] = part(lambda tx: kept_tries.forget(tx, MAX_FORGOTTEN))
    return SweepReport(**found)


def _set_silent_offline(tx: Transaction) -> int:
    """Boards without a lease whose agent is silent."""
    rows = tx.execute(_SILENT_BOARDS, {"now": tx.now}).scalars().all()
    reason = "its agent has not been heard"
    board_history.record(tx, [Happened(id_, BoardEventKind.OFFLINE, board_history.FARM, reason=reason) for id_ in rows])
    return len(rows)


def _plan_again(tx: Transaction) -> int:
    unplanned = tx.execute(_UNPLANNED, {"now": tx.now, "limit": MAX_JOBS}).scalars().all()
    for job_id in unplanned:
        tx.after_commit(TaskMessage(task=Task.PLAN_JOB, args=(job_id,)))
    return len(unplanned)


def _dispatch_again(tx: Transaction) -> int:
    boards = dispatching.boards_to_dispatch(tx)
    for board_id in boards:
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board_id,)))
    return len(boards)


def _forget(old: TextClause) -> Callable[[Transaction], int]:
    return lambda tx: tx.execute(old, {"now": tx.now, "limit": MAX_FORGOTTEN}).rowcount


# a leased board goes offline when its lease has ended
_SILENT_BOARDS = text(f"""
    UPDATE boards SET state = 'offline', cooling_until = NULL WHERE id IN (
        SELECT b.id FROM boards b JOIN agents a ON a.id = b.agent_id
        WHERE b.state IN ('idle', 'cooling')
            AND (a.last_heard_at IS NULL OR a.last_heard_at <= :now - interval '{AGENT_SILENT_S} seconds')
        ORDER BY b.id FOR NO KEY UPDATE OF b SKIP LOCKED) RETURNING id
""")
# a chain of messages that is alive is left alone: a second one would plan nothing and cost as much
_UNPLANNED = text(f"""
    SELECT id::text FROM jobs WHERE finished_at IS NULL AND state IN ('queued', 'planning')
        AND coalesce(progressed_at, created_at) <= :now - interval '{UNPLANNED_S} seconds'
    ORDER BY id LIMIT :limit
""")
_OLD_KEYS = text(f"""
    DELETE FROM idempotency_keys WHERE (account_id, key) IN (
        SELECT account_id, key FROM idempotency_keys WHERE created_at <= :now - interval '{KEY_LIFE_DAYS} days'
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


_OLD_ORPHANS = text(f"""
    DELETE FROM orphans WHERE id IN (
        SELECT id FROM orphans WHERE received_at <= :now - interval '{ORPHAN_LIFE_DAYS} days'
        ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


_OLD_BOARD_EVENTS = text(f"""
    DELETE FROM board_events WHERE id IN (
        SELECT id FROM board_events WHERE kind IN ('online', 'offline')
            AND at <= :now - interval '{BOARD_EVENT_LIFE_DAYS} days'
        ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def _end_job(tx: Transaction) -> bool:
    """A job that ran out of time or of budget: what waits fails, what is done stays. Whether there was one."""
    spent = jobs.c.options["budget_device_s"].as_float() < jobs.c.device_s_spent
    statement = (
        select(jobs.c.id, jobs.c.state, jobs.c.planned, jobs.c.expires_at)
        .where(jobs.c.finished_at.is_(None), (jobs.c.expires_at <= tx.now) | spent)
        .order_by(jobs.c.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    row = tx.execute(statement).one_or_none()
    if row is not None:
        _end(tx, row)
    return row is not None


def _end(tx: Transaction, row: Row[Any]) -> None:
    is_late = row.expires_at is not None and row.expires_at <= tx.now
    code, reason = (FailureCode.EXPIRED, _LATE) if is_late else (FailureCode.BUDGET_SPENT, _SPENT)
    outcome, _ = job_outcome(job_moves.end_waiting(tx, row, ItemState.FAILED, code, reason))
    progress.finish(tx, row.id, JobState(row.state), outcome, reason)


_LATE = "the job expired before everything was measured"
_SPENT = "the job's device-seconds were spent before everything was measured"


def _settle_jobs(tx: Transaction) -> tuple[int, int]:
    """End jobs whose counts say so, and tell progress that came within a second of an earlier event."""
    rows = tx.execute(_UNSETTLED, {"now": tx.now, "limit": MAX_JOBS}).all()
    for row in rows:
        progress.settle(tx, row.id)
    done = sum(row.ended for row in rows)
    return done, len(rows) - done


_UNSETTLED = text("""
    SELECT id::text AS id, planned = 0 AND pending = 0 AS ended FROM jobs
    WHERE finished_at IS NULL AND ((planned = 0 AND pending = 0)
        OR (progressed_at > progress_event_at AND progress_event_at <= :now - interval '1 second'))
    ORDER BY jobs.id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
