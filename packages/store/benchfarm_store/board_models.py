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
from benchfarm_core.boards import MARK_PREFIXES, BoardReport, MergeRequest, ModelMerge
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.platforms import Platform
from benchfarm_store import board_history, platforms
from benchfarm_store.board_history import Happened
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.model_merges import find_merges
from benchfarm_store.tokens import Caller

DIFFER_MAX: Final = 0.10
"""By how much the two models' times of the same workloads may differ in the median."""


def as_merged(tx: Transaction, reports: Sequence[BoardReport]) -> list[BoardReport]:
    """What agents report, with the models' present names."""
    merges = find_merges(tx)
    return [
        one.model_copy(update={"board_model": merges[one.board_model]}) if one.board_model in merges else one
        for one in reports
    ]


def merge(tx: Transaction, board_model: str, request: MergeRequest, by: Caller) -> ModelMerge:
    """Make a board model's boards boards of another model; twice changes nothing.

    Raises NotFound for a model without boards, InvalidRequest for one into itself, Conflict where the two cannot be
    one (`board_models_differ`) and while measurements wait on the first one's platforms (`board_model_busy`).
    """
    merges = find_merges(tx)
    into = merges.get(request.into, request.into)
    if board_model == into:
        raise InvalidRequest("a board model cannot be merged into itself", field="into")
    if merges.get(board_model) == into:
        return ModelMerge(board_model=board_model, merged_into=into, boards=[])
    mine, others = _hold(tx, board_model, into)
    if not mine or not others:
        raise NotFound(f"no board is of the model {(into if mine else board_model)[:60]}")
    _check(tx, board_model, into)
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


def _check(tx: Transaction, board_model: str, into: str) -> None:
    if _marks(board_model) != _marks(into):
        raise Conflict("boards with marks and boards without are never one model", code="board_models_differ")
    if tx.execute(_WAITING, {"model": board_model}).scalar_one():
        raise Conflict(
            f"measurements wait on platforms of {board_model}: let them end, or cancel their jobs",
            code="board_model_busy",
        )
    ratios = tx.execute(_RATIOS, {"model": board_model, "into": into}).scalars().all()
    if ratios and abs(median(ratios) - 1) > DIFFER_MAX:
        raise Conflict(
            f"{board_model} takes {median(ratios):.2f} times as long as {into}, median of {len(ratios)} results: "
            f"they are not one model",
            code="board_models_differ",
        )


def _marks(board_model: str) -> list[str]:
    marks = []
    for prefix in MARK_PREFIXES.values():
        if board_model.startswith(prefix):
            marks.append(prefix)
            board_model = board_model.removeprefix(prefix)
    return marks


_WAITING = text("""
    SELECT EXISTS (
        SELECT FROM measurements m JOIN platforms p ON p.id = m.platform_id
        WHERE split_part(p.key, '/', 1) = :model AND m.state IN ('wanted', 'leased'))
""")
_RATIOS = text("""
    WITH times AS (
        SELECT split_part(p.key, '/', 1) AS model, substr(p.key, strpos(p.key, '/')) AS rest, m.workload_id,
            m.protocol_id, m.timing, percentile_cont(0.5) WITHIN GROUP (ORDER BY s.median_ms) AS ms
        FROM platforms p JOIN measurements m ON m.platform_id = p.id
        JOIN summaries s ON s.measurement_id = m.id AND s.active
        WHERE split_part(p.key, '/', 1) IN (:model, :into) GROUP BY 1, 2, 3, 4, 5)
    SELECT a.ms / b.ms FROM times a JOIN times b USING (rest, workload_id, protocol_id, timing)
    WHERE a.model = :model AND b.model = :into AND b.ms > 0 LIMIT 1000
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
