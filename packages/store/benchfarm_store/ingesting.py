"""Ingest: results are taken in once, judged and summarised by a numbered rule."""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.agent_protocol import ResultsAnswer, ResultsRequest
from benchfarm_core.clock_proof import proof
from benchfarm_core.comparing import Comparison
from benchfarm_core.errors import InvalidRequest, LeaseLost, NotFound
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemState
from benchfarm_core.leases import is_expired
from benchfarm_core.measurements import (
    MAX_NOISY,
    MOMENTARY_CODES,
    LaunchSamples,
    MeasurementState,
    Timing,
)
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.protocols import PROFILE, Protocol, is_comparison
from benchfarm_core.result_checks import check_result
from benchfarm_core.summaries import Summary
from benchfarm_core.support import OK, largest_relative_l2, visit_s
from benchfarm_store import (
    agents,
    boards,
    clock_evidence,
    comparisons,
    endings,
    kept_tries,
    leases,
    orphans,
    progress,
    support,
)
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import lease_column, precisions_text, rows_json
from benchfarm_store.judging import Bad, Good, Held, Lease, judge
from benchfarm_store.kept_tries import Answered
from benchfarm_store.measurements import OF_LEASE
from benchfarm_store.pairs import IS_UPLOAD
from benchfarm_store.summaries import summary_columns
from benchfarm_store.tables import summaries
from benchfarm_store.timings import way_of

MAX_FAILED_PINS: Final = 2
"""A board whose pin failed on so many leases of one generation is suspect."""

UNTOLD: Final = frozenset({FailureCode.CARRIER_FAILED, FailureCode.FUSED_AWAY, FailureCode.BELOW_CLOCK})
"""Failures in situ that say nothing of whether an engine can do a family."""


def ingest(
    tx: Transaction, agent_id: str, token: str, request: ResultsRequest, *, noisy_max: int = MAX_NOISY
) -> ResultsAnswer:
    """Take in one chunk of a lease's results. The same chunk again changes nothing. `noisy_max`: how often a
    measurement may be made again for noise; 0 where it cannot.

    What comes after the lease ended is kept for a while as an orphan and never an answer. Raises InvalidRequest
    (`result_invalid`) for impossible numbers, duplicates in the chunk and measurements outside the lease.
    """
    check(request)
    board: Row[Any] | None = None
    held: Held | None = None
    with suppress(LeaseLost):
        board = leases.hold_board(tx, agent_id, token) if _may_fail_pins(request) else None
        held = hold(tx, agent_id, token)
    if held is None or held.row.accepted_at is None:
        agents.heard(tx, agent_id)
        return orphans.too_late(tx, agent_id, token, request)
    taken = take_in(tx, held, board, request, noisy_max=noisy_max)
    support.count(tx, held.platform, taken.attempts)
    return taken.answer


class Taken(NamedTuple):
    """What became of a chunk of results, and what `support.count` is to learn of it in the end.

    outcomes: of all measurements of the lease that came to one, those of earlier chunks first. resting: of measurements
    of this chunk that rest now, how many tries each has had.
    """

    answer: ResultsAnswer
    attempts: list[support.Attempt]
    outcomes: list[str]
    resting: list[int]


