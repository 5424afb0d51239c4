"""Planning: a job's items become links to measurements, a thousand in one transaction.

Item k of a job is workload k // (P * R), platform k // R % P, repeat k % R; a chunk never splits the
repeats of one workload and platform. Measurements are held before the job's row (see `progress`), so the
cursor is looked at again under the job's lock: of two planners at once one writes, the other goes away.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, select, text

from benchfarm_core.boards import is_single_use
from benchfarm_core.errors import NotFound, Unavailable
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import PLAN_CHUNK, ItemSource, ItemState, JobState
from benchfarm_core.matching import is_too_large, why_too_large
from benchfarm_core.measurements import MeasurementState
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.planning import Decision, decide, expected_s
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import Protocol
from benchfarm_core.summaries import Grade
from benchfarm_store import formats, measurements, memory, progress, specs
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import clock_level, job_column, rows_json
from benchfarm_store.tables import jobs, protocols
from benchfarm_store.timings import by_difference, timing_of

PLANNABLE: Final = (JobState.QUEUED, JobState.PLANNING)
TRIES: Final = 5
WOKEN_MIN: Final = 50
"""Idle boards that are woken for however little work: the first ones may not be able to take it now."""
WOKEN_MAX: Final = PLAN_CHUNK
"""Idle boards that are woken at once, at the most: each is a message and a task. The sweep wakes the others."""


class _Moved(Exception):
    """A measurement was cancelled, or made by another planner, or one of single use was measured, meanwhile: decide
    anew."""


class _Passed(Exception):
    """Another planner wrote this chunk, or the job ended: nothing of it is ours."""


class _Group(NamedTuple):
    """The items of one workload on one platform."""

    workload_id: int
    platform_id: int
    item_nos: list[int]


class _Link(NamedTuple):
    """One item with what was decided for it."""

    item_no: int
    group: _Group
    decision: Decision
    expected_s: float
    needed_bytes: int | None


def plan_chunk(tx: Transaction, job_id: str) -> bool:
    """Plan up to 1,000 items more; True when items are left. Safe to run twice and at once. Raises NotFound.

    False also for the second of two planners at once: the first one goes on.
    """
    column = job_column(job_id)
    for _ in range(TRIES):
        job = tx.execute(_JOB.where(jobs.c.id == column)).one_or_none()
        if job is None:
            raise NotFound("there is no such job")
        if JobState(job.state) not in PLANNABLE:
            return False
        try:
            with tx.savepoint():
                return _plan(tx, job)
        except _Passed:
            return False
        except _Moved:
            continue
    raise Unavailable("the job's measurements keep changing; planning goes on shortly")


_JOB = select(jobs, protocols.c.spec.label("protocol")).join(protocols, protocols.c.id == jobs.c.protocol_id)


def _plan(tx: Transaction, job: Row[Any]) -> bool:
    groups = _next_groups(job)
    links = _decide(tx, job, groups)
    rows = _impossible(tx, job, links)
    possible = [link for link in links if link.item_no not in rows]
    rows |= _link(tx, job, possible)
    if not _still_ours(tx, job):
        raise _Passed
    return _write(tx, job, rows)


def _next_groups(job: Row[Any]) -> list[_Group]:
    """The whole groups of the next chunk."""
    repeats, width = job.options["repeats"], len(job.platform_ids)
    numbers: Sequence[int] = range(job.total) if job.item_nos is None else job.item_nos
    stop = min(job.plan_cursor + PLAN_CHUNK, len(numbers))
    while stop < len(numbers) and numbers[stop] // repeats == numbers[stop - 1] // repeats:
        stop += 1
    chunk = numbers[job.plan_cursor : stop]
    return [
        _Group(job.workload_ids[pair // width], job.platform_ids[pair % width], list(item_nos))
        for pair, item_nos in groupby(chunk, key=lambda number: number // repeats)
    ]


def _decide(tx: Transaction, job: Row[Any], groups: Sequence[_Group]) -> list[_Link]:
    timing = timing_of(job.options)
    known = measurements.find_known(tx, [(g.workload_id, g.platform_id) for g in groups], job.protocol_id, timing)
    costs = {row.id: row for row in tx.execute(_COSTS, {"ids": [g.workload_id for g in groups]})}
    protocol = Protocol.model_validate(job.protocol)
    wish = {
        "max_age_s": job.options["max_age_s"],
        "min_grade": Grade(job.options["min_grade"]),
        "clock_proof": ClockProof(job.options["clock_proof"]),
        "now": tx.now,
    }
    doubled = by_difference(tx, timing, [g.platform_id for g in groups])
    links: list[_Link] = []
    for index, group in enumerate(groups):
        rows = known.get(index, [])
        # a retry wants some repeats of a group only: those that are not answered by what is known come last
        decisions = decide([measurements.known_of(row) for row in rows], repeats=job.options["repeats"], **wish)
        medians = [row.median_ms for row in rows if row.median_ms is not None]
        row = costs[group.workload_id]
        cost = specs.cost_of(row)
        needed = specs.needed_bytes(cost, row.size_bytes)
        by = group.platform_id in doubled
        seconds = expected_s(protocol, cost, medians[-1] if medians else None, timing, by_difference=by)
        wanted = decisions[-len(group.item_nos) :]
        links += [_Link(no, group, d, seconds, needed) for no, d in zip(group.item_nos, wanted, strict=True)]
    return links


_COSTS = text("""
    SELECT w.id, w.flops, w.parameters, w.input_bytes, w.output_bytes, w.weight_bytes,
        CASE w.kind WHEN 'upload' THEN (SELECT max(m.size_bytes) FROM models m WHERE m.workload_id = w.id)
            WHEN 'pair' THEN (
                SELECT sum((SELECT max(m.size_bytes) FROM models m WHERE m.workload_id = side.id))::bigint
                FROM pairs x, unnest(ARRAY[x.a_id, x.b_id]) AS side(id) WHERE x.workload_id = w.id)
        END AS size_bytes
    FROM workloads w WHERE w.id = ANY(CAST(:ids AS bigint[]))
