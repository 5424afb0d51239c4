"""Jobs: submitted, listed, cancelled, retried."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, insert, select, text

from benchfarm_core.errors import Conflict, InvalidRequest, NotFound
from benchfarm_core.events import EventKind
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import (
    JOB_TRANSITIONS,
    DryRun,
    ItemState,
    ItemView,
    JobKind,
    JobRequest,
    JobSpec,
    JobState,
    JobView,
    Page,
    Progress,
    WhyView,
)
from benchfarm_core.measurements import Timing
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.protocols import Protocol
from benchfarm_core.states import final_states
from benchfarm_core.values import digest
from benchfarm_store import accounts, cursors, estimates, events, measurements, model_merges, progress, specs, why
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import PRIORITIES, job_column, priority_number
from benchfarm_store.items import list_items
from benchfarm_store.tables import jobs, protocols
from benchfarm_store.tokens import Caller

FINAL = final_states(JOB_TRANSITIONS)
KEY_LIFE_DAYS: Final = 7
"""An Idempotency-Key means the same job for this long; the sweep forgets it then."""
SHOWN_MODELS: Final = 5
"""Models that one refusal names."""


def submit(
    tx: Transaction,
    request: JobRequest,
    *,
    by: Caller,
    idempotency_key: str | None = None,
    request_sha256: str = "",
    ahead: specs.JobAhead | None = None,
) -> tuple[JobView, bool]:
    """A new job, and True; or the job of the same key and body, and False. A key is forgotten after 7 days.

    Args:
        ahead: what `specs.resolve_ahead` found of the job before the transaction; None: it is done here.

    Raises InvalidRequest, QuotaExceeded, Conflict (`idempotency_mismatch`) for the same key with another body.
    """
    account = by.account_number
    model_merges.hold(tx)
    known = _claim_key(tx, account, idempotency_key, request_sha256)
    if known is not None:
        return get_job(tx, known, by), False
    spec, resolved, platforms = specs.resolve(tx, request, account, make=True, ahead=ahead)
    workload_ids = specs.ensure_workloads(tx, resolved)
    if spec.budget_device_s is not None:
        estimates.check_budget(tx, spec, resolved, platforms)
    expires_at = tx.now + timedelta(seconds=request.expires_in_s) if request.expires_in_s else None
    columns = {
        "account_id": account,
        "protocol_id": specs.ensure_protocol(tx, spec.protocol),
        "name": request.name,
        "labels": request.labels,
        "priority": priority_number(request.priority),
        "options": _options(spec),
        "workload_ids": workload_ids,
        "platform_ids": [platform.id for platform in platforms],
        "total": spec.items_count,
        "expires_at": expires_at,
    }
    accounts.check_room(tx, account, spec.items_count)
    return _insert(tx, columns, idempotency_key, by), True


def _options(spec: JobSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"workloads", "platform_keys", "protocol"})


def is_used(tx: Transaction, key: str, by: Caller) -> bool:
    """Whether the account has used an Idempotency-Key: then no job is made."""
    return tx.execute(_FIND_KEY, {"account": by.account_number, "key": key}).one_or_none() is not None


def _claim_key(tx: Transaction, account: int, key: str | None, request_sha256: str) -> str | None:
    """The job that a key names already. The unique key makes a second request wait for the first."""
    if key is None:
        return None
    parameters = {"account": account, "key": key, "sha256": request_sha256, "now": tx.now}
    if tx.execute(_CLAIM_KEY, parameters).one_or_none() is not None:
        return None
    row = tx.execute(_FIND_KEY, parameters).one()
    if row.request_sha256 != request_sha256:
        raise Conflict("the Idempotency-Key was used with another body", code="idempotency_mismatch")
    return str(row.job_id)


_CLAIM_KEY = text("""
    INSERT INTO idempotency_keys (account_id, key, request_sha256, created_at)
    VALUES (:account, :key, :sha256, :now) ON CONFLICT DO NOTHING RETURNING key
""")
_FIND_KEY = text("""
    SELECT request_sha256, job_id::text AS job_id FROM idempotency_keys WHERE account_id = :account AND key = :key
