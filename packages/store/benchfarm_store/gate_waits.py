"""Which boards wait at their gates, as their agents tell it with every poll."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from benchfarm_core.agent_protocol import ToldWait
from benchfarm_core.boards import BoardState, GateWait
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json

WAITING_STATES: Final = (BoardState.LEASED, BoardState.COOLING)
"""In any other, what was told last is over: nobody wants the board, or it is away."""
SAME_S: Final = 5.0
"""A wait that begins within so long of the one known is that one, told by a poll that took another time to come."""


def note(tx: Transaction, agent_id: str, waits: Mapping[str, ToldWait]) -> None:
    """Take over which of its boards an agent says wait, by id: all of them. Twice changes nothing.

    When a wait began is told by the farm's clock.
    """
    now_unix_s = tx.now.timestamp()
    rows = rows_json([
        {"board": board, "since_unix_s": round(now_unix_s - wait.waited_s, 3), "reason": wait.reason}
        for board, wait in waits.items()
    ])  # fmt: skip
    tx.execute(_NOTE, {"agent": agent_id, "rows": rows, "same_s": SAME_S})


# in the order in which registrations hold them
_NOTE = text("""
    WITH told AS (
        SELECT b.id, x.wait FROM boards b
        LEFT JOIN LATERAL (
            SELECT jsonb_build_object('reason', t.reason, 'since_unix_s',
                CASE WHEN abs(known.since_unix_s - t.since_unix_s) < :same_s THEN known.since_unix_s
                    ELSE t.since_unix_s END) AS wait
            FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS t(board text, since_unix_s numeric, reason text),
                (SELECT CAST(b.gate_wait->>'since_unix_s' AS numeric) AS since_unix_s) AS known
            WHERE t.board = b.public_id) x ON true
        WHERE b.agent_id = :agent AND b.gate_wait IS DISTINCT FROM x.wait
        ORDER BY b.id FOR NO KEY UPDATE OF b)
    UPDATE boards b SET gate_wait = told.wait FROM told WHERE b.id = told.id
""")


def gate_wait_of(state: str, told: object) -> GateWait | None:
    """The wait in a board's row, if it goes on."""
    return GateWait.model_validate(told) if told is not None and state in WAITING_STATES else None
