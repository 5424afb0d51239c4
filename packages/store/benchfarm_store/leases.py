"""Leases: offered, accepted, renewed, given back, lost. Every call names the token or has no effect.

Live means `ended_at IS NULL`, at most one per board. A lost lease costs an attempt only for what was
running; everything else ends free of charge.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, text

from benchfarm_core.agent_protocol import (
    BatchItem,
    BesideFiles,
    LeaseGrant,
    LeaseReport,
    Offer,
    ReleaseRequest,
    RenewAnswer,
    RenewedLease,
    ReportsAnswer,
    ReportsRequest,
    StartedRequest,
)
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import provable
from benchfarm_core.correctness import gate_limit
from benchfarm_core.drift import slowest_ns
from benchfarm_core.errors import InvalidRequest, LeaseLost, NotFound
from benchfarm_core.leases import LeaseTimes, is_expired, lease_ends
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.protocols import Protocol
from benchfarm_core.workloads import WORKLOAD, AnyWorkload, PairWorkload, UploadedWorkload
from benchfarm_store import agents, board_history, endings, goldens
from benchfarm_store.board_history import Happened, agent_author
from benchfarm_store.boards import HAS_DRIFTED
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import lease_column, lease_token, rows_json
from benchfarm_store.measurements import IS_WANTED, OF_LEASE


def offers_for(tx: Transaction, agent_id: str, idle: Sequence[str]) -> list[Offer]:
    """Offers that wait for the agent's idle boards. A board said to be idle that was offline comes back.

    A lease that came with the end of another and of which nobody ever said a word is offered again: the answer that
    named it was lost, and its agent asks for it no more. Accepting it gives its batch.
    """
    back = tx.execute(_COME_BACK, {"agent": agent_id, "idle": list(idle)}).all()
    board_history.record(tx, [Happened(b.id, BoardEventKind.ONLINE, agent_author(agent_id)) for b in back])
    for board in back:
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board.public_id,)))
    rows = tx.execute(_OFFERS, {"agent": agent_id, "idle": list(idle), "now": tx.now})
    return [
        Offer(
            lease_token=lease_token(row.token),
            board_id=row.public_id,
            expires_in_s=(row.expires_at - tx.now).total_seconds(),
        )
        for row in rows
    ]


_COME_BACK = text("""
    UPDATE boards b SET state = CASE WHEN EXISTS (
            SELECT FROM leases l WHERE l.board_id = b.id AND l.ended_at IS NULL) THEN 'leased' ELSE 'idle' END
    WHERE b.agent_id = :agent AND b.public_id = ANY(:idle) AND b.state = 'offline' RETURNING b.id, b.public_id
""")
_OFFERS = text("""
    SELECT l.token::text AS token, b.public_id, l.expires_at FROM leases l JOIN boards b ON b.id = l.board_id
    WHERE l.agent_id = :agent AND b.public_id = ANY(:idle) AND l.ended_at IS NULL AND l.expires_at > :now
        AND (l.accepted_at IS NULL OR l.accepted_at = l.offered_at AND NOT EXISTS (
            SELECT FROM lease_items i WHERE i.lease_id = l.id AND i.started_at IS NOT NULL OFFSET 0))
    ORDER BY l.offered_at
""")


def unknown_boards(tx: Transaction, agent_id: str, board_ids: Sequence[str]) -> list[str]:
    """Those of some boards that the agent does not drive, as far as the farm knows."""
    statement = text("SELECT public_id FROM boards WHERE agent_id = :agent AND public_id = ANY(:ids)")
    known = set(tx.execute(statement, {"agent": agent_id, "ids": list(board_ids)}).scalars())
    return [board for board in board_ids if board not in known]


def ended(tx: Transaction, agent_id: str, lease_tokens: Sequence[str]) -> list[str]:
    """Those of the tokens that are no longer live leases of this agent: it must stop their boards."""
    columns = {lease_column(token): token for token in lease_tokens}
    live = tx.execute(_LIVE, {"agent": agent_id, "tokens": list(columns), "now": tx.now}).scalars().all()
    return [token for column, token in columns.items() if column not in live]


_LIVE = text("""
    SELECT token::text FROM leases WHERE token = ANY(CAST(:tokens AS uuid[])) AND agent_id = :agent
        AND ended_at IS NULL AND expires_at > :now
