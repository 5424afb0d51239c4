"""Why a job is not further, and why a board is not used: which filter removed which board."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.boards import (
    DUPLICATE,
    BoardFilter,
    BoardState,
    BoardUse,
    EngineReport,
    Health,
    LastLease,
    Removal,
    is_online,
)
from benchfarm_core.errors import NotFound
from benchfarm_core.jobs import BoardWhy, JobState, JobView, PlatformWhy, WhyView
from benchfarm_core.matching import (
    NEXT,
    ItemsRest,
    why_board_not,
    why_board_unusable,
    why_not_offered,
    why_platform,
)
from benchfarm_core.measurements import rests_s
from benchfarm_core.operating_ranges import OperatingRange
from benchfarm_core.platforms import OperatingPoint, Platform, parse_platform_key
from benchfarm_store.agents import heard_s
from benchfarm_store.database import Transaction
from benchfarm_store.gate_waits import gate_wait_of
from benchfarm_store.measurements import rests_until
from benchfarm_store.timings import TIMES_IN_SITU

MAX_OTHERS: Final = 200
"""Boards of a job's board models that do not offer its platforms; more are not listed."""
MAX_WAITING: Final = 1000
"""Measurements that wait for a board, counted up to this."""
ALL_REST: Final = "is idle: what waits for it rests"


def explain(tx: Transaction, job: JobView, *, retry_s: float = 0) -> WhyView:
    """Per platform with waiting items, what stands in the way; `retry_s` as in `LeaseTimes`."""
    boards: dict[int, list[Row[Any]]] = defaultdict(list)
    others: dict[int, list[Row[Any]]] = defaultdict(list)
    waiting = tx.execute(_WAITING, {"job": job.id, "now": tx.now, "rests": list(rests_s(retry_s))}).all()
    ids = [row.id for row in waiting]
    for row in tx.execute(_BOARDS, {"ids": ids}):
        boards[row.platform_id].append(row)
    for row in tx.execute(_OTHER_BOARDS, {"ids": ids, "limit": MAX_OTHERS}):
        others[row.platform_id].append(row)
    whys = [_platform(tx, row, boards[row.id], others[row.id]) for row in waiting]
    return WhyView(state=job.state, reason=_reason(job, whys), platforms=whys)


# what failed on a board that could begin no launch rests from all boards, as `dispatching` has it
_REST: Final = rests_until("CAST(:rests AS float8[])")
_WAITING = text(f"""
    SELECT p.id, p.key, count(*) AS pending, max(m.clock_need) AS clock_need,
        bool_or(m.timing = 'in_situ') AS in_situ, count(*) FILTER (WHERE m.state = 'leased') AS leased,
        count(*) FILTER (WHERE m.state = 'wanted' AND m.inconclusive + m.noisy > 0 AND r.until IS NULL) AS again,
        count(r.until) AS resting, min(r.until) AS rests_until,
        (array_agg(r.detail ORDER BY r.until))[1] AS ailment
    FROM job_items i JOIN measurements m ON m.id = i.measurement_id JOIN platforms p ON p.id = m.platform_id
    LEFT JOIN LATERAL (
        SELECT {_REST} AS until, l.detail FROM leases l
        WHERE m.state = 'wanted' AND m.attempts > 0 AND l.id = m.lease_id AND l.end_reason = 'ailing'
            AND {_REST} > :now OFFSET 0) r ON true
    WHERE i.job_id = CAST(:job AS uuid) AND i.state = 'pending' GROUP BY p.id, p.key ORDER BY p.key
""")
# only a board that rests is asked for its last lease, which is then among the latest of all
_BOARDS = text(f"""
    SELECT o.platform_id, b.public_id, b.state, b.health, b.reason, b.clock_proof, b.gate_wait, a.last_heard_at,
        b.platform_id AS leased_for, {TIMES_IN_SITU} AS times_in_situ,
        l.rests_after, l.detail AS rest_detail
    FROM board_platforms o JOIN boards b ON b.id = o.board_id JOIN agents a ON a.id = b.agent_id
        JOIN platforms p ON p.id = o.platform_id
    LEFT JOIN LATERAL (
        SELECT CASE WHEN accepted_at IS NULL THEN 'unanswered' ELSE end_reason END AS rests_after, detail FROM leases
        WHERE board_id = b.id AND b.state = 'cooling' ORDER BY id DESC LIMIT 1) l ON true
    WHERE o.platform_id = ANY(CAST(:ids AS int[])) ORDER BY b.public_id
""")
# boards of a platform's model that do not offer it, with the operating points that they do offer
_OTHER_BOARDS = text("""
    SELECT x.*, (
        SELECT jsonb_agg(DISTINCT q.spec->'operating_point') FROM board_platforms o
        JOIN platforms q ON q.id = o.platform_id WHERE o.board_id = x.id) AS points
    FROM (
        SELECT p.id AS platform_id, b.id, b.public_id, b.engines, b.ranges
        FROM platforms p JOIN boards b ON b.board_model = p.spec->>'board_model'
        WHERE p.id = ANY(CAST(:ids AS int[])) AND b.health <> 'retired' AND NOT EXISTS (
            SELECT FROM board_platforms o WHERE o.board_id = b.id AND o.platform_id = p.id)
        ORDER BY p.id, b.public_id LIMIT :limit) x
    ORDER BY x.platform_id, x.public_id
""")


