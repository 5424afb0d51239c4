"""Board models that were found to be one (decision 0023): from then on their boards are of one model.

What agents report is replaced as they register, and keys of the merged model that a job or question names mean the
other model's. Results stay where they were measured.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import (
    BoardReport,
    MergeRequest,
    ModelMerge,
    ModelSplit,
    SplitRequest,
    marks_of,
)
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.platforms import Platform
from benchfarm_store import board_history, measurements, platforms
from benchfarm_store.board_history import Happened
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.measurements import IS_AGAIN
from benchfarm_store.model_merges import find_merges, hold, hold_alone
from benchfarm_store.tokens import Caller

DIFFER_MAX: Final = 0.10
"""By how much the two models' times of the same workloads may differ in the median."""
COMPARED: Final = 200
"""The latest results of each platform whose times are compared."""


def as_merged(tx: Transaction, reports: Sequence[BoardReport]) -> list[BoardReport]:
    """What agents report, with the models' present names; no merge begins before the caller's transaction has ended."""
    hold(tx)
    merges = find_merges(tx)
    return [
        one.model_copy(update={"board_model": merges[one.board_model]}) if one.board_model in merges else one
        for one in reports
    ]


def merge(tx: Transaction, board_model: str, request: MergeRequest, by: Caller) -> ModelMerge:
    """Make a board model's boards boards of another model; twice changes nothing.

    Raises NotFound for a model without boards, InvalidRequest for one into itself, Conflict where the two cannot be
    one (`board_models_differ`) and while jobs wait for the first one's platforms or adaptations of them are under way
    (`board_model_busy`). The golden runs that wait for its boards are given up.
    """
    present = find_merges(tx)
    into = present.get(request.into, request.into)
    if present.get(board_model) != into:
        _check_known(tx, board_model.replace("\x00", ""), into)
        _check_alike(tx, board_model.replace("\x00", ""), into)
    hold_alone(tx)
    merges = find_merges(tx)
    into = merges.get(request.into, request.into)
    if board_model == into:
        raise InvalidRequest("a board model cannot be merged into itself", field="into")
    if merges.get(board_model) == into:
        return ModelMerge(board_model=board_model, merged_into=into, boards=[])
    mine, others = _hold(tx, board_model, into)
    if not mine or not others:
        raise NotFound(f"no board is of the model {(into if mine else board_model)[:60]}")
    tx.execute(_CANCEL_GOLDEN, {"model": board_model})
    measurements.cancel_again(tx, tx.execute(_HOLD_AGAIN, {"model": board_model}).scalars().all())
    _check_idle(tx, board_model)
    author = board_history.author_of(by)
    parameters = {"model": board_model, "into": into, "author": author, "reason": request.reason, "now": tx.now}
    tx.execute(_MERGE, parameters)
    tx.execute(_FOLLOW, parameters)
    tx.execute(_RENAME, parameters)
    _offer(tx, [row.id for row in mine], into)
    board_history.record(
        tx,
        [Happened(row.id, BoardEventKind.BOARD_MODEL, author, board_model, into, request.reason) for row in mine],
    )
    for row in mine:
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(row.public_id,)))
    return ModelMerge(board_model=board_model, merged_into=into, boards=[row.public_id for row in mine])


def split(tx: Transaction, board_model: str, request: SplitRequest, by: Caller) -> ModelSplit:
    """Take a merge back from now on; what was measured meanwhile stays where it was measured.

    Boards that the merge took are the model's again at once, others of it with their next registration. Raises
    NotFound for a model that is not merged.
    """
    hold_alone(tx)
    into = tx.execute(_UNMERGE, {"model": board_model.replace("\x00", "")}).scalar_one_or_none()
    if into is None:
        raise NotFound(f"the board model {board_model[:60]} is not merged into another")
    rows = tx.execute(_TAKEN, {"model": board_model, "into": into}).all()
    ids = [row.id for row in rows]
    tx.execute(_NAME, {"ids": ids, "model": board_model})
    _offer(tx, ids, board_model)
    author = board_history.author_of(by)
    kind = BoardEventKind.BOARD_MODEL
    board_history.record(tx, [Happened(id_, kind, author, into, board_model, request.reason) for id_ in ids])
    for row in rows:
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(row.public_id,)))
    return ModelSplit(board_model=board_model, was_merged_into=into, boards=[row.public_id for row in rows])