""")


def hold(tx: Transaction, agent_id: str, token: str) -> Row[Any]:
    """The live lease of a token, held to the end of the transaction. Raises LeaseLost."""
    try:
        column = lease_column(token)
    except NotFound as error:
        raise LeaseLost("there is no such lease") from error
    row = tx.execute(_HOLD, {"token": column, "agent": agent_id}).one_or_none()
    if row is None:
        raise LeaseLost("the lease ended or belongs to somebody else")
    if is_expired(row.expires_at, tx.now):
        raise LeaseLost("the lease has expired")
    return row


_HOLD = text("""
    SELECT l.id, l.token::text AS token, l.board_id, l.agent_id, l.generation_id, l.queue_id, l.accepted_at,
        l.expires_at
    FROM leases l WHERE l.token = CAST(:token AS uuid) AND l.agent_id = :agent AND l.ended_at IS NULL
    FOR NO KEY UPDATE
""")


def accept(tx: Transaction, agent_id: str, token: str, times: LeaseTimes) -> LeaseGrant:
    """Start the lease of an offer; accepting again gives the same batch. Raises LeaseLost."""
    lease = hold(tx, agent_id, token)
    tx.execute(_ACCEPT, {"id": lease.id, "now": tx.now, "expires": lease_ends(tx.now, times)})
    return grant(tx, token, times)


def grant(tx: Transaction, token: str, times: LeaseTimes) -> LeaseGrant:
    """The batch of a lease that has just started, or was just accepted again."""
    head = tx.execute_prepared(_HEAD, lease_column(token)).one()
    platform = Platform.model_validate(json.loads(head.platform))
    items = [_batch_item(row, platform) for row in tx.execute_prepared(_BATCH, head.id)]
    has_uploads = any(item.file_sha256 for item in items)
    return LeaseGrant(
        lease_token=token,
        board_id=head.board,
        platform=platform,
        protocol=Protocol.model_validate(json.loads(head.protocol)),
        generation=head.generation,
        items=items,
        expires_in_s=times.lease_s,
        renew_in_s=times.renew_s,
        fastest_canary_ns=goldens.fastest_ns(tx, head.generation_id, head.platform_id),
        slowest_canary_ns=_slowest_canary_ns(tx, head, platform) if has_uploads else None,
    )


def _slowest_canary_ns(tx: Transaction, head: Row[Any], platform: Platform) -> int | None:
    history = goldens.history_of(tx, head.generation_id, head.platform_id)
    return slowest_ns(history, provable(platform.operating_point, ClockProof.VERIFIED))


_ACCEPT = text("""
    UPDATE leases SET accepted_at = coalesce(accepted_at, :now), expires_at = :expires
    WHERE id = :id AND ended_at IS NULL