""")


def _impossible(tx: Transaction, job: Row[Any], links: Sequence[_Link]) -> dict[int, dict[str, Any]]:
    """Rows of items that no board of their platform can measure as asked."""
    return _unprovable(tx, job, links) | _too_large(tx, job, links) | _unopened(tx, job, links)


def _unopened(tx: Transaction, job: Row[Any], links: Sequence[_Link]) -> dict[int, dict[str, Any]]:
    pairs = {link.item_no: (link.group.workload_id, link.group.platform_id) for link in links}
    whys = formats.find_unopened(tx, pairs.values(), job.platform_ids)
    return {
        item_no: _row(item_no, ItemState.FAILED, None, None, FailureCode.CONVERSION_FAILED, whys[pair])
        for item_no, pair in pairs.items()
        if pair in whys
    }


def _too_large(tx: Transaction, job: Row[Any], links: Sequence[_Link]) -> dict[int, dict[str, Any]]:
    memory_bytes = memory.of_largest_boards(tx, job.platform_ids)
    largest = {link.item_no: memory_bytes.get(link.group.platform_id) for link in links}
    return {
        link.item_no: _row(
            link.item_no,
            ItemState.FAILED,
            None,
            None,
            FailureCode.MODEL_TOO_LARGE_FOR_BOARD,
            why_too_large(link.needed_bytes or 0, largest[link.item_no] or 0),
        )
        for link in links
        if link.decision.source != ItemSource.KNOWN and is_too_large(link.needed_bytes, largest[link.item_no])
    }


def _unprovable(tx: Transaction, job: Row[Any], links: Sequence[_Link]) -> dict[int, dict[str, Any]]:
    need = ClockProof(job.options["clock_proof"])
    if need == ClockProof.UNPINNED:
        return {}
    best = {row.platform_id: row.best for row in tx.execute(_BEST_PROOF, {"ids": job.platform_ids})}
    reason = f"no board of this platform can prove its clock as {need}"
    return {
        link.item_no: _row(link.item_no, ItemState.FAILED, None, None, FailureCode.CLOCK_PROOF_UNAVAILABLE, reason)
        for link in links
        if link.decision.source != ItemSource.KNOWN
        and best.get(link.group.platform_id, clock_level(need)) < clock_level(need)
    }


# where nothing is pinned, nothing is proven
_BEST_PROOF = text("""
    SELECT o.platform_id,
        max(CASE p.spec#>>'{operating_point,mode}' WHEN 'pinned' THEN b.clock_proof ELSE 0 END) AS best
    FROM board_platforms o JOIN boards b ON b.id = o.board_id JOIN platforms p ON p.id = o.platform_id
    WHERE o.platform_id = ANY(CAST(:ids AS int[])) AND b.health <> 'retired' GROUP BY o.platform_id
""")


def _row(
    item_no: int,
    state: ItemState,
    source: ItemSource | None,
    measurement_id: int | None,
    failure: str | None = None,
    reason: str = "",
) -> dict[str, Any]:
    return {
        "item_no": item_no,
        "state": state,
        "source": source,
        "measurement_id": measurement_id,
        "failure": failure,
        "reason": reason,
    }


def _link(tx: Transaction, job: Row[Any], links: Sequence[_Link]) -> dict[int, dict[str, Any]]:
    """Make or join the measurements of items; the joined ones are held from here on.

    All queues come first: whoever waits for another planner's queue must not hold a measurement meanwhile.
    """
    wanted = [link for link in links if link.decision.source == ItemSource.NEW]
    joined = [link.decision.measurement_id for link in links if link.decision.source == ItemSource.JOINED]
    ids = [id_ for id_ in joined if id_ is not None]
    own = {link.group.platform_id: _queue_key(job, link.group.platform_id) for link in wanted}
    raised = measurements.raised_queues(tx, ids, priority=job.priority)
    queues = measurements.ensure_queues(tx, [*own.values(), *raised])
    need = clock_level(ClockProof(job.options["clock_proof"]))
    made = _make(tx, job, wanted, {platform: queues[key] for platform, key in own.items()}, need)
    held = measurements.lock_joined(tx, ids, queues, priority=job.priority, clock_need=need)
    return {link.item_no: _item(link, made, held) for link in links}


def _queue_key(job: Row[Any], platform_id: int) -> measurements.QueueKey:
    return platform_id, job.protocol_id, job.account_id, job.priority


def _key(link: _Link) -> tuple[int, int, int]:
    return link.group.workload_id, link.group.platform_id, link.decision.repeat_no


def _make(
    tx: Transaction, job: Row[Any], links: Sequence[_Link], queues: dict[int, int], need: int
) -> dict[tuple[int, int, int], int]:
    """The new measurements of links; `queues` by platform. Raises _Moved when another planner made one just now."""
    if not links:
        return {}
    rows = [
        {
            "w": link.group.workload_id,
            "p": link.group.platform_id,
            "r": link.decision.repeat_no,
            "q": queues[link.group.platform_id],
            "s": link.expected_s,
        }
        for link in links
    ]
    made = measurements.add_wanted(
        tx, rows, protocol_id=job.protocol_id, timing=timing_of(job.options), clock_need=need
    )
    if len(made) < len(rows):
        raise _Moved
    return made


def _item(link: _Link, made: dict[tuple[int, int, int], int], held: dict[int, Row[Any]]) -> dict[str, Any]:
    decision = link.decision
    if decision.source == ItemSource.KNOWN:
        return _row(link.item_no, ItemState.SUCCEEDED, ItemSource.KNOWN, decision.measurement_id)
    if (new := made.get(_key(link))) is not None:
        return _row(link.item_no, ItemState.PENDING, ItemSource.NEW, new)
    id_ = decision.measurement_id
    assert id_ is not None  # what is joined has its row
    row = held[id_]
    if row.state == MeasurementState.CANCELLED or (row.state == MeasurementState.DONE and is_single_use(row.platform)):
        raise _Moved
    state = {"done": ItemState.SUCCEEDED, "failed": ItemState.FAILED}.get(row.state, ItemState.PENDING)
    return _row(link.item_no, state, ItemSource.JOINED, id_, row.failure, row.detail or "")


def _still_ours(tx: Transaction, job: Row[Any]) -> bool:
    """Take the job's row; whether nobody planned or ended it since it was read."""
    statement = select(jobs.c.state, jobs.c.plan_cursor).where(jobs.c.id == job.id)
    row = tx.execute(statement.with_for_update(key_share=True)).one()
    return JobState(row.state) in PLANNABLE and bool(row.plan_cursor == job.plan_cursor)


def _write(tx: Transaction, job: Row[Any], rows: dict[int, dict[str, Any]]) -> bool:
    items = list(rows.values())
    tx.execute(_ADD_ITEMS, {"job": job.id, "rows": rows_json(items)})
    states = [row["state"] for row in items]
    tx.execute(
        _COUNT_PLANNED,
        {
            "id": job.id,
            "count": len(items),
            "pending": states.count(ItemState.PENDING),
            "succeeded": states.count(ItemState.SUCCEEDED),
            "failed": states.count(ItemState.FAILED),
            "known": sum(row["source"] == ItemSource.KNOWN for row in items),
            "now": tx.now,
        },
    )
    left = bool(job.plan_cursor + len(items) < job.total)
    _advance(tx, job, items, left)
    return left


_ADD_ITEMS = text("""
    INSERT INTO job_items (job_id, item_no, measurement_id, state, source, failure, reason)
    SELECT CAST(:job AS uuid), item_no, measurement_id, state, source, failure, reason
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(item_no int, measurement_id bigint, state text, source text,
        failure text, reason text)
""")
_COUNT_PLANNED = text("""
    UPDATE jobs SET plan_cursor = plan_cursor + :count, planned = planned - :count, pending = pending + :pending,
        succeeded = succeeded + :succeeded, failed = failed + :failed, known = known + :known, progressed_at = :now
    WHERE id = CAST(:id AS uuid)
""")


class _Failed(NamedTuple):
    item_no: int
    failure: str
    reason: str


def _advance(tx: Transaction, job: Row[Any], items: Sequence[dict[str, Any]], left: bool) -> None:
    state = JobState(job.state)
    if state == JobState.QUEUED:
        progress.change_state(tx, job.id, state, JobState.PLANNING, "")
        state = JobState.PLANNING
    failed = [_Failed(r["item_no"], r["failure"], r["reason"]) for r in items if r["state"] == ItemState.FAILED]
    progress.tell_failures(tx, job.id, failed)
    if not left:
        pending = tx.execute(select(jobs.c.pending).where(jobs.c.id == job.id)).scalar_one()
        if pending:
            progress.change_state(tx, job.id, state, JobState.RUNNING, "")
    progress.settle(tx, job.id)
    if waiting := sum(row["state"] == ItemState.PENDING for row in items):
        wake_boards(tx, job.platform_ids, waiting)


def wake_boards(tx: Transaction, platform_ids: Sequence[int], waiting: int) -> None:
    """Ask for a dispatch of all idle boards that offer some platforms, where so many measurements wait that each could
    have one; by chance, among equals none is always first.
    """
    limit = min(max(waiting, WOKEN_MIN), WOKEN_MAX)
    for board in tx.execute(_IDLE_BOARDS, {"ids": list(platform_ids), "limit": limit}).scalars():
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board,)))


_IDLE_BOARDS = text("""
    SELECT b.public_id FROM boards b WHERE b.state = 'idle' AND b.health IN ('good', 'suspect') AND EXISTS (
        SELECT FROM board_platforms o WHERE o.board_id = b.id AND o.platform_id = ANY(CAST(:ids AS int[])))
    ORDER BY random() LIMIT :limit
""")
