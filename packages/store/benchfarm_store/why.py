"""Why a job is not further: which filter removed which board."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text

from benchfarm_core.boards import BoardState
from benchfarm_core.jobs import BoardWhy, JobState, JobView, PlatformWhy, WhyView
from benchfarm_core.leases import AGENT_SILENT_S
from benchfarm_core.matching import why_board_not, why_board_unusable, why_platform
from benchfarm_core.platforms import parse_platform_key
from benchfarm_store.database import Transaction


def explain(tx: Transaction, job: JobView) -> WhyView:
    """Per platform with waiting items, what stands in the way."""
    boards: dict[int, list[Row[Any]]] = defaultdict(list)
    waiting = tx.execute(_WAITING, {"job": job.id}).all()
    for row in tx.execute(_BOARDS, {"ids": [row.id for row in waiting]}):
        boards[row.platform_id].append(row)
    whys = [_platform(tx, row, boards[row.id]) for row in waiting]
    return WhyView(state=job.state, reason=_reason(job, whys), platforms=whys)


_WAITING = text("""
    SELECT p.id, p.key, count(*) AS pending, max(m.clock_need) AS clock_need,
        count(*) FILTER (WHERE m.state = 'leased') AS leased
    FROM job_items i JOIN measurements m ON m.id = i.measurement_id JOIN platforms p ON p.id = m.platform_id
    WHERE i.job_id = CAST(:job AS uuid) AND i.state = 'pending' GROUP BY p.id, p.key ORDER BY p.key
""")
# only a board that rests is asked for its last lease, which is then among the latest of all
_BOARDS = text("""
    SELECT o.platform_id, b.public_id, b.state, b.health, b.reason, b.clock_proof, a.last_heard_at,
        l.rests_after, l.detail AS rest_detail
    FROM board_platforms o JOIN boards b ON b.id = o.board_id JOIN agents a ON a.id = b.agent_id
    LEFT JOIN LATERAL (
        SELECT CASE WHEN accepted_at IS NULL THEN 'unanswered' ELSE end_reason END AS rests_after, detail FROM leases
        WHERE board_id = b.id AND b.state = 'cooling' ORDER BY id DESC LIMIT 1) l ON true
    WHERE o.platform_id = ANY(CAST(:ids AS int[])) ORDER BY b.public_id
""")


def _platform(tx: Transaction, row: Row[Any], boards: Sequence[Row[Any]]) -> PlatformWhy:
    reasons = [(board, _board_reason(tx, board, row.clock_need)) for board in boards]
    unusable = {board.public_id: why for board in boards if (why := _unusable(board, row.clock_need))}
    online = [board for board in boards if board.public_id not in unusable and _is_online(tx, board)]
    why = why_platform(
        parse_platform_key(row.key),
        boards_offering=len(boards),
        boards_online=len(online),
        boards_idle=sum(reason is None for _, reason in reasons),
        unusable=list(unusable.values()),
        resting=[
            reason for board, reason in reasons if reason and board.state == BoardState.COOLING and board in online
        ],
    )
    return PlatformWhy(
        platform=row.key,
        pending=row.pending,
        reason=f"measuring {row.leased} now" if row.leased else why,
        boards=[BoardWhy(board_id=board.public_id, reason=reason or "next in line") for board, reason in reasons],
    )


def _unusable(board: Row[Any], clock_need: int) -> str | None:
    return why_board_unusable(health=board.health, reason=board.reason, clock_proof_ok=board.clock_proof >= clock_need)


def _is_online(tx: Transaction, board: Row[Any]) -> bool:
    heard_s = _heard_s(tx, board)
    return board.state != BoardState.OFFLINE and heard_s is not None and heard_s < AGENT_SILENT_S


def _heard_s(tx: Transaction, board: Row[Any]) -> float | None:
    return None if board.last_heard_at is None else (tx.now - board.last_heard_at).total_seconds()


def _board_reason(tx: Transaction, board: Row[Any], clock_need: int) -> str | None:
    return why_board_not(
        state=board.state,
        health=board.health,
        reason=board.reason,
        agent_heard_s=_heard_s(tx, board),
        clock_proof_ok=board.clock_proof >= clock_need,
        rests_after=board.rests_after or "",
        rest_detail=board.rest_detail or "",
    )


def _reason(job: JobView, whys: Sequence[PlatformWhy]) -> str:
    if job.reason or not whys:
        waits_to_plan = job.state in (JobState.QUEUED, JobState.PLANNING)
        return job.reason or (f"{job.progress.planned} items are not planned yet" if waits_to_plan else "")
    return "; ".join(dict.fromkeys(why.reason for why in whys))
