"""Ingest: results are taken in once, judged and summarised by a numbered rule."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import zstandard
from sqlalchemy import Row, insert, text

from benchfarm_core.agent_protocol import LaunchEvidence, ResultsAnswer, ResultsRequest
from benchfarm_core.clock_proof import ClockEvidence, proof, proof_of_launches, unthrottled
from benchfarm_core.comparing import Comparison, compare
from benchfarm_core.errors import InvalidRequest, LeaseLost, NotFound
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemState
from benchfarm_core.measurements import (
    LaunchSamples,
    MeasurementResult,
    MeasurementState,
    Tries,
    Verdict,
    after_failure,
)
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import Protocol, is_comparison
from benchfarm_core.quality import CanaryGolden, accepted_launches, canary_floors, check_result, drifted, summarise
from benchfarm_core.summaries import Summary
from benchfarm_core.support import OK, largest_relative_l2, visit_s
from benchfarm_store import (
    agents,
    boards,
    clock_evidence,
    comparisons,
    endings,
    goldens,
    leases,
    progress,
    sample_codec,
    support,
)
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import clock_level, lease_column, rows_json
from benchfarm_store.pairs import IS_UPLOAD
from benchfarm_store.summaries import summary_columns
from benchfarm_store.tables import results, samples, summaries

MAX_FAILED_PINS: Final = 2
"""A board whose pin failed on so many leases of one generation is suspect."""

UNTOLD: Final = frozenset({FailureCode.CARRIER_FAILED, FailureCode.FUSED_AWAY, FailureCode.BELOW_CLOCK})
"""Failures in situ that say nothing of whether an engine can do a family."""


class _Good(NamedTuple):
    """An accepted result, ready to be written."""

    result: MeasurementResult
    packed: bytes
    answer: Summary | Comparison
    clock_proof: ClockProof


class _Bad(NamedTuple):
    """A failed or inconclusive attempt."""

    result: MeasurementResult
    code: FailureCode
    verdict: Verdict


class _Lease(NamedTuple):
    """What judging a result needs to know of its lease."""

    row: Row[Any]
    platform_id: int
    protocol: Protocol
    clocks: dict[int, ClockEvidence]
    has_uploads: bool


def ingest(tx: Transaction, agent_id: str, token: str, request: ResultsRequest) -> ResultsAnswer:
    """Take in one chunk of a lease's results. The same chunk again changes nothing.

    What comes after the lease ended is kept for a while as an orphan and never an answer. Raises InvalidRequest
    (`result_invalid`) for impossible numbers, duplicates in the chunk and measurements outside the lease.
    """
    _check(request)
    agents.heard(tx, agent_id)
    try:
        board = leases.hold_board(tx, agent_id, token) if _may_fail_pins(request) else None
        row = leases.hold(tx, agent_id, token)
    except LeaseLost:
        return _too_late(tx, agent_id, token, request)
    if row.accepted_at is None:
        return _too_late(tx, agent_id, token, request)
    _keep_evidence(tx, row.id, request.launches)
    lease = _lease_of(tx, row)
    for result in request.results:
        check_result(result, lease.protocol)
    standing = _standing(tx, row.id, request)
    fresh = [r for r in request.results if standing[r.measurement_id].outcome is None]
    held = _hold_measurements(tx, row.id, [r.measurement_id for r in fresh])
    live = [r for r in fresh if r.measurement_id in held]
    orphaned = [r for r in fresh if r.measurement_id not in held]
    _keep_orphans(tx, agent_id, token, orphaned)
    good, bad = _judge(tx, lease, live, held)
    _write(tx, lease, good, bad)
    if board is not None and _pins_failed(tx, board) >= MAX_FAILED_PINS:
        boards.suspect(tx, board, f"pin_not_verified on {MAX_FAILED_PINS} leases of this generation")
    support.count(tx, lease.platform_id, _attempts(good, bad))
    return ResultsAnswer(
        accepted=[r.measurement_id for r in live],
        repeated=[r.measurement_id for r in request.results if standing[r.measurement_id].outcome is not None],
        orphaned=[r.measurement_id for r in orphaned],
    )


def _attempts(good: Sequence[_Good], bad: Sequence[_Bad]) -> list[support.Attempt]:
    """What the support matrix learns: errors of the gate also where the numbers did not count.

    Nothing of a carrier that failed: nobody knows which of its kernels it was. Nor of what an engine computed within
    another operator: that is no failure of the family.
    """
    attempts = [(one.result, OK, "") for one in good]
    attempts += [(b.result, b.code, b.result.subject) for b in bad if b.code not in UNTOLD]
    return [
        support.Attempt(
            measurement_id=result.measurement_id,
            code=code,
            subject=subject,
            relative_l2=largest_relative_l2(result.launches),
            seconds=visit_s(result.launches),
        )
        for result, code, subject in attempts
    ]


def _check(request: ResultsRequest) -> None:
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


def _lease_of(tx: Transaction, row: Row[Any]) -> _Lease:
    facts = tx.execute(_FACTS, {"id": row.id}).one()
    return _Lease(
        row=row,
        platform_id=facts.platform_id,
        protocol=Protocol.model_validate(json.loads(facts.protocol)),
        clocks=clock_evidence.of_lease(tx, row.id),
        has_uploads=facts.has_uploads,
    )


_FACTS = text(f"""
    SELECT q.platform_id, t.spec::text AS protocol, EXISTS (
        SELECT FROM lease_items i JOIN measurements m ON m.id = i.measurement_id
            JOIN workloads w ON w.id = m.workload_id
        WHERE i.lease_id = l.id AND {IS_UPLOAD}) AS has_uploads
    FROM leases l JOIN queues q ON q.id = l.queue_id JOIN protocols t ON t.id = q.protocol_id
    WHERE l.id = :id