def take_in(
    tx: Transaction,
    held: Held,
    board: Row[Any] | None,
    request: ResultsRequest,
    *,
    ends: bool = False,
    noisy_max: int = MAX_NOISY,
) -> Taken:
    """Take in one chunk of results of an accepted lease.

    board: its row, where it is held; a chunk that may say of a failed pin needs it. `ends`: so does the lease, in this
    transaction; all jobs that this changes are held then. Raises as `ingest` does.
    """
    if not agents.was_heard(held.row.last_heard_at, tx.now):
        agents.heard(tx, held.row.agent_id)
    items = held.items
    leases.refuse_strangers((result.measurement_id for result in request.results), items, field="results")
    for result in request.results:
        check_result(result, held.protocol, way_of(items[result.measurement_id].timing, held.platform))
    lease = Lease(held, clock_evidence.keep(tx, held.row.id, request.launches))
    fresh = [r for r in request.results if items[r.measurement_id].outcome is None]
    live = [r for r in fresh if items[r.measurement_id].is_leased]
    orphaned = [r for r in fresh if not items[r.measurement_id].is_leased]
    orphans.keep(tx, held.row.agent_id, held.row.token, orphaned)
    good, bad = judge(tx, lease, live, noisy_max)
    answered = _write(tx, lease, good, bad, ends=ends)
    if board is not None and _may_fail_pins(request) and _pins_failed(tx, board) >= MAX_FAILED_PINS:
        boards.suspect(tx, board, f"pin_not_verified on {MAX_FAILED_PINS} leases of this generation")
    answer = ResultsAnswer(
        accepted=[r.measurement_id for r in live],
        repeated=[r.measurement_id for r in request.results if items[r.measurement_id].outcome is not None],
        orphaned=[r.measurement_id for r in orphaned],
    )
    # the matrix is of workloads by themselves: of a pair nobody knows which side an attempt speaks of
    attempts = [] if is_comparison(lease.protocol) else _attempts(held, good, bad, answered)
    outcomes = [item.outcome for item in items.values() if item.outcome is not None]  # of earlier chunks
    outcomes += [one.code for one in bad] + ["ok"] * len(good)
    again = [one.verdict for one in bad if one.code in MOMENTARY_CODES and one.verdict.state == MeasurementState.WANTED]
    return Taken(answer, attempts, outcomes, [one.tries.inconclusive + one.tries.noisy for one in again])


def hold(tx: Transaction, agent_id: str, token: str) -> Held:
    """The live lease of a token with all its measurements, held to the end of the transaction. Raises LeaseLost."""
    try:
        column = lease_column(token)
    except NotFound as error:
        raise LeaseLost("there is no such lease") from error
    row = tx.execute_prepared(_HOLD, column, agent_id).one_or_none()
    if row is None or is_expired(row.expires_at, tx.now):
        raise LeaseLost("the lease ended, has expired or belongs to somebody else")
    items = {item.id: item for item in tx.execute_prepared(_ITEMS, row.id)}
    return Held(row, _platform(row.platform), _protocol(row.protocol), items)


@lru_cache(maxsize=1000)
def _platform(spec: str) -> Platform:
    return Platform.model_validate(json.loads(spec))


@lru_cache(maxsize=1000)
def _protocol(spec: str) -> Protocol:
    return Protocol.model_validate(json.loads(spec))


_HOLD = Prepared(
    "results_lease",
    "uuid, text",
    """
    SELECT l.id, l.token::text AS token, l.board_id, l.agent_id, l.generation_id, l.queue_id, l.accepted_at,
        l.expires_at, q.platform_id, p.spec::text AS platform, t.spec::text AS protocol, a.last_heard_at,
        l.sgemm_ns IS NOT NULL AND l.fastest_ns IS NULL AS is_by_share
    FROM leases l JOIN queues q ON q.id = l.queue_id JOIN platforms p ON p.id = q.platform_id
        JOIN protocols t ON t.id = q.protocol_id JOIN agents a ON a.id = l.agent_id
    WHERE l.token = $1 AND l.agent_id = $2 AND l.ended_at IS NULL
    FOR NO KEY UPDATE OF l
    """,
)
# all of them in id order, also those that this chunk does not name: a later statement may need them
_ITEMS = Prepared(
    "results_items",
    "bigint",
    f"""
    SELECT m.id, i.outcome, m.state = 'leased' AND m.lease_id = i.lease_id AS is_leased, m.attempts, m.losses,
        m.inconclusive, m.noisy, m.clock_need, m.timing, w.family, {IS_UPLOAD} AS uploaded
    FROM lease_items i JOIN measurements m ON m.id = i.measurement_id JOIN workloads w ON w.id = m.workload_id
    WHERE i.lease_id = $1 AND m.id = ANY({OF_LEASE}) ORDER BY m.id FOR NO KEY UPDATE OF m
    """,
)