def _platform(tx: Transaction, row: Row[Any], boards: Sequence[Row[Any]], others: Sequence[Row[Any]]) -> PlatformWhy:
    platform = parse_platform_key(row.key)
    removals = [(board, _removal(tx, board, row.clock_need, _times_so(row, board))) for board in boards]
    unusable = {board.public_id: why for board in boards if (why := _unusable(board, row))}
    online = [
        board
        for board in boards
        if board.public_id not in unusable and is_online(board.state, heard_s(board.last_heard_at, tx.now))
    ]
    why = why_platform(
        platform,
        boards_offering=len(boards),
        boards_online=len(online),
        boards_idle=sum(removal is None for _, removal in removals),
        unusable=list(unusable.values()),
        resting=[
            removal.reason
            for board, removal in removals
            if removal and board.state == BoardState.COOLING and board in online
        ],
        again=row.again,
        items_rest=ItemsRest(row.resting, row.rests_until, row.ailment) if row.resting else None,
        next_in_line=row.pending - row.again - row.resting,
    )
    return PlatformWhy(
        platform=row.key,
        pending=row.pending,
        reason=_measuring(row, boards) if row.leased else why,
        boards=[_board_why(row, *one) for one in removals] + [_why_not_it(platform, board) for board in others],
    )


def _measuring(row: Row[Any], boards: Sequence[Row[Any]]) -> str:
    """Of a platform with leased items: boards with a lease may still wait for quiet."""
    at_work = [board for board in boards if board.state == BoardState.LEASED and board.leased_for == row.id]
    waits = [wait for board in at_work if (wait := gate_wait_of(board.state, board.gate_wait)) is not None]
    if not waits or len(waits) < len(at_work):
        return f"measuring {row.leased} now"
    return f"its board {waits[0].sentence}" if len(waits) == 1 else f"its {len(waits)} boards wait: {waits[0].sentence}"


def _board_why(waiting: Row[Any], board: Row[Any], removal: Removal | None) -> BoardWhy:
    if removal is None:
        return BoardWhy(board_id=board.public_id, reason=ALL_REST if waiting.resting == waiting.pending else NEXT)
    wait = gate_wait_of(board.state, board.gate_wait)
    return BoardWhy(board_id=board.public_id, reason=removal.reason, removed_by=removal.by, gate_wait=wait)


def _why_not_it(platform: Platform, board: Row[Any]) -> BoardWhy:
    removal = why_not_offered(
        platform,
        points=[OperatingPoint.model_validate(point) for point in board.points or ()],
        ranges=[OperatingRange.model_validate(one) for one in board.ranges],
        engines=[EngineReport.model_validate(one) for one in board.engines],
    )
    return BoardWhy(board_id=board.public_id, reason=removal.reason, removed_by=removal.by)


def _unusable(board: Row[Any], waiting: Row[Any]) -> str | None:
    return why_board_unusable(
        health=board.health,
        reason=board.reason,
        clock_proof_ok=board.clock_proof >= waiting.clock_need,
        times_so=_times_so(waiting, board),
    )


def _times_so(waiting: Row[Any], board: Row[Any]) -> bool:
    return bool(board.times_in_situ or not waiting.in_situ)


