"""The history of boards: what agents and the farm saw happen, how the lab judged, what people noted.

Judgements are rows of `health_changes`, everything else rows of `board_events`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.board_history import BoardEvent, BoardEventKind, BoardEventView
from benchfarm_core.boards import ADDRESS, BOOT, BoardReport, BoardState
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.messages import Nudge, board_channel
from benchfarm_store import cursors
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.tokens import Caller

LATEST: Final = 10
"""Events that a reader who names none sees first."""
PAGE: Final = 200
"""Events that one look brings."""
LOOK_BACK_S: Final = 10.0
"""How much later than it began a transaction may end, for readers to see its events all the same."""
_LOOK_BACK: Final = timedelta(seconds=LOOK_BACK_S)
EARLIEST_YEAR: Final = 2000
REMEMBERED: Final = 16
"""Events of that time that a reader keeps apart, so that a cursor stays short."""
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
    report_id: str | None = None


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


def account_of(author: str) -> str:
    """The account of an author: what others may know of him."""
    return author.partition("/")[0]


def record(tx: Transaction, happened: Sequence[Happened]) -> None:
    """Write events, in order; those of a report that was taken in before change nothing."""
    if happened:
        written = tx.execute(_RECORD, {"rows": rows_json([one._asdict() for one in happened]), "now": tx.now})
        for board in dict.fromkeys(written.scalars()):
            tx.after_commit(Nudge(channel=board_channel(board)))


_RECORD = text("""
    INSERT INTO board_events (board_id, at, kind, before, after, reason, author, report_id)
    SELECT board_id, :now, kind, before, after, reason, author, report_id
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board_id int, kind text, author text, before text, after text,
        reason text, report_id text)
    ON CONFLICT (board_id, report_id) WHERE report_id IS NOT NULL DO NOTHING
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

    A transaction that began earlier may end later, so each look goes back a little; nothing is shown twice. For that a
    cursor names, beside the newest event, those lately shown, and from where on others may still come: the floor.
    """

    def __init__(self, cursor: str | None) -> None:
        self.cursor = cursor
        self.has_more = False
        self._newest: _Place | None = None
        self._floor: _Place | None = None
        self._seen: dict[tuple[int, int], _Place] = {}
        self._page: _Place | None = None
        if cursor:
            at, is_event, id_, floor_at, floor_is_event, floor_id, shown = cursors.decode("event", cursor, *_CURSOR)
            if at.year < EARLIEST_YEAR:
                raise InvalidRequest("the cursor names no event", code="cursor_invalid", field="cursor")
            self._newest, self._floor = _Place(at, is_event, id_), _Place(floor_at, floor_is_event, floor_id)
            self._seen = dict.fromkeys(_keys(shown), self._newest)

    def look(self, tx: Transaction, board: str) -> list[BoardEvent]:
        """What is new, a page at the most; `has_more` then says whether more lies behind it. Raises NotFound."""
        id_ = board_row(tx, board)
        rows = self._read(tx, id_) if self._floor else self._latest(tx, id_)
        self._seen |= {place.key: place for place in map(_place, rows) if place.key in self._seen}
        return [self._shown(row) for row in rows if self._is_fresh(row)]

    def _latest(self, tx: Transaction, board: int) -> list[Row[Any]]:
        rows = tx.execute(_LATEST, {"board": board, "latest": LATEST}).all()[::-1]
        first = _place(rows[0]) if rows else _Place(tx.now, 0, 0)
        self._floor = first if len(rows) == LATEST else _Place(first.at - _LOOK_BACK, 0, 0)
        self._newest = first
        if len(rows) == LATEST:  # the floor itself is shown, what lies below it never
            self._floor = first._replace(id=first.id - 1)
        return list(rows)

    def _read(self, tx: Transaction, board: int) -> Sequence[Row[Any]]:
        assert self._newest is not None  # there is a floor
        start = self._page or _Place(self._newest.at - _LOOK_BACK, 0, 0)
        rows = tx.execute(_AFTER, {"board": board, **start._asdict(), "limit": PAGE}).all()
        self.has_more = len(rows) == PAGE
        self._page = _place(rows[-1]) if self.has_more else None
        return rows

    def _is_fresh(self, row: Row[Any]) -> bool:
        place = _place(row)
        return place.key not in self._seen and (self._floor is None or place > self._floor)

    def _shown(self, row: Row[Any]) -> BoardEvent:
        place = _place(row)
        self._newest = max(self._newest or place, place)
        self._seen[place.key] = place
        self._forget(self._newest)
        assert self._floor is not None  # set by the first look
        shown = ".".join(f"{is_event}{id_}" for is_event, id_ in self._seen)
        self.cursor = cursors.encode("event", *self._newest, *self._floor, shown)
        return BoardEvent(id=self.cursor, **_view(row).model_dump())

    def _forget(self, newest: "_Place") -> None:
        """Keep what the next look may bring again, or of many the newest: others are taken for shown from then on."""
        kept = sorted((p, k) for k, p in self._seen.items() if p.at >= newest.at - _LOOK_BACK)
        for place, _ in kept[:-REMEMBERED]:
            self._floor = max(self._floor or place, place)
        self._seen = {key: place for place, key in kept[-REMEMBERED:]}


class _Place(NamedTuple):
    """Where an event stands among a board's."""

    at: datetime
    is_event: int
    id: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from others, whenever it happened."""
        return self.is_event, self.id


def _place(row: Row[Any]) -> _Place:
    return _Place(row.at, row.is_event, row.id)


_CURSOR: Final = (datetime, int, int, datetime, int, int, str)


def _keys(shown: str) -> list[tuple[int, int]]:
    """The events that a cursor names. Raises InvalidRequest."""
    names = shown.split(".") if shown else []
    if len(names) > REMEMBERED or not all(name[:1] in ("0", "1") and name.isdecimal() for name in names):
        raise InvalidRequest("the cursor names no events", code="cursor_invalid", field="cursor")
    return [(int(name[0]), int(name[1:] or 0)) for name in names]


_EVENTS = """
    SELECT at, 1 AS is_event, id, kind, before, after, reason, author FROM board_events WHERE board_id = :board
    UNION ALL
    SELECT at, 0, id, 'health', from_health, to_health, reason, author FROM health_changes WHERE board_id = :board
"""
_LATEST = text(f"SELECT * FROM ({_EVENTS}) h ORDER BY at DESC, is_event DESC, id DESC LIMIT :latest")
_AFTER = text(f"""
    SELECT * FROM ({_EVENTS}) h WHERE at >= :at AND (at, is_event, id) > (:at, :is_event, :id)
    ORDER BY at, is_event, id LIMIT :limit
""")


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