def _attempts(
    held: Held, good: Sequence[Good], bad: Sequence[Bad], answered: Sequence[Answered]
) -> list[support.Attempt]:
    """What the support matrix learns: errors of the gate also where the numbers did not count.

    Nothing of a carrier that failed: nobody knows which of its kernels it was. Nor of what an engine computed within
    another operator: that is no failure of the family. A kept try that answers is told anew, as the answer it is.
    """
    results = [one.result for one in good]
    oks = [Answered(one.measurement_id, one.effective_precision, one.launches) for one in results]
    attempts = [_ok(held, one) for one in [*oks, *answered]]
    for one in bad:
        if one.code not in UNTOLD:
            result, is_ok = one.result, one.result.outcome == "ok"
            found = _attempt(held, result.measurement_id, result.launches, one.code, is_ok=is_ok)
            attempts.append(found._replace(subject=result.subject))
    return attempts


def _ok(held: Held, one: Answered) -> support.Attempt:
    found = _attempt(held, one.measurement_id, one.launches, OK, is_ok=True)
    return found._replace(effective_precision=one.effective_precision or "")


def _attempt(
    held: Held, measurement_id: int, launches: Sequence[LaunchSamples], code: str, *, is_ok: bool
) -> support.Attempt:
    """`is_ok`: it has numbers, which may not have counted."""
    item = held.items[measurement_id]
    timing = Timing(item.timing)
    # by difference a kernel needs no profiler, but where it fails nobody knows whether its neighbours did
    told = way_of(timing, held.platform) == "difference" and is_ok
    return support.Attempt(
        measurement_id=measurement_id,
        code=code,
        family=item.family,
        needs_profiler=(timing == Timing.IN_SITU and not told) or held.protocol.name == PROFILE,
        # in situ the gate looked at a whole carrier, whose error is not the family's
        relative_l2=None if timing == Timing.IN_SITU else largest_relative_l2(launches),
        seconds=visit_s(launches),
    )


def check(request: ResultsRequest) -> None:
    """Raise InvalidRequest (`result_invalid`) for a measurement that appears twice."""
    ids = [result.measurement_id for result in request.results]
    if len(set(ids)) != len(ids):
        raise InvalidRequest("a measurement appears twice in one chunk", code="result_invalid", field="results")


def _may_fail_pins(request: ResultsRequest) -> bool:
    """Whether the board's pin failed, or a launch does not prove it, which fails who asks for a proof."""
    unproven = (
        one.clock is not None and one.clock.asked_khz and proof(one.clock) == ClockProof.UNPINNED
        for one in request.launches
    )
    return any(unproven) or any(result.failure == FailureCode.PIN_NOT_VERIFIED for result in request.results)


def _pins_failed(tx: Transaction, board: Row[Any]) -> int:
    """Leases of the board's present generation whose pin failed, since its health was last judged."""
    return int(tx.execute(_PINS_FAILED, {"board": board.id, "generation": board.generation_id}).scalar_one())


_PINS_FAILED = text("""
    SELECT count(*) FROM leases l WHERE l.board_id = :board AND l.generation_id = :generation
        AND l.offered_at > coalesce((SELECT max(at) FROM health_changes WHERE board_id = :board), '-infinity')
        AND EXISTS (SELECT FROM lease_items i WHERE i.lease_id = l.id AND i.outcome = 'pin_not_verified')
""")


def _write(tx: Transaction, lease: Lease, good: Sequence[Good], bad: Sequence[Bad], *, ends: bool) -> list[Answered]:
    """Write what was judged; the kept tries that became answers."""
    _finish_items(tx, lease.row.id, good, bad)
    if good:
        _write_good(tx, lease, good)
    failed = [one for one in bad if one.verdict.state == MeasurementState.FAILED]
    jobs = [_finished(one) for one in failed]
    jobs += [progress.Finished(measurement_id=g.result.measurement_id, state=ItemState.SUCCEEDED) for g in good]
    answered = [one.result.measurement_id for one in bad if one.verdict.state == MeasurementState.DONE]
    jobs += [progress.Finished(measurement_id=id_, state=ItemState.SUCCEEDED) for id_ in answered]
    told = kept_tries.answer(tx, answered)
    waiting = [one for one in bad if one.verdict.state == MeasurementState.WANTED]
    kept_tries.keep(tx, lease.row.id, [one.kept for one in waiting if one.kept is not None])
    _write_bad(tx, lease, bad)
    if ends:  # no earlier: every lease of a job waits for its row
        progress.lock_jobs_of(tx, list(lease.held.items))
    progress.advance(tx, jobs, are_jobs_held=ends)
    return told