_UNMERGE = text("DELETE FROM board_model_merges WHERE board_model = :model RETURNING merged_into")
_NAME = text("UPDATE boards SET board_model = :model WHERE id = ANY(CAST(:ids AS int[]))")
# boards whose last change of model but for later merges of the other one was that from this model
_TAKEN = text("""
    SELECT b.id, b.public_id FROM boards b
    WHERE b.board_model = :into AND (
        SELECT e.before FROM board_events e
        WHERE e.board_id = b.id AND e.kind = 'board_model'
            AND NOT EXISTS (SELECT FROM board_model_merges m WHERE m.board_model = e.before)
        ORDER BY e.at DESC, e.id DESC LIMIT 1) = :model
    ORDER BY b.id FOR NO KEY UPDATE OF b
""")


def _hold(tx: Transaction, board_model: str, into: str) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """The boards of both, held to the end of the transaction, so that none gets an offer meanwhile."""
    rows = tx.execute(_BOARDS, {"models": [board_model.replace("\x00", ""), into]}).all()
    return [row for row in rows if row.board_model == board_model], [row for row in rows if row.board_model == into]


_BOARDS = text("""
    SELECT id, public_id, board_model FROM boards WHERE board_model = ANY(:models) ORDER BY id FOR NO KEY UPDATE
""")
_MERGE = text("""
    INSERT INTO board_model_merges (board_model, merged_into, author, reason, at)
    VALUES (:model, :into, :author, :reason, :now)
    ON CONFLICT (board_model) DO UPDATE SET merged_into = excluded.merged_into, author = excluded.author,
        reason = excluded.reason, at = excluded.at
""")
_FOLLOW = text("UPDATE board_model_merges SET merged_into = :into WHERE merged_into = :model")
_RENAME = text("UPDATE boards SET board_model = :into WHERE board_model = :model")


def _check_idle(tx: Transaction, board_model: str) -> None:
    if tx.execute(_ADAPTED, {"model": board_model}).scalar_one():
        raise Conflict(
            f"an adaptation of a platform of {board_model} is under way: let it end, or cancel it",
            code="board_model_busy",
        )
    for waiting in (_UNPLANNED, _WANTED, _LEASED):
        if tx.execute(waiting, {"model": board_model}).scalar_one():
            raise Conflict(
                f"jobs wait for platforms of {board_model}, or its boards measure: let that end, or cancel the jobs",
                code="board_model_busy",
            )


def _check_known(tx: Transaction, *models: str) -> None:
    known = {row.board_model for row in tx.execute(_KNOWN, {"models": list(models)})}
    for model in models:
        if model not in known:
            raise NotFound(f"no board is of the model {model[:60]}")


_KNOWN = text("SELECT DISTINCT board_model FROM boards WHERE board_model = ANY(:models)")


def _check_alike(tx: Transaction, board_model: str, into: str) -> None:
    """Raise Conflict where the two cannot be one. Reads much, so it comes before anything is held."""
    if marks_of(board_model) != marks_of(into):
        raise Conflict("boards with marks and boards without are never one model", code="board_models_differ")
    ratios = tx.execute(_RATIOS, {"model": board_model, "into": into, "latest": COMPARED}).scalars().all()
    if ratios and abs(median(ratios) - 1) > DIFFER_MAX:
        raise Conflict(
            f"{board_model} takes {median(ratios):.2f} times as long as {into}, median of {len(ratios)} results: "
            f"they are not one model",
            code="board_models_differ",
        )