""")


def _keep_evidence(tx: Transaction, lease_id: int, evidence: Sequence[LaunchEvidence]) -> None:
    rows = [{"no": e.launch_no, "evidence": e.model_dump(mode="json", exclude={"launch_no"})} for e in evidence]
    if rows:
        tx.execute(_ADD_LAUNCHES, {"lease": lease_id, "rows": rows_json(rows)})


_ADD_LAUNCHES = text("""
    INSERT INTO launches (lease_id, launch_no, evidence)
    SELECT :lease, no, evidence FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(no smallint, evidence jsonb)
    ON CONFLICT DO NOTHING
""")


def _standing(tx: Transaction, lease_id: int, request: ResultsRequest) -> dict[int, Row[Any]]:
    ids = [result.measurement_id for result in request.results]
    rows = {row.measurement_id: row for row in tx.execute(_ITEMS, {"lease": lease_id, "ids": ids})}
    if missing := set(ids) - set(rows):
        raise InvalidRequest(f"measurement {min(missing)} is not of this lease", code="result_invalid", field="results")
    return rows


_ITEMS = text("""
    SELECT measurement_id, outcome FROM lease_items
    WHERE lease_id = :lease AND measurement_id = ANY(CAST(:ids AS bigint[]))
""")


def _hold_measurements(tx: Transaction, lease_id: int, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """The measurements that still wait for this lease, held in id order."""
    return {row.id: row for row in tx.execute(_HOLD, {"lease": lease_id, "ids": list(ids)})}


_HOLD = text("""
    SELECT id, attempts, losses, inconclusive, clock_need FROM measurements
    WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'leased' AND lease_id = :lease
    ORDER BY id FOR NO KEY UPDATE