""")
_NAME_KEY = text("""
    UPDATE idempotency_keys SET job_id = CAST(:job AS uuid) WHERE account_id = :account AND key = :key
""")


def _insert(tx: Transaction, columns: Mapping[str, Any], key: str | None, by: Caller) -> JobView:
    values = {**columns, "state": JobState.QUEUED, "planned": columns["total"], "created_at": tx.now}
    job_id: str = tx.execute(insert(jobs).values(**values).returning(jobs.c.id)).scalar_one()
    events.append(tx, job_id, EventKind.STATE, {"state": JobState.QUEUED, "reason": ""})
    tx.after_commit(TaskMessage(task=Task.PLAN_JOB, args=(job_id,)))
    if key is not None:
        tx.execute(_NAME_KEY, {"account": by.account_number, "key": key, "job": job_id})
    return get_job(tx, job_id, by)


def dry_run(tx: Transaction, request: JobRequest, by: Caller, *, ahead: specs.JobAhead | None = None) -> DryRun:
    """What a job would do, without doing it. Raises as `submit` does."""
    spec, resolved, platforms = specs.resolve(tx, request, by.account_number, make=False, ahead=ahead)
    return estimates.dry_run(tx, spec, resolved, platforms)


def get_job(tx: Transaction, job_id: str, by: Caller) -> JobView:
    """One job of the caller's account. Raises NotFound."""
    row = tx.execute(_JOBS.where(jobs.c.id == job_column(job_id))).one_or_none()
    if row is None or row.account_id != by.account_number:
        raise NotFound("there is no such job")
    return _view(row)


def get_job_state_number(tx: Transaction, job_id: str) -> tuple[JobState, int]:
    """State and number of the last event: a cheap look for those who wait. Raises NotFound."""
    statement = text("SELECT state, event_number FROM jobs WHERE id = CAST(:id AS uuid)")
    row = tx.execute(statement, {"id": job_column(job_id)}).one_or_none()
    if row is None:
        raise NotFound("there is no such job")
    return JobState(row.state), row.event_number