""")
_HEAD = Prepared(
    "lease_head",
    "uuid",
    """
    SELECT l.id, b.public_id AS board, g.name AS generation, p.spec::text AS platform, t.spec::text AS protocol,
        l.generation_id, q.platform_id
    FROM leases l JOIN boards b ON b.id = l.board_id JOIN generations g ON g.id = l.generation_id
        JOIN queues q ON q.id = l.queue_id JOIN platforms p ON p.id = q.platform_id
        JOIN protocols t ON t.id = q.protocol_id
    WHERE l.token = $1
    """,
)
_BATCH = Prepared(
    "lease_batch",
    "bigint",
    f"""
    SELECT m.id, m.expected_s, m.timing, m.attempts > 0 AS apart, w.spec::text AS spec, w.reference_sha256,
        a.reference_sha256 AS a_reference, b.reference_sha256 AS b_reference
    FROM lease_items i JOIN measurements m ON m.id = i.measurement_id JOIN workloads w ON w.id = m.workload_id
    LEFT JOIN pairs x ON x.workload_id = w.id
    LEFT JOIN workloads a ON a.id = x.a_id
    LEFT JOIN workloads b ON b.id = x.b_id
    WHERE i.lease_id = $1 AND m.lease_id = i.lease_id AND m.state = 'leased' AND m.id = ANY({OF_LEASE})
    ORDER BY i.position
    """,
)


def _batch_item(row: Row[Any], platform: Platform) -> BatchItem:
    workload = WORKLOAD.validate_json(row.spec)
    pair = workload if isinstance(workload, PairWorkload) else None
    return BatchItem(
        measurement_id=row.id,
        workload=workload,
        file_sha256=_file(pair.a if pair else workload),
        reference_sha256=row.a_reference if pair else row.reference_sha256,
        max_relative_l2=gate_limit(platform),
        expected_s=row.expected_s,
        beside=_beside(pair, row, platform) if pair else None,
        timing=row.timing,
        apart=row.apart,
    )


def _beside(pair: PairWorkload, row: Row[Any], platform: Platform) -> BesideFiles:
    return BesideFiles(
        file_sha256=_file(pair.b),
        reference_sha256=row.b_reference,
        max_relative_l2=gate_limit(pair.platform_of_b(platform)),
    )


def _file(workload: AnyWorkload) -> str | None:
    return workload.sha256 if isinstance(workload, UploadedWorkload) else None


def renew(tx: Transaction, agent_id: str, token: str, times: LeaseTimes) -> RenewAnswer:
    """Let an accepted lease live on; names what nobody wants any more. Raises LeaseLost."""
    agents.heard(tx, agent_id)
    lease = hold(tx, agent_id, token)
    if lease.accepted_at is None:
        raise LeaseLost("the offer was not accepted")
    statement = text("UPDATE leases SET expires_at = :expires WHERE id = :id AND ended_at IS NULL")
    tx.execute(statement, {"id": lease.id, "expires": lease_ends(tx.now, times)})
    cancelled = _unwanted(tx, [lease.id]).get(lease.id, [])
    return RenewAnswer(expires_in_s=times.lease_s, renew_in_s=times.renew_s, cancelled=cancelled)


def _unwanted(tx: Transaction, lease_ids: Sequence[int]) -> dict[int, list[int]]:
    """What nobody wants any more, by lease."""
    found: dict[int, list[int]] = {}
    for row in tx.execute(_UNWANTED, {"ids": list(lease_ids)}):
        found.setdefault(row.lease_id, []).append(row.id)
    return found


_UNWANTED = text(f"""
    SELECT l.lease_id, m.id FROM lease_items l JOIN measurements m ON m.id = l.measurement_id
    WHERE l.lease_id = ANY(CAST(:ids AS bigint[])) AND m.lease_id = l.lease_id AND m.state = 'leased'
        AND NOT {IS_WANTED}
    ORDER BY m.id
""")


def started(tx: Transaction, agent_id: str, token: str, request: StartedRequest) -> None:
    """These measurements have begun to run. Unless all is over the last one runs now: it pays if the lease is lost.

    Every launch visits a measurement again, so what has started once is not what is running.
    Twice changes nothing.

    Raises LeaseLost, InvalidRequest (`result_invalid`) for a measurement outside the lease.
    """
    agents.heard(tx, agent_id)
    lease = hold(tx, agent_id, token)
    ids = set(request.measurement_ids)
    known = tx.execute(_STARTED, {"id": lease.id, "ids": list(ids), "now": tx.now}).scalars().all()
    refuse_strangers(ids, known, field="measurement_ids")
    last = request.measurement_ids[-1:]
    tx.execute(_RUNNING, {"id": lease.id, "running": last[0] if last and not request.over else None})


def refuse_strangers(ids: Iterable[int], known: Iterable[int], *, field: str) -> None:
    """Raise InvalidRequest (`result_invalid`) where some measurements are not among those of a lease."""
    if missing := set(ids).difference(known):
        raise InvalidRequest(f"measurement {min(missing)} is not of this lease", code="result_invalid", field=field)


_RUNNING = text("UPDATE leases SET running_measurement_id = :running WHERE id = :id AND ended_at IS NULL")
_STARTED = text("""
    UPDATE lease_items SET started_at = coalesce(started_at, :now)
    WHERE lease_id = :id AND measurement_id = ANY(CAST(:ids AS bigint[])) RETURNING measurement_id
