"""Jobs: submit, look, wait, cancel, retry, and read what came of them."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import Field

from benchfarm_api.access import CallerDep
from benchfarm_api.csv_export import PAGE_ROWS, csv_response, wants_csv
from benchfarm_api.parts import Parts, PartsDep
from benchfarm_api.problems import conflict, csv_too, not_found, quota
from benchfarm_api.routes import ExportQuery, PageQuery, new_router
from benchfarm_api.waiting import wait_for
from benchfarm_core.csv_rows import ITEM_COLUMNS
from benchfarm_core.jobs import (
    JOB_TRANSITIONS,
    DryRun,
    ItemState,
    ItemView,
    JobRequest,
    JobState,
    JobView,
    Page,
    WhyView,
)
from benchfarm_core.messages import job_channel
from benchfarm_core.protocols import refuse_longer
from benchfarm_core.values import digest
from benchfarm_store import jobs, specs
from benchfarm_store.tokens import Caller

router = new_router("jobs")

FEW: Final = 200
"""Workloads that are named sooner than anybody is asked whether they must be."""

JobId = Annotated[UUID, Path()]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class JobsQuery(PageQuery):
    """Every given field must match."""

    state: JobState | None = None
    label: str | None = Field(default=None, min_length=1, max_length=161, description="`key` or `key=value`")


class ItemsQuery(PageQuery):
    """The items of one state, or all."""

    state: ItemState | None = None


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses=not_found()
    | conflict()
    | quota()
    | {200: {"model": JobView | DryRun, "description": "The job of an earlier call with this key, or a dry run"}},
)
def submit_job(
    job: JobRequest,
    caller: CallerDep,
    parts: PartsDep,
    response: Response,
    dry_run: bool = False,
    idempotency_key: IdempotencyKey = None,
) -> JobView | Response:
    """Submit a job. With an Idempotency-Key the same body gives the same job, another body is a conflict.

    With `dry_run=true` nothing is stored: the answer says what is known, what would be measured, and how long.
    """
    refuse_longer(job.protocol, parts.settings.benchfarm_longest_measurement_s)
    if dry_run:
        ahead = specs.resolve_ahead(job)
        with parts.database.transaction(read_only=True) as tx:
            plan = jobs.dry_run(tx, job, caller, ahead=ahead)
        return Response(plan.model_dump_json(), media_type="application/json")
    # twenty thousand workloads are named and looked at while no other job waits for a lock
    key, sha256, found = idempotency_key, "", None
    if key is None or len(job.workloads) <= FEW or not _is_used(parts, key, caller):
        found = specs.resolve_ahead(job)
    if key is not None:
        sha256 = digest(job, length=64)
    with parts.database.transaction() as tx:
        view, created = jobs.submit(tx, job, by=caller, idempotency_key=key, request_sha256=sha256, ahead=found)
    return _made(view, created, response)


def _is_used(parts: Parts, key: str, caller: Caller) -> bool:
    with parts.database.transaction(read_only=True) as tx:
        return jobs.is_used(tx, key, caller)


def _made(view: JobView, created: bool, response: Response) -> JobView:
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/jobs/{view.id}"
    return view


@router.get("/jobs")
def list_jobs(
    caller: CallerDep,
    parts: PartsDep,
    query: Annotated[JobsQuery, Query()],
) -> Page[JobView]:
    """The account's jobs, newest first."""
    with parts.database.transaction(read_only=True) as tx:
        return jobs.list_jobs(tx, caller, **dict(query))


@router.get("/jobs/{job_id}", responses=not_found())
async def get_job(
    request: Request,
    job_id: JobId,
    caller: CallerDep,
    parts: PartsDep,
    wait_s: Annotated[float, Query(ge=0, le=55, description="wait this long for a change")] = 0,
) -> JobView:
    """One job as it stands, or with `wait_s` as soon as it has changed; a job that has ended is never waited for."""

    def look() -> JobView:
        with parts.database.transaction(read_only=True) as tx:
            return jobs.get_job(tx, str(job_id), caller)

    first = await run_in_threadpool(look)

    def is_news(job: JobView) -> bool:
        return has_ended(job) or job != first

    if wait_s == 0 or has_ended(first):
        return first
    longest_s = min(wait_s, parts.settings.benchfarm_longest_wait_s)
    return await wait_for(request, parts, job_channel(str(job_id)), look, is_news, longest_s)


@router.post("/jobs/{job_id}/cancel", responses=not_found() | conflict())
def cancel_job(job_id: JobId, caller: CallerDep, parts: PartsDep) -> JobView:
    """Cancel what has not ended. Measurements that other jobs want too go on."""
    with parts.database.transaction() as tx:
        return jobs.cancel(tx, str(job_id), caller)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=201,
    responses=not_found()
    | conflict()
    | quota()
    | {200: {"model": JobView, "description": "The job of an earlier call with this key"}},
)
def retry_job(
    job_id: JobId, caller: CallerDep, parts: PartsDep, response: Response, idempotency_key: IdempotencyKey = None
) -> JobView:
    """A new job of the failed part of one that has ended. With an Idempotency-Key it is made once."""
    with parts.database.transaction() as tx:
        view, created = jobs.retry(tx, str(job_id), caller, idempotency_key=idempotency_key)
    return _made(view, created, response)


@router.get("/jobs/{job_id}/why", responses=not_found())
def explain_job(job_id: JobId, caller: CallerDep, parts: PartsDep) -> WhyView:
    """Why the job is not further: per platform, what stands in the way."""
    with parts.database.transaction(read_only=True) as tx:
        return jobs.explain(tx, str(job_id), caller, retry_s=parts.settings.benchfarm_retry_s)


@router.get("/jobs/{job_id}/items", responses=not_found())
def list_job_items(
    job_id: JobId,
    caller: CallerDep,
    parts: PartsDep,
    query: Annotated[ItemsQuery, Query()],
) -> Page[ItemView]:
    """The job's items in order, all or those of one state."""
    with parts.database.transaction(read_only=True) as tx:
        return jobs.items(tx, str(job_id), caller, **dict(query))


@router.get("/jobs/{job_id}/results", response_model=Page[ItemView], responses=not_found() | csv_too())
def get_job_results(
    request: Request,
    job_id: JobId,
    caller: CallerDep,
    parts: PartsDep,
    query: Annotated[ExportQuery, Query()],
) -> Page[ItemView] | StreamingResponse:
    """Every item with its result, or the reason why it has none. As CSV: all of them, not a page."""

    def page(after: str | None, rows: int = PAGE_ROWS) -> Page[ItemView]:
        with parts.database.transaction(read_only=True) as tx:
            return jobs.items(tx, str(job_id), caller, state=None, cursor=after, limit=rows)

    if wants_csv(request, query.format):
        return csv_response(ITEM_COLUMNS, page, f"job-{job_id}")
    return page(query.cursor, query.limit)


def has_ended(job: JobView) -> bool:
    """Whether a job's state is final."""
    return not JOB_TRANSITIONS[job.state]