def list_jobs(
    tx: Transaction,
    by: Caller,
    *,
    state: JobState | None = None,
    label: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[JobView]:
    """The account's jobs, newest first. `label` is `key` or `key=value`."""
    statement = _JOBS.where(jobs.c.account_id == by.account_number)
    if state is not None:
        statement = statement.where(jobs.c.state == state)
    if label is not None:
        name, equals, value = label.replace("\x00", "").partition("=")
        statement = statement.where(jobs.c.labels.contains({name: value}) if equals else jobs.c.labels.has_key(name))
    if cursor:
        statement = statement.where(jobs.c.id < _job_cursor(cursor))
    rows = tx.execute(statement.order_by(jobs.c.id.desc()).limit(limit + 1)).all()
    return cursors.page(rows, limit, _view, lambda row: cursors.encode("jobs", row.id))


def _job_cursor(cursor: str) -> str:
    try:
        return job_column(cursors.decode("jobs", cursor, str)[0])
    except NotFound as error:
        raise InvalidRequest("the cursor names no job", code="cursor_invalid", field="cursor") from error


_COUNTS = [jobs.c[name] for name in Progress.model_fields]
_KIND = jobs.c.options["kind"].astext.label("kind")
_TIMING = jobs.c.options["timing"].astext.label("timing")
# the arrays stay where they are: planning, retrying and dispatch read them, no view shows them
_JOBS = select(
    *(jobs.c[name] for name in ("id", "account_id", "name", "labels", "state", "reason", "priority")),
    *(jobs.c[name] for name in ("device_s_spent", "created_at", "finished_at", "expires_at")),
    *_COUNTS,
    _KIND,
    _TIMING,
    protocols.c.spec.label("protocol"),
    text(
        "ARRAY(SELECT p.key FROM unnest(jobs.platform_ids) WITH ORDINALITY AS x(id, n)"
        " JOIN platforms p ON p.id = x.id ORDER BY x.n) AS platform_keys"
    ),
).join(protocols, protocols.c.id == jobs.c.protocol_id)


def lock_job(tx: Transaction, job_id: str, by: Caller) -> Row[Any]:
    """The row of the caller's job, held to the end of the transaction. Raises NotFound."""
    statement = select(jobs).where(jobs.c.id == job_column(job_id)).with_for_update(key_share=True)
    row = tx.execute(statement).one_or_none()
    if row is None or row.account_id != by.account_number:
        raise NotFound("there is no such job")
    return row


def cancel(tx: Transaction, job_id: str, by: Caller) -> JobView:
    """End a job; what nobody else waits for is not measured any more. Twice changes nothing.

    Raises Conflict (`job_finished`) for a job that ended otherwise.
    """
    row = lock_job(tx, job_id, by)
    if row.state != JobState.CANCELLED:
        if JobState(row.state) in FINAL:
            raise Conflict("the job has ended already", code="job_finished")
        end_waiting(tx, row, ItemState.CANCELLED, None, "cancelled by the client")
        current = JobState(row.state)
        progress.finish(tx, row.id, current, JobState.CANCELLED, "cancelled by the client")
    return get_job(tx, job_id, by)


def end_waiting(tx: Transaction, row: Row[Any], state: ItemState, failure: FailureCode | None, reason: str) -> Progress:
    """Give all waiting items of a held job one final state, and drop measurements that nobody wants then.

    Returns how the job stands after that.
    """
    parameters = {"id": row.id, "state": state, "failure": failure, "reason": reason}
    closed = tx.execute(_END_ITEMS, parameters).all()
    cancelled = state == ItemState.CANCELLED
    tx.execute(
        _COUNT_END,
        {
            "id": row.id,
            "pending": len(closed),
            "cancelled": len(closed) + row.planned if cancelled else 0,
            "failed": 0 if cancelled else len(closed) + row.planned,
            "now": tx.now,
        },
    )
    if not cancelled:
        progress.tell_failures(tx, row.id, closed)
    standing = progress.progress_of(tx.execute(select(*_COUNTS).where(jobs.c.id == row.id)).one())
    progress.tell_progress(tx, row.id, standing)
    measurements.drop_unwanted(tx, [item.measurement_id for item in closed])
    return standing


_END_ITEMS = text("""
    UPDATE job_items SET state = :state, failure = :failure, reason = :reason
    WHERE job_id = CAST(:id AS uuid) AND state = 'pending'
    RETURNING item_no, measurement_id, state, failure, reason
""")
_COUNT_END = text("""
    UPDATE jobs SET planned = 0, pending = pending - :pending, failed = failed + :failed,
        cancelled = cancelled + :cancelled, progressed_at = :now
    WHERE id = CAST(:id AS uuid)
""")


def retry(tx: Transaction, job_id: str, by: Caller, *, idempotency_key: str | None = None) -> tuple[JobView, bool]:
    """A new job of the items that failed or were cancelled, labels and wishes kept, and True.

    With a key as `submit`: the same key for the same job gives the job made before, and False.

    Raises Conflict (`job_not_finished`) before the job has ended and when nothing of it is missing,
    InvalidRequest naming uploaded models among them that the account has deleted, and (`board_model_merged`) a platform
    whose board model is another one since.
    """
    model_merges.hold(tx)
    request_sha256 = digest({"retry_of": job_column(job_id)}, length=64)
    known = _claim_key(tx, by.account_number, idempotency_key, request_sha256)
    if known is not None:
        return get_job(tx, known, by), False
    row = lock_job(tx, job_id, by)
    if JobState(row.state) not in FINAL:
        raise Conflict("only a finished job can be retried", code="job_not_finished")
    item_nos = tx.execute(_MISSING, {"id": row.id}).scalars().all()
    if not item_nos:
        raise Conflict("every item of the job has its result")
    _check_models(tx, row, item_nos)
    _check_platforms(tx, row)
    accounts.check_room(tx, row.account_id, len(item_nos))
    expires_at = tx.now + (row.expires_at - row.created_at) if row.expires_at is not None else None
    kept = ("account_id", "protocol_id", "name", "labels", "priority", "options", "workload_ids", "platform_ids")
    columns = {name: getattr(row, name) for name in kept}
    columns |= {"item_nos": list(item_nos), "total": len(item_nos), "retry_of": row.id, "expires_at": expires_at}
    return _insert(tx, columns, idempotency_key, by), True


def _check_models(tx: Transaction, row: Row[Any], item_nos: Sequence[int]) -> None:
    """Raise InvalidRequest unless the account still has every uploaded model that these items measure."""
    width = row.options["repeats"] * len(row.platform_ids)
    ids = {row.workload_ids[item_no // width] for item_no in item_nos}
    gone = tx.execute(_GONE_MODELS, {"ids": sorted(ids), "account": row.account_id}).scalars().all()
    if gone:
        more = "" if len(gone) <= SHOWN_MODELS else f" and {len(gone) - SHOWN_MODELS} more"
        raise InvalidRequest(
            f"the account has deleted {', '.join(gone[:SHOWN_MODELS])}{more}: upload again, or submit the rest anew",
            code="model_deleted",
        )


def _check_platforms(tx: Transaction, row: Row[Any]) -> None:
    """Raise InvalidRequest where a board model was merged since: no board would take its measurements."""
    merges = model_merges.find_merges(tx)
    keys = tx.execute(_KEYS, {"ids": row.platform_ids}).scalars() if merges else ()
    for key in keys:
        if (present := model_merges.present_key(merges, key)) != key:
            raise InvalidRequest(
                f"{key} is {present} since its board model was merged: submit the rest anew", code="board_model_merged"
            )


_KEYS = text("SELECT key FROM platforms WHERE id = ANY(CAST(:ids AS int[])) ORDER BY key")
# a deleted model's row stays, so that it can be named; the same file uploaded again is the same workload
_GONE_MODELS = text("""
    WITH meant AS (
        SELECT unnest(CAST(:ids AS bigint[])) AS id UNION
        SELECT unnest(ARRAY[a_id, b_id]) FROM pairs WHERE workload_id = ANY(CAST(:ids AS bigint[])))
    SELECT DISTINCT ON (w.id) o.id FROM meant JOIN workloads w USING (id)
    JOIN models o ON o.workload_id = w.id AND o.account_id = :account
    WHERE w.kind = 'upload' AND NOT EXISTS (
        SELECT FROM models l WHERE l.workload_id = w.id AND l.account_id = :account AND l.deleted_at IS NULL)
    ORDER BY w.id, o.deleted_at DESC
""")


# items that were never planned have no row
_MISSING = text("""
    WITH job AS (SELECT * FROM jobs WHERE id = CAST(:id AS uuid)),
    wanted AS (
        SELECT unnest(coalesce(item_nos, ARRAY(SELECT generate_series(0, total - 1)))) AS item_no FROM job)
    SELECT w.item_no FROM wanted w LEFT JOIN job_items i ON i.job_id = (SELECT id FROM job) AND i.item_no = w.item_no
    WHERE i.state IS DISTINCT FROM 'succeeded' ORDER BY w.item_no
""")


def items(
    tx: Transaction,
    job_id: str,
    by: Caller,
    *,
    state: ItemState | None = None,
    cursor: str | None = None,
    limit: int = 200,
) -> Page[ItemView]:
    """The planned items of a job with their results, by number. Raises NotFound."""
    return list_items(tx, get_job(tx, job_id, by).id, state=state, cursor=cursor, limit=limit)


def explain(tx: Transaction, job_id: str, by: Caller, *, retry_s: float = 0) -> WhyView:
    """Why a job is not further, per platform and board; `retry_s` as in `LeaseTimes`. Raises NotFound."""
    return why.explain(tx, get_job(tx, job_id, by), retry_s=retry_s)


def _view(row: Any) -> JobView:
    return JobView(
        id=row.id,
        kind=row.kind or JobKind.MEASURE,  # the options of older jobs do not say
        name=row.name,
        labels=row.labels,
        state=row.state,
        reason=row.reason,
        priority=PRIORITIES[row.priority],
        protocol=Protocol.model_validate(row.protocol),
        timing=row.timing or Timing.ALONE,
        platforms=row.platform_keys,
        progress=progress.progress_of(row),
        device_s_spent=row.device_s_spent,
        created_at=row.created_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
    )