""")


def _judge(
    tx: Transaction, lease: _Lease, live: Sequence[MeasurementResult], held: dict[int, Row[Any]]
) -> tuple[list[_Good], list[_Bad]]:
    packed = {r.measurement_id: sample_codec.encode(r.launches) for r in live if r.outcome == "ok"}
    # judged as it will be read back, so that deriving the summary again gives the same numbers
    ok = {id_: sample_codec.decode(data) for id_, data in packed.items()}
    # a process that opened a stranger's file says nothing that other results are judged by
    trusted = () if lease.has_uploads else ok.values()
    seen = canary_floors([launch for launches in trusted for launch in unthrottled(launches, lease.clocks)])
    canaries = goldens.find(tx, lease.row.generation_id, lease.platform_id, seen)
    beside = None if lease.has_uploads else goldens.of_lease(tx, lease.row.id, seen)
    good: list[_Good] = []
    bad: list[_Bad] = []
    for result in live:
        row = held[result.measurement_id]
        launches = ok.get(result.measurement_id)
        judged: _Judged | FailureCode | None = result.failure
        if launches is not None:
            judged = _judge_launches(lease, canaries, beside, launches, row.clock_need)
        if isinstance(judged, _Judged):
            good.append(_Good(result, packed[result.measurement_id], *judged))
        else:
            code = judged or FailureCode.RUNNER_GARBAGE
            verdict = after_failure(code, Tries(row.attempts, row.losses, row.inconclusive))
            bad.append(_Bad(result, code, verdict))
    goldens.remember(tx, canaries, seen, lease_id=lease.row.id, keep_reference=bool(good))
    return good, bad


class _Judged(NamedTuple):
    """An answer with how sure the farm is of its clock."""

    answer: Summary | Comparison
    clock_proof: ClockProof


def _judge_launches(
    lease: _Lease,
    canaries: goldens.Canaries,
    beside: CanaryGolden | None,
    launches: Sequence[LaunchSamples],
    clock_need: int,
) -> _Judged | FailureCode:
    """The answer of launches, without the throttled ones; their weakest proof of the clock must reach `clock_need`."""
    kept = accepted_launches(launches, lease.clocks, lease.protocol)
    if isinstance(kept, FailureCode):
        return kept
    clock_proof = proof_of_launches(kept, lease.clocks)
    if clock_level(clock_proof) < clock_need:
        return FailureCode.PIN_NOT_VERIFIED
    found = _answer(lease, canaries, beside, kept, clock_proof)
    return found if isinstance(found, FailureCode) else _Judged(found, clock_proof)


def _answer(
    lease: _Lease,
    canaries: goldens.Canaries,
    beside: CanaryGolden | None,
    launches: Sequence[LaunchSamples],
    clock_proof: ClockProof,
) -> Summary | Comparison | FailureCode:
    if is_comparison(lease.protocol):  # whatever drifts takes both sides along
        return compare(launches, lease.protocol)
    if drifted(canary_floors(launches), canaries.history, clock_proof):
        return FailureCode.CANARY_DRIFT
    return summarise(
        launches,
        protocol=lease.protocol,
        golden=canaries.reference,
        clock_proof=clock_proof,
        beside=beside,
    )


def _write(tx: Transaction, lease: _Lease, good: Sequence[_Good], bad: Sequence[_Bad]) -> None:
    _finish_items(tx, lease.row.id, good, bad)
    if good:
        _write_good(tx, lease, good)
    failed = [one for one in bad if one.verdict.state == MeasurementState.FAILED]
    jobs = [_finished(one) for one in failed]
    jobs += [progress.Finished(measurement_id=g.result.measurement_id, state=ItemState.SUCCEEDED) for g in good]
    _write_bad(tx, lease, bad)
    progress.advance(tx, jobs)


def _finish_items(tx: Transaction, lease_id: int, good: Sequence[_Good], bad: Sequence[_Bad]) -> None:
    rows = [{"id": one.result.measurement_id, "outcome": "ok", "detail": None} for one in good]
    rows += [{"id": one.result.measurement_id, "outcome": one.code, "detail": one.result.detail or None} for one in bad]
    if rows:
        tx.execute(_FINISH_ITEMS, {"lease": lease_id, "rows": rows_json(rows), "now": tx.now})


_FINISH_ITEMS = text("""
    UPDATE lease_items i SET outcome = x.outcome, detail = x.detail, finished_at = :now,
        started_at = coalesce(i.started_at, :now)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id bigint, outcome text, detail text)
    WHERE i.lease_id = :lease AND i.measurement_id = x.id
