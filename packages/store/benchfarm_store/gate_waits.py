"""Which boards wait at their gates, as their agents tell it with every poll."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from benchfarm_core.boards import BoardState, GateWait
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json

WAITING_STATES: Final = (BoardState.LEASED, BoardState.COOLING)
"""In any other, what was told last is over: nobody wants the board, or it is away."""


def note(tx: Transaction, agent_id: str, waits: Mapping[str, GateWait]) -> None:
    """Take over which of its boards an agent says wait, by id: all of them. Twice changes nothing."""
    rows = rows_json([{"board": board, "wait": wait.model_dump(mode="json")} for board, wait in waits.items()])
    tx.execute(_NOTE, {"agent": agent_id, "rows": rows})


# in the order in which registrations hold them
_NOTE = text("""
    WITH told AS (
        SELECT b.id, x.wait FROM boards b
        LEFT JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board text, wait jsonb) ON x.board = b.public_id
        WHERE b.agent_id = :agent AND b.gate_wait IS DISTINCT FROM x.wait
        ORDER BY b.id FOR NO KEY UPDATE OF b)
    UPDATE boards b SET gate_wait = told.wait FROM told WHERE b.id = told.id
""")


def gate_wait_of(state: str, told: object) -> GateWait | None:
    """The wait in a board's row, if it goes on."""
    return GateWait.model_validate(told) if told is not None and state in WAITING_STATES else None
