"""Boards: what is plugged in, how it is, and the lab's judgement of it."""

from typing import Annotated, Final

from fastapi import Path, Query
from pydantic import Field

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import conflict, not_found
from benchfarm_api.routes import PageParameters, PageQuery, new_router, page_of
from benchfarm_core.access import Role
from benchfarm_core.board_health import GoldenRunView, SpreadRow
from benchfarm_core.board_history import BoardEventView, NoteRequest
from benchfarm_core.boards import (
    BoardKind,
    BoardState,
    BoardUse,
    BoardView,
    Health,
    MergeRequest,
    ModelMerge,
    ModelSplit,
    SplitRequest,
)
from benchfarm_core.jobs import Page
from benchfarm_core.values import Value
from benchfarm_store import board_health, board_history, board_models, boards, why

router = new_router("boards")

SEE_SERIALS: Final = frozenset({Role.OPERATOR, Role.ADMIN})

BoardId = Annotated[str, Path(max_length=40)]
BoardModel = Annotated[str, Path(max_length=60)]


class HealthRequest(Value):
    """The lab's judgement of a board."""

    health: Health
    reason: str = Field(min_length=1, max_length=300)


class BoardsQuery(PageQuery):
    """Every given field must match."""

    state: BoardState | None = None
    health: Health | None = None
    kind: BoardKind | None = None
    board_model: str | None = Field(default=None, max_length=60)


@router.get("/boards")
def list_boards(caller: CallerDep, parts: PartsDep, query: Annotated[BoardsQuery, Query()]) -> Page[BoardView]:
    """Boards; serials are shown to operators only."""
    with parts.database.transaction(read_only=True) as tx:
        return boards.list_boards(
            tx,
            **dict(query),
            show_serial=caller.role in SEE_SERIALS,
        )


@router.get("/boards/{board_id}", responses=not_found())
def get_board(board_id: BoardId, caller: CallerDep, parts: PartsDep) -> BoardView:
    """One board."""
    with parts.database.transaction(read_only=True) as tx:
        return boards.get_board(tx, board_id, caller.role in SEE_SERIALS)


@router.get("/boards/{board_id}/why", responses=not_found())
def explain_board(board_id: BoardId, parts: PartsDep) -> BoardUse:
    """Why a board is not used now: the first filter that removes it, its last lease, what it can be set to."""
    with parts.database.transaction(read_only=True) as tx:
        return why.explain_board(tx, board_id, retry_s=parts.settings.benchfarm_retry_s)


@router.get("/boards/{board_id}/history", responses=not_found())
def list_board_history(board_id: BoardId, parts: PartsDep, query: PageParameters) -> Page[BoardEventView]:
    """What happened to a board, newest first, each with its author and reason."""
    with parts.database.transaction(read_only=True) as tx:
        return board_history.list_history(tx, board_id, cursor=query.cursor, limit=query.limit)


@router.get("/boards/{board_id}/golden-runs", responses=not_found())
def list_golden_runs(board_id: BoardId, parts: PartsDep, query: PageParameters) -> Page[GoldenRunView]:
    """The board's runs of the golden suite, newest first: how it compared with itself."""
    with parts.database.transaction(read_only=True) as tx:
        return board_health.list_runs(tx, board_id, cursor=query.cursor, limit=query.limit)


@router.get("/board-models/{board_model}/spread", responses=not_found())
def list_board_spread(board_model: BoardModel, parts: PartsDep, query: PageParameters) -> Page[SpreadRow]:
    """How the units of one board model differ, from their latest golden runs."""
    with parts.database.transaction(read_only=True) as tx:
        return page_of(board_health.list_spread(tx, board_model), query)


@router.post("/board-models/{board_model}/merge", responses=not_found() | conflict())
def merge_board_model(board_model: BoardModel, merge: MergeRequest, caller: CallerDep, parts: PartsDep) -> ModelMerge:
    """Two board models are found to be one: the boards of the first are boards of the second from now on."""
    with parts.database.transaction() as tx:
        return board_models.merge(tx, board_model, merge, caller)


@router.post("/board-models/{board_model}/split", responses=not_found())
def split_board_model(board_model: BoardModel, split: SplitRequest, caller: CallerDep, parts: PartsDep) -> ModelSplit:
    """Take a merge back: boards of the first model are its own again. What was measured meanwhile stays."""
    with parts.database.transaction() as tx:
        return board_models.split(tx, board_model, split, caller)


@router.post("/boards/{board_id}/notes", status_code=201, responses=not_found())
def add_board_note(board_id: BoardId, note: NoteRequest, caller: CallerDep, parts: PartsDep) -> BoardEventView:
    """Write a note into a board's history."""
    with parts.database.transaction() as tx:
        return board_history.add_note(tx, board_id, note.text, caller)


@router.post("/boards/{board_id}/health", responses=not_found() | conflict())
def set_board_health(board_id: BoardId, change: HealthRequest, caller: CallerDep, parts: PartsDep) -> BoardView:
    """Change a board's health; one taken out of use loses its lease, and nobody pays for that."""
    with parts.database.transaction() as tx:
        return boards.set_health(tx, board_id, change.health, change.reason, caller)