""")


def report(tx: Transaction, agent_id: str, request: ReportsRequest, times: LeaseTimes) -> ReportsAnswer:
    """What runs in an agent's leases, as `started` has it for one, and which of them live on. Twice changes nothing.

    A lease that is over is named and takes no other along. Raises InvalidRequest (`result_invalid`) for a measurement
    outside its lease.
    """
    agents.heard(tx, agent_id)
    told = {lease_column(one.lease_token): one for one in _each_once(request.leases)}
    rows = tx.execute_prepared(_HOLD_MANY, list(told), agent_id).all()
    live = {row.token: row for row in rows if row.accepted_at is not None and not is_expired(row.expires_at, tx.now)}
    _note_running(tx, [(live[column].id, one) for column, one in told.items() if column in live], times)
    renewing = {column: live[column].id for column, one in told.items() if column in live and one.renew}
    unwanted = _unwanted(tx, list(renewing.values())) if renewing else {}
    return ReportsAnswer(
        lost=[one.lease_token for column, one in told.items() if column not in live],
        renewed=[
            RenewedLease(lease_token=told[column].lease_token, cancelled=unwanted.get(lease_id, []))
            for column, lease_id in renewing.items()
        ],
        expires_in_s=times.lease_s,
        renew_in_s=times.renew_s,
    )


def _each_once(reports: Sequence[LeaseReport]) -> list[LeaseReport]:
    """The reports of a lease that is named several times, as one."""
    found: dict[str, LeaseReport] = {}
    for one in reports:
        before = found.get(one.lease_token)
        if before is not None:
            earlier = [id_ for id_ in before.measurement_ids if id_ not in one.measurement_ids]
            ids = (*earlier, *one.measurement_ids)
            merged = {"measurement_ids": ids, "over": one.over, "renew": one.renew or before.renew}
            merged |= {"gate_ms": max(one.gate_ms, before.gate_ms)}
            found[one.lease_token] = before.model_copy(update=merged)
        else:
            found[one.lease_token] = one
    return list(found.values())


def _note_running(tx: Transaction, reports: Sequence[tuple[int, LeaseReport]], times: LeaseTimes) -> None:
    """Write what has started and what runs, and prolong what is to live on; by the rows of held leases."""
    if not reports:
        return
    started = [{"lease": lease, "id": id_} for lease, one in reports for id_ in one.measurement_ids]
    missing = tx.execute_prepared(_STARTED_MANY, rows_json(started), tx.now).scalar() if started else None
    if missing is not None:
        raise InvalidRequest(f"measurement {missing} is not of its lease", code="result_invalid", field="leases")
    rows = [
        {
            "lease": lease,
            "told": bool(one.measurement_ids or one.over),
            "running": one.measurement_ids[-1] if one.measurement_ids and not one.over else None,
            "renew": one.renew,
            "gate_ms": one.gate_ms,
        }
        for lease, one in reports
    ]
    tx.execute_prepared(_REPORTED, rows_json(rows), lease_ends(tx.now, times))
    if not any(one.renew for _, one in reports):
        tx.allow_loss()  # a crash of Postgres makes what is known of what ran a little older, as a lost report does


_HOLD_MANY = Prepared(
    "leases_hold",
    "text[], text",
    """
    SELECT id, token::text AS token, accepted_at, expires_at FROM leases
    WHERE token = ANY(CAST($1 AS uuid[])) AND agent_id = $2 AND ended_at IS NULL ORDER BY id FOR NO KEY UPDATE
    """,
)
# every launch visits all of a lease again: what has started before is not written anew
_STARTED_MANY = Prepared(
    "leases_started",
    "jsonb, timestamptz",
    """
    WITH told AS MATERIALIZED (
        SELECT lease, id FROM jsonb_to_recordset($1) AS x(lease bigint, id bigint)),
    marked AS (
        UPDATE lease_items i SET started_at = $2 FROM told
        WHERE i.lease_id = told.lease AND i.measurement_id = told.id AND i.started_at IS NULL)
    SELECT told.id FROM told WHERE NOT EXISTS (
        SELECT FROM lease_items i WHERE i.lease_id = told.lease AND i.measurement_id = told.id OFFSET 0) LIMIT 1
    """,
)
_REPORTED = Prepared(
    "leases_reported",
    "jsonb, timestamptz",
    """
    UPDATE leases l SET running_measurement_id = CASE WHEN x.told THEN x.running ELSE l.running_measurement_id END,
        expires_at = CASE WHEN x.renew THEN $2 ELSE l.expires_at END, gate_ms = greatest(l.gate_ms, x.gate_ms)
    FROM jsonb_to_recordset($1) AS x(lease bigint, told boolean, running bigint, renew boolean, gate_ms float8)
    WHERE l.id = x.lease AND l.ended_at IS NULL
    """,
)


def release(tx: Transaction, agent_id: str, token: str, request: ReleaseRequest) -> None:
    """Give the board back; what has no result goes back to wanted and nobody pays for that.

    Releasing again changes nothing. Raises LeaseLost for a lease that ended otherwise.
    """
    agents.heard(tx, agent_id)
    hold_board(tx, agent_id, token)
    try:
        lease = hold(tx, agent_id, token)
    except LeaseLost:
        if not was_released(tx, agent_id, token):
            raise
        return
    endings.end_all(tx, [lease], request.reason, lost=False, told=request)


def was_released(tx: Transaction, agent_id: str, token: str) -> bool:
    """Whether its agent has given a lease back, so that saying it again is no news."""
    return tx.execute(_RELEASED, {"token": lease_column(token), "agent": agent_id}).one_or_none() is not None


_RELEASED = text("""
    SELECT id FROM leases WHERE token = CAST(:token AS uuid) AND agent_id = :agent AND ended_at IS NOT NULL
        AND end_reason IN ('done', 'noisy', 'ailing', 'gate', 'drain', 'lease_lost', 'board_lost', 'error', 'cancelled')