""")


def _write_good(tx: Transaction, lease: _Lease, good: Sequence[_Good]) -> None:
    ids = [one.result.measurement_id for one in good]
    tx.execute(insert(results), [_result_row(tx, lease, one) for one in good])
    tx.execute(insert(samples), [{"measurement_id": one.result.measurement_id, "data": one.packed} for one in good])
    rows = [
        summary_columns(id_, one.answer) for id_, one in zip(ids, good, strict=True) if isinstance(one.answer, Summary)
    ]
    if rows:
        tx.execute(insert(summaries), rows)
    answers = {
        id_: (one.answer, one.clock_proof)
        for id_, one in zip(ids, good, strict=True)
        if isinstance(one.answer, Comparison)
    }
    comparisons.write(tx, answers)
    tx.execute(_DONE, {"ids": ids})


_DONE = text("""
    UPDATE measurements SET state = 'done', failure = NULL, detail = NULL
    WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'leased'
""")


def _result_row(tx: Transaction, lease: _Lease, one: _Good) -> dict[str, Any]:
    sha256 = one.result.artifact_sha256
    return {
        "measurement_id": one.result.measurement_id,
        "lease_id": lease.row.id,
        "measured_at": tx.now,
        "platform_id": lease.platform_id,
        "generation_id": lease.row.generation_id,
        "artifact_sha256": bytes.fromhex(sha256) if sha256 else None,
    }


def _write_bad(tx: Transaction, lease: _Lease, bad: Sequence[_Bad]) -> None:
    """Attempts that failed: back to wanted or failed for good; jobs are told by the caller."""
    verdicts = {one.result.measurement_id: one.verdict.model_copy(update={"reason": _reason(one)}) for one in bad}
    endings.write_verdicts(tx, {id_: (verdict, lease.row.board_id) for id_, verdict in verdicts.items()})


def _finished(one: _Bad) -> progress.Finished:
    return progress.Finished(
        measurement_id=one.result.measurement_id,
        state=ItemState.FAILED,
        failure=one.verdict.failure,
        reason=_reason(one),
    )


def _reason(one: _Bad) -> str:
    parts = [part for part in (one.verdict.reason, one.result.detail) if part]
    return "; ".join(parts)[:300]


def _too_late(tx: Transaction, agent_id: str, token: str, request: ResultsRequest) -> ResultsAnswer:
    """The lease is over: what it delivered before is repeated, the rest is orphaned."""
    standing = _standing(tx, _lease_id(tx, agent_id, token), request)
    done = {id_ for id_, row in standing.items() if row.outcome is not None}
    late = [result for result in request.results if result.measurement_id not in done]
    _keep_orphans(tx, agent_id, token, late)
    return ResultsAnswer(
        accepted=[],
        repeated=[result.measurement_id for result in request.results if result.measurement_id in done],
        orphaned=[result.measurement_id for result in late],
    )


def _lease_id(tx: Transaction, agent_id: str, token: str) -> int:
    """The agent's lease, live or not. Raises LeaseLost."""
    statement = text("SELECT id FROM leases WHERE token = CAST(:token AS uuid) AND agent_id = :agent")
    try:
        found = tx.execute(statement, {"token": lease_column(token), "agent": agent_id}).scalar_one_or_none()
    except NotFound as error:
        raise LeaseLost("there is no such lease") from error
    if found is None:
        raise LeaseLost("this agent never had such a lease")
    return int(found)


def _keep_orphans(tx: Transaction, agent_id: str, token: str, late: Sequence[MeasurementResult]) -> None:
    """Kept for people who look for what went wrong."""
    column = lease_column(token)
    compressor = zstandard.ZstdCompressor()
    for result in late:
        row = {
            "measurement_id": result.measurement_id,
            "lease_token": column,
            "agent_id": agent_id,
            "data": compressor.compress(result.model_dump_json().encode()),
            "received_at": tx.now,
        }
        tx.execute(_ADD_ORPHAN, row)


_ADD_ORPHAN = text("""
    INSERT INTO orphans (measurement_id, lease_token, agent_id, data, received_at)
    VALUES (:measurement_id, CAST(:lease_token AS uuid), :agent_id, :data, :received_at) ON CONFLICT DO NOTHING
""")