def _finish_items(tx: Transaction, lease_id: int, good: Sequence[Good], bad: Sequence[Bad]) -> None:
    rows = [{"id": one.result.measurement_id, "outcome": "ok", "detail": None} for one in good]
    rows += [{"id": one.result.measurement_id, "outcome": one.code, "detail": one.result.detail or None} for one in bad]
    if rows:
        tx.execute_prepared(_FINISH_ITEMS, lease_id, rows_json(rows), tx.now)


_FINISH_ITEMS = Prepared(
    "results_finish_items",
    "bigint, jsonb, timestamptz",
    """
    UPDATE lease_items i SET outcome = x.outcome, detail = x.detail, finished_at = $3,
        started_at = coalesce(i.started_at, $3)
    FROM jsonb_to_recordset($2) AS x(id bigint, outcome text, detail text) WHERE lease_id = $1 AND measurement_id = x.id
    """,
)


def _write_good(tx: Transaction, lease: Lease, good: Sequence[Good]) -> None:
    ids = [one.result.measurement_id for one in good]
    rows = rows_json([_result_row(one) for one in good])
    of_lease = (lease.row.id, tx.now, lease.row.platform_id, lease.row.generation_id)
    tx.execute_prepared(_WRITE_GOOD, rows, *of_lease, ids, [one.packed for one in good])
    answers = {
        id_: (one.answer, one.clock_proof)
        for id_, one in zip(ids, good, strict=True)
        if isinstance(one.answer, Comparison)
    }
    comparisons.write(tx, answers)


def _result_row(one: Good) -> dict[str, Any]:
    """A result, with its summary where there is one."""
    id_ = one.result.measurement_id
    summary = summary_columns(id_, one.answer) if isinstance(one.answer, Summary) else {}
    precision = precisions_text(one.result.effective_precision, one.result.b_effective_precision)
    return {"measurement_id": id_, "artifact": one.result.artifact_sha256, "effective_precision": precision, **summary}


_SUMMARY: Final = ", ".join(summaries.c.keys())
# one statement for all of a lease: a round trip for each table costs as much as its rows
_WRITE_GOOD = Prepared(
    "results_write",
    "jsonb, bigint, timestamptz, int, int, bigint[], bytea[]",
    f"""
    WITH good AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset($1) AS x(measurement_id bigint, artifact text, effective_precision text)),
    written AS (
        INSERT INTO results (
            measurement_id, lease_id, measured_at, platform_id, generation_id, artifact_sha256, effective_precision)
        SELECT measurement_id, $2, $3, $4, $5, decode(artifact, 'hex'), effective_precision FROM good),
    packed AS (
        INSERT INTO samples (measurement_id, data)
        SELECT id, data FROM unnest($6, $7) AS x(id, data)),
    summarised AS (
        INSERT INTO summaries ({_SUMMARY})
        SELECT {_SUMMARY} FROM jsonb_populate_recordset(NULL::summaries, $1) WHERE median_ms IS NOT NULL)
    UPDATE measurements m SET state = 'done', failure = NULL, detail = NULL FROM good
    WHERE m.id = good.measurement_id AND m.state = 'leased'
    """,
)


def _write_bad(tx: Transaction, lease: Lease, bad: Sequence[Bad]) -> None:
    """Attempts that failed: back to wanted, failed for good, or answered by an earlier try; jobs are told by the
    caller."""
    verdicts = {one.result.measurement_id: one.verdict.model_copy(update={"reason": _reason(one)}) for one in bad}
    endings.write_verdicts(tx, {id_: (verdict, lease.row.board_id) for id_, verdict in verdicts.items()})


def _finished(one: Bad) -> progress.Finished:
    return progress.Finished(
        measurement_id=one.result.measurement_id,
        state=ItemState.FAILED,
        failure=one.verdict.failure,
        reason=_reason(one),
    )


def _reason(one: Bad) -> str:
    parts = [part for part in (one.verdict.reason, one.result.detail) if part]
    return "; ".join(parts)[:300]