# as many probes of an index as the model has platforms; what is leased has a live lease
_MINE = "SELECT id FROM platforms WHERE split_part(key, '/', 1) = :model"
_ADAPTED = text(f"""
    SELECT EXISTS (SELECT FROM adaptations WHERE finished_at IS NULL AND platform_id IN ({_MINE}))
""")
_UNPLANNED = text(f"""
    SELECT EXISTS (
        SELECT FROM jobs WHERE finished_at IS NULL AND state IN ('queued', 'planning')
            AND platform_ids && ARRAY({_MINE}))
""")
_WANTED = text(f"""
    SELECT EXISTS (
        SELECT FROM ({_MINE}) p
        CROSS JOIN LATERAL (SELECT FROM measurements WHERE platform_id = p.id AND state = 'wanted' LIMIT 1) m)
""")
_LEASED = text(f"""
    SELECT EXISTS (
        SELECT FROM leases l JOIN queues q ON q.id = l.queue_id
        WHERE l.ended_at IS NULL AND q.platform_id IN ({_MINE}))
""")
_CANCEL_GOLDEN = text(f"""
    UPDATE measurements SET state = 'cancelled' WHERE id IN (
        SELECT m.id FROM ({_MINE}) p JOIN measurements m ON m.platform_id = p.id
        WHERE m.state = 'wanted' AND m.purpose = 'golden' ORDER BY m.id FOR NO KEY UPDATE OF m)
""")
_HOLD_AGAIN = text(f"""
    SELECT m.id FROM ({_MINE}) p JOIN measurements m ON m.platform_id = p.id
    WHERE m.state = 'wanted' AND {IS_AGAIN} ORDER BY m.id FOR NO KEY UPDATE OF m
""")
_RATIOS = text("""
    WITH mine AS (
        SELECT o.id AS platform_id, m.workload_id, m.protocol_id, m.timing,
            percentile_cont(0.5) WITHIN GROUP (ORDER BY s.median_ms) AS ms
        FROM platforms p JOIN platforms o ON o.key = :into || substr(p.key, strpos(p.key, '/'))
        CROSS JOIN LATERAL (
            SELECT measurement_id FROM results WHERE platform_id = p.id ORDER BY measured_at DESC LIMIT :latest) r
        JOIN measurements m ON m.id = r.measurement_id
        JOIN summaries s ON s.measurement_id = m.id AND s.active
        WHERE split_part(p.key, '/', 1) = :model GROUP BY 1, 2, 3, 4 LIMIT 1000)
    SELECT mine.ms / theirs.ms FROM mine CROSS JOIN LATERAL (
        SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s.median_ms) AS ms
        FROM measurements m JOIN summaries s ON s.measurement_id = m.id AND s.active
        WHERE m.workload_id = mine.workload_id AND m.platform_id = mine.platform_id
            AND m.protocol_id = mine.protocol_id AND m.timing = mine.timing) theirs
    WHERE theirs.ms > 0
""")


def _offer(tx: Transaction, boards: Sequence[int], into: str) -> None:
    """The boards offer the other model's platforms instead of those that they offered."""
    offered: dict[int, list[Platform]] = defaultdict(list)
    for row in tx.execute(_OFFERED, {"boards": list(boards)}):
        platform = Platform.model_validate(row.spec)
        offered[row.board_id].append(platform.model_copy(update={"board_model": into}))
    ids = platforms.ensure(tx, [one for many in offered.values() for one in many])
    rows = [{"board": board, "platform": ids[one.key]} for board, many in sorted(offered.items()) for one in many]
    tx.execute(text("DELETE FROM board_platforms WHERE board_id = ANY(CAST(:boards AS int[]))"), {"boards": boards})
    if rows:
        tx.execute(_ADD, {"rows": rows_json(rows)})


_OFFERED = text("""
    SELECT o.board_id, p.spec FROM board_platforms o JOIN platforms p ON p.id = o.platform_id
    WHERE o.board_id = ANY(CAST(:boards AS int[])) ORDER BY p.key
""")
_ADD = text("""
    INSERT INTO board_platforms (board_id, platform_id)
    SELECT board, platform FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board int, platform int)
    ON CONFLICT DO NOTHING
""")