""")


def hold_board(tx: Transaction, agent_id: str, token: str) -> Row[Any]:
    """The board's row of a lease, live or not, held: before the lease's own, see `progress`. Raises LeaseLost."""
    try:
        found = tx.execute_prepared(_HOLD_BOARD, lease_column(token), agent_id).one_or_none()
    except NotFound as error:
        raise LeaseLost("there is no such lease") from error
    if found is None:
        raise LeaseLost("there is no such lease")
    return found


_HOLD_BOARD = Prepared(
    "lease_board",
    "uuid, text",
    f"""
    SELECT b.id, b.public_id, b.health, b.generation_id,
        b.agent_id IS NOT DISTINCT FROM $2 AND {HAS_DRIFTED} AS has_drifted
    FROM boards b
    WHERE b.id = (SELECT board_id FROM leases WHERE token = $1 AND agent_id = $2)
    FOR NO KEY UPDATE
    """,
)


def check_file(tx: Transaction, agent_id: str, sha256: str) -> None:
    """Raise NotFound unless the agent holds a live lease on a workload that needs this file."""
    if tx.execute(_FILE, {"sha256": sha256, "agent": agent_id}).one_or_none() is None:
        raise NotFound("no live lease of this agent needs such a file")


_FILE = text("""
    SELECT 1 FROM leases l JOIN lease_items i ON i.lease_id = l.id JOIN measurements m ON m.id = i.measurement_id
        LEFT JOIN pairs x ON x.workload_id = m.workload_id
        JOIN workloads w ON w.id IN (m.workload_id, x.a_id, x.b_id)
    WHERE l.agent_id = :agent AND l.ended_at IS NULL AND w.kind = 'upload'
        AND (w.spec->>'sha256' = :sha256 OR w.reference_sha256 = :sha256) LIMIT 1
""")
