"""The history of boards: what agents and the farm saw happen, how the lab judged, what people noted.

Judgements are rows of `health_changes`, everything else rows of `board_events`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.board_history import BoardEvent, BoardEventKind, BoardEventView
from benchfarm_core.boards import ADDRESS, BOOT, BoardReport, BoardState
from benchfarm_core.errors import NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.messages import Nudge, board_channel
from benchfarm_store import cursors
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.tokens import Caller

LATEST: Final = 10
"""Events that a reader who names none sees first."""
LOOK_BACK_S: Final = 10.0
FARM: Final = "farm"
"""The author of what nobody did by hand."""


class Happened(NamedTuple):
    """One event of a board's row."""

    board_id: int
    kind: BoardEventKind
    author: str
    before: str = ""
    after: str = ""
    reason: str = ""


def changes(board_id: int, known: Row[Any] | None, report: BoardReport, agent_id: str) -> list[Happened]:
    """What a board's registration shows to have changed; `known` is its row as it was, None for a new one."""
    author = agent_author(agent_id)
    if known is None:
        return [Happened(board_id, BoardEventKind.REGISTERED, author, after=report.board_model)]
    pairs = {
        BoardEventKind.AGENT: (known.agent_id, agent_id),
        BoardEventKind.BOARD_MODEL: (known.board_model, report.board_model),
        BoardEventKind.GENERATION: (known.generation or "", report.generation),
        BoardEventKind.ADDRESS: tuple(str(facts.get(ADDRESS, ""))[:200] for facts in (known.facts, report.facts)),
    }
    boots = [str(facts.get(BOOT, ""))[:200] for facts in (known.facts, report.facts)]
    happened = [Happened(board_id, kind, author, *pair) for kind, pair in pairs.items() if pair[0] != pair[1]]
    if all(boots) and boots[0] != boots[1]:
        happened.append(Happened(board_id, BoardEventKind.REBOOT, author))
    if known.state == BoardState.OFFLINE:
        happened.append(Happened(board_id, BoardEventKind.ONLINE, author))
    return happened


def agent_author(agent_id: str) -> str:
    """An agent, as the author of an event."""
    return f"agent/{agent_id}"


def author_of(by: Caller) -> str:
    """A person, as the author of an event: account and token."""
    return f"{by.account}/{by.token_id}"


def record(tx: Transaction, happened: Sequence[Happened]) -> None:
    """Write events, in order."""
    if happened:
        written = tx.execute(_RECORD, {"rows": rows_json([one._asdict() for one in happened]), "now": tx.now})
        for board in dict.fromkeys(written.scalars()):
            tx.after_commit(Nudge(channel=board_channel(board)))


_RECORD = text("""
    INSERT INTO board_events (board_id, at, kind, before, after, reason, author)
    SELECT board_id, :now, kind, before, after, reason, author
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board_id int, kind text, author text, before text, after text,
        reason text)
    RETURNING (SELECT public_id FROM boards WHERE id = board_id)
""")


def add_note(tx: Transaction, board: str, note: str, by: Caller) -> BoardEventView:
    """What a person says about a board. Raises NotFound."""
    one = Happened(board_row(tx, board), BoardEventKind.NOTE, author_of(by), reason=note)
    record(tx, [one])
    return BoardEventView(at=tx.now, kind=one.kind, before="", after="", reason=note, author=one.author)


def list_history(tx: Transaction, board: str, *, cursor: str | None = None, limit: int = 100) -> Page[BoardEventView]:
    """A board's events, newest first. Raises NotFound."""
    at, is_event, last = cursors.decode("history", cursor, datetime, int, int) if cursor else (None, 0, 0)
    parameters = {"board": board_row(tx, board), "at": at, "is_event": is_event, "last": last, "limit": limit + 1}
    rows = tx.execute(_HISTORY, parameters).all()
    return cursors.page(rows, limit, _view, lambda row: cursors.encode("history", row.at, row.is_event, row.id))


_HISTORY = text("""
    SELECT * FROM (
        SELECT at, 1 AS is_event, id, kind, before, after, reason, author FROM board_events WHERE board_id = :board
        UNION ALL
        SELECT at, 0, id, 'health', from_health, to_health, reason, author FROM health_changes WHERE board_id = :board
    ) h WHERE CAST(:at AS timestamptz) IS NULL OR (at, is_event, id) < (:at, :is_event, :last)
    ORDER BY at DESC, is_event DESC, id DESC LIMIT :limit
""")


class Reading:
    """A reader's place in a board's history, oldest first: the latest events, or those after a cursor, then what comes.

    A transaction that began earlier may end later, so each look goes back a little; nothing is shown twice.
    """

    def __init__(self, cursor: str | None) -> None:
        self.cursor = cursor
        self._start = tuple(cursors.decode("event", cursor, datetime, int, int)) if cursor else None
        self._from: datetime | None = self._start[0] if self._start else None
        self._seen: dict[tuple[Any, ...], None] = {}

    def look(self, tx: Transaction, board: str) -> list[BoardEvent]:
        """What is new. Raises NotFound."""
        since = self._from - timedelta(seconds=LOOK_BACK_S) if self._from else None
        parameters = {"board": board_row(tx, board), "since": since, "latest": LATEST}
        rows = tx.execute(_SINCE if since else _LATEST, parameters).all()
        places = {(row.at, row.is_event, row.id): row for row in rows}
        fresh = {place: row for place, row in places.items() if self._is_fresh(place)}
        self._seen = dict.fromkeys(places) | dict.fromkeys(fresh)
        self._from = max((place[0] for place in places), default=self._from or tx.now)
        shown = (
            (cursors.encode("event", *place), _view(row))
            for place, row in sorted(fresh.items(), key=lambda one: one[0])
        )
        return [BoardEvent(id=id_, **view.model_dump()) for id_, view in shown]

    def _is_fresh(self, place: tuple[Any, ...]) -> bool:
        return place not in self._seen and (self._start is None or place > self._start)


_EVENTS = """
    SELECT at, 1 AS is_event, id, kind, before, after, reason, author FROM board_events WHERE board_id = :board
    UNION ALL
    SELECT at, 0, id, 'health', from_health, to_health, reason, author FROM health_changes WHERE board_id = :board
"""
_LATEST = text(f"SELECT * FROM ({_EVENTS}) h ORDER BY at DESC, is_event DESC, id DESC LIMIT :latest")
_SINCE = text(f"SELECT * FROM ({_EVENTS}) h WHERE at >= :since ORDER BY at, is_event, id")


def _view(row: Row[Any]) -> BoardEventView:
    return BoardEventView(
        at=row.at, kind=row.kind, before=row.before, after=row.after, reason=row.reason, author=row.author
    )


def board_row(tx: Transaction, board: str) -> int:
    """The row of the board with this id. Raises NotFound."""
    found = tx.execute(text("SELECT id FROM boards WHERE public_id = :board"), {"board": board}).scalar_one_or_none()
    if found is None:
        raise NotFound("there is no such board")
    return int(found)