def _removal(tx: Transaction, board: Row[Any], clock_need: int, times_so: bool = True) -> Removal | None:
    return why_board_not(
        state=board.state,
        health=board.health,
        reason=board.reason,
        agent_heard_s=heard_s(board.last_heard_at, tx.now),
        clock_proof_ok=board.clock_proof >= clock_need,
        times_so=times_so,
        rests_after=board.rests_after or "",
        rest_detail=board.rest_detail or "",
        gate_wait=gate_wait_of(board.state, board.gate_wait),
    )


def _reason(job: JobView, whys: Sequence[PlatformWhy]) -> str:
    if job.reason or not whys:
        waits_to_plan = job.state in (JobState.QUEUED, JobState.PLANNING)
        return job.reason or (f"{job.progress.planned} items are not planned yet" if waits_to_plan else "")
    return "; ".join(dict.fromkeys(why.reason for why in whys))


def explain_board(tx: Transaction, board: str, *, retry_s: float = 0) -> BoardUse:
    """Why a board is not used now, or that it is; `retry_s` as in `LeaseTimes`. Raises NotFound."""
    rests = {"now": tx.now, "rests": list(rests_s(retry_s))}
    row = tx.execute(_BOARD, {"board": board, "limit": MAX_WAITING, **rests}).one_or_none()
    if row is None:
        raise NotFound("there is no such board")
    removal = _removal(tx, row, row.clock_proof)
    wait = gate_wait_of(row.state, row.gate_wait)
    is_used = removal is not None and removal.by == BoardFilter.STATE and row.state == BoardState.LEASED and not wait
    last = _last_lease(row)
    return BoardUse(
        board_id=row.public_id,
        reason=_use(row) if removal is None or is_used else removal.reason,
        removed_by=None if removal is None or is_used else removal.by,
        state=row.state,
        health=row.health,
        health_reason=row.reason,
        contested=row.health == Health.MAINTENANCE and row.reason == DUPLICATE,
        agent_heard_s=heard_s(row.last_heard_at, tx.now),
        rests_until=row.cooling_until if row.state == BoardState.COOLING else None,
        waiting=row.waiting,
        last_lease=last,
        ranges=[OperatingRange.model_validate(one) for one in row.ranges],
        marks=row.marks,
        gate_wait=wait,
        lacks={one["name"]: one["reason"] for one in row.engines if not one["available"]},
    )


def _use(row: Row[Any]) -> str:
    """What a board does that no filter removes."""
    if row.state == BoardState.LEASED:
        return "is measuring" if row.accepted_at is not None else "has an offer that its agent has not answered yet"
    if not row.waiting:
        return "nothing waits for its platforms"
    return ALL_REST if row.resting == row.waiting < MAX_WAITING else NEXT


def _last_lease(row: Row[Any]) -> LastLease | None:
    if row.offered_at is None:
        return None
    return LastLease(
        offered_at=row.offered_at,
        accepted=row.accepted_at is not None,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        detail=row.rest_detail or "",
    )


_OF_BOARD: Final = f"""
    o.board_id = b.id AND m.state = 'wanted' AND m.clock_need <= b.clock_proof
    AND (m.only_board_id IS NULL OR m.only_board_id = b.id) AND (m.timing = 'alone' OR {TIMES_IN_SITU})
"""
_BOARD = text(f"""
    SELECT b.public_id, b.state, b.health, b.reason, b.clock_proof, b.cooling_until, b.ranges, b.marks, b.gate_wait,
        b.engines, a.last_heard_at, l.offered_at, l.accepted_at, l.ended_at, l.end_reason, l.detail AS rest_detail,
        CASE WHEN l.accepted_at IS NULL THEN 'unanswered' ELSE l.end_reason END AS rests_after, w.waiting, w.resting
    FROM boards b JOIN agents a ON a.id = b.agent_id
    LEFT JOIN LATERAL (
        SELECT offered_at, accepted_at, ended_at, end_reason, detail FROM leases
        WHERE board_id = b.id ORDER BY id DESC LIMIT 1) l ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS waiting, count(*) FILTER (WHERE rests) AS resting FROM (
            SELECT m.attempts > 0 AND EXISTS (
                SELECT FROM leases l WHERE l.id = m.lease_id AND l.end_reason = 'ailing' AND {_REST} > :now
                OFFSET 0) AS rests
            FROM board_platforms o JOIN measurements m ON m.platform_id = o.platform_id
                JOIN platforms p ON p.id = o.platform_id
            WHERE {_OF_BOARD} LIMIT :limit) x) w
    WHERE b.public_id = :board
""")
