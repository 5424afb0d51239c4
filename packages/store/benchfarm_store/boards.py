"""Boards: what agents register, and how the lab judges them."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.agent_protocol import RecoveryReport, RegisterAnswer, RegisterBoards, RegisteredBoard
from benchfarm_core.board_history import BoardEventKind, RecoveryStep
from benchfarm_core.boards import (
    BOOT,
    DUPLICATE,
    HEALTH_TRANSITIONS,
    LAB_FACTS,
    USABLE_HEALTH,
    BoardReport,
    BoardState,
    BoardView,
    EngineReport,
    Health,
    board_id,
    is_online,
)
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.matching import first_points
from benchfarm_core.messages import Nudge, Task, TaskMessage, agent_channel, board_channel
from benchfarm_core.operating_ranges import OperatingRange
from benchfarm_core.states import advance
from benchfarm_store import (
    agents,
    board_history,
    board_models,
    cursors,
    endings,
    platforms,
    wanted_platforms,
)
from benchfarm_store.board_history import Happened
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, clock_level, lease_column, rows_json
from benchfarm_store.tables import boards
from benchfarm_store.tokens import Caller

MAX_OFFERED: Final = 50_000
"""Platforms of one registration: operating points x engines x precisions, over all its boards."""
NOT_PUT_BACK: Final = "an agent changed it and could not put it back"
"""Begins the reason for which such a board is quarantined."""


def register(tx: Transaction, agent_id: str, request: RegisterBoards) -> RegisterAnswer:
    """Take over what an agent says about its boards; those it leaves out go offline and lose their leases.

    A board that another live agent drives too is taken out of use on both. Raises InvalidRequest
    (`duplicate_board`) when one request names a board twice, and (`too_large`) above `MAX_OFFERED`; UpgradeRequired.
    """
    agents.check_version(request.protocol_version)
    _check_size(request.boards)
    agents.heard(tx, agent_id, request.agent_version)
    salt = tx.execute(text("SELECT salt FROM farms WHERE id = 1")).scalar_one()
    named = {board_id(salt, report): report for report in board_models.as_merged(tx, request.boards)}
    if len(named) < len(request.boards):
        raise InvalidRequest("the request names one board twice", code="duplicate_board", field="boards")
    known = {row.public_id: row for row in tx.execute(_LOCK_BOARDS, {"ids": list(named), "agent": agent_id})}
    _set_offline(tx, agent_id, [row for public_id, row in known.items() if public_id not in named])
    duplicates = {
        public_id
        for public_id, row in known.items()
        if public_id in named
        and row.agent_id != agent_id
        and is_online(row.state, agents.heard_s(row.last_heard_at, tx.now))
    }
    fresh = {public_id: report for public_id, report in named.items() if public_id not in duplicates}
    if request.process_started:
        own = [row.id for row in known.values() if row.agent_id == agent_id]
        endings.end_of_process(tx, own)
    ids = _write(tx, agent_id, fresh)
    changes = (
        board_history.changes(ids[public_id], known.get(public_id), report, agent_id)
        for public_id, report in fresh.items()
    )
    board_history.record(tx, [one for happened in changes for one in happened])
    for public_id in sorted(duplicates):
        _stop_duplicate(tx, known[public_id])
    standing = {row.public_id: row for row in tx.execute(_STANDING, {"ids": list(named)})}
    return RegisterAnswer(boards=[_registered(standing[public_id]) for public_id in named])


def _check_size(reports: Sequence[BoardReport]) -> None:
    counts = [len(first_points(r)) * sum(len(engine.precisions) for engine in r.engines) for r in reports]
    if sum(counts) > MAX_OFFERED:
        raise InvalidRequest(
            f"the boards offer {sum(counts)} platforms; the limit is {MAX_OFFERED}", code="too_large", field="boards"
        )


_LOCK_BOARDS = text("""
    SELECT b.*, a.last_heard_at, (SELECT g.name FROM generations g WHERE g.id = b.generation_id) AS generation
    FROM boards b JOIN agents a ON a.id = b.agent_id
    WHERE b.public_id = ANY(:ids) OR b.agent_id = :agent ORDER BY b.id FOR NO KEY UPDATE OF b
""")
_STANDING = text("SELECT public_id, state, health, reason FROM boards WHERE public_id = ANY(:ids)")


def _registered(row: Row[Any]) -> RegisteredBoard:
    return RegisteredBoard(board_id=row.public_id, state=row.state, health=row.health, reason=row.reason)


def _set_offline(tx: Transaction, agent_id: str, rows: Sequence[Row[Any]]) -> None:
    """Held boards that an agent no longer drives. Their leases end at once: what was running pays, if anything was."""
    ids = [row.id for row in rows]
    endings.end_of_lost_boards(tx, ids)
    gone = [row.id for row in rows if row.state != BoardState.OFFLINE]
    tx.execute(_OFFLINE, {"ids": gone})
    author, reason = board_history.agent_author(agent_id), "its agent no longer drives it"
    board_history.record(tx, [Happened(id_, BoardEventKind.OFFLINE, author, reason=reason) for id_ in gone])


_OFFLINE = text("""
    UPDATE boards SET state = 'offline', cooling_until = NULL WHERE id = ANY(CAST(:ids AS int[])) AND state <> 'offline'
""")


def _stop_duplicate(tx: Transaction, row: Row[Any]) -> None:
    """The same serial on two live agents: nobody can say which is which, so both stop."""
    if Health(row.health) in (*USABLE_HEALTH, Health.QUARANTINED):
        _change_health(tx, row, Health.MAINTENANCE, DUPLICATE, author=board_history.FARM)
    tx.after_commit(Nudge(channel=agent_channel(row.agent_id)))


def _write(tx: Transaction, agent_id: str, reports: dict[str, BoardReport]) -> dict[str, int]:
    """Write the boards and what they offer; returns their rows' ids."""
    if not reports:
        return {}
    rows = [_columns(tx, agent_id, public_id, report) for public_id, report in sorted(reports.items())]
    statement = insert(boards)
    kept = {"public_id", "state", "health", "registered_at"}
    changes = {name: statement.excluded[name] for name in rows[0] if name not in kept}
    tx.execute(statement.on_conflict_do_update(index_elements=["public_id"], set_=changes), rows)
    ids = {row.public_id: row.id for row in tx.execute(_IDS, {"ids": list(reports)})}
    _write_generations(tx, {ids[public_id]: report.generation for public_id, report in reports.items()})
    _write_platforms(tx, {ids[public_id]: report for public_id, report in reports.items()})
    tx.execute(_TO_IDLE, {"ids": list(ids.values())})
    for public_id in reports:
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(public_id,)))
    return ids


_IDS = text("SELECT public_id, id FROM boards WHERE public_id = ANY(:ids)")
_TO_IDLE = text("""
    UPDATE boards b SET cooling_until = NULL, state = CASE WHEN EXISTS (
        SELECT FROM leases l WHERE l.board_id = b.id AND l.ended_at IS NULL) THEN 'leased' ELSE 'idle' END
    WHERE b.id = ANY(CAST(:ids AS int[]))
""")


def _columns(tx: Transaction, agent_id: str, public_id: str, report: BoardReport) -> dict[str, Any]:
    return {
        "public_id": public_id,
        "agent_id": agent_id,
        "kind": report.kind,
        "serial": report.serial,
        "hardware_id": report.hardware_id,
        "board_model": report.board_model,
        "model_name": report.model_name,
        "facts": report.facts,
        "engines": [engine.model_dump(mode="json") for engine in report.engines],
        "clock_proof": clock_level(report.clock_proof),
        "ranges": [one.model_dump(mode="json") for one in report.ranges],
        "marks": report.marks,
        "gate_wait": None,  # its agent tells with the next poll
        "state": BoardState.OFFLINE,
        "health": Health.GOOD,
        "registered_at": tx.now,
    }


def _write_generations(tx: Transaction, names: dict[int, str]) -> None:
    rows = rows_json([{"board": board, "name": name} for board, name in sorted(names.items())])
    tx.execute(_NEW_GENERATIONS, {"rows": rows, "now": tx.now})
    tx.execute(_CURRENT_GENERATIONS, {"rows": rows})


_NEW_GENERATIONS = text("""
    INSERT INTO generations (board_id, name, created_at)
    SELECT x.board, x.name, :now FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board int, name text)
    ON CONFLICT DO NOTHING
""")
_CURRENT_GENERATIONS = text("""
    UPDATE boards b SET generation_id = g.id
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board int, name text)
        JOIN generations g ON g.board_id = x.board AND g.name = x.name
    WHERE b.id = x.board AND b.generation_id IS DISTINCT FROM g.id
""")


def _write_platforms(tx: Transaction, reports: dict[int, BoardReport]) -> None:
    offers = wanted_platforms.offers_of(tx, reports)
    ids = platforms.ensure(tx, [platform for offered in offers.values() for platform in offered])
    rows = [{"board": board, "platform": ids[p.key]} for board, offered in sorted(offers.items()) for p in offered]
    parameters = {"rows": rows_json(rows), "boards": list(reports)}
    tx.execute(_DROP_PLATFORMS, parameters)
    tx.execute(_ADD_PLATFORMS, parameters)


_DROP_PLATFORMS = text("""
    DELETE FROM board_platforms o WHERE o.board_id = ANY(CAST(:boards AS int[])) AND NOT EXISTS (
        SELECT FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board int, platform int)
        WHERE x.board = o.board_id AND x.platform = o.platform_id)
""")
_ADD_PLATFORMS = text("""
    INSERT INTO board_platforms (board_id, platform_id)
    SELECT DISTINCT x.board, x.platform FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board int, platform int)
    ON CONFLICT DO NOTHING
""")


def note_recovery(tx: Transaction, agent_id: str, report: RecoveryReport) -> None:
    """Keep what an agent did for a board of its own, once. Raises NotFound for one that it never registered.

    A board that is not put back is quarantined: it would measure as it was left, whoever drives it next. Once it is put
    back it is released, where that was all that was held against it.
    """
    salt = tx.execute(text("SELECT salt FROM farms WHERE id = 1")).scalar_one()
    parameters = {"id": board_id(salt, report.board), "agent": agent_id}
    row = tx.execute(_HELD_OF_AGENT, parameters).one_or_none()
    if row is None:
        raise NotFound("the agent never registered such a board")
    author, outcome = board_history.agent_author(agent_id), "failed" if report.detail else "done"
    happened = Happened(row.id, BoardEventKind.RECOVERY, author, report.step, outcome, report.detail, report.report_id)
    board_history.record(tx, [happened])
    if report.step == RecoveryStep.PUT_BACK and report.detail:
        quarantine(tx, row, f"{NOT_PUT_BACK}: {report.detail}")
    elif report.step == RecoveryStep.PUT_BACK and _is_held_for_that(tx, row.id):
        _change_health(tx, row, Health.GOOD, "it was put back", author=board_history.FARM)


def _is_held_for_that(tx: Transaction, number: int) -> bool:
    parameters = {"id": number, "why": NOT_PUT_BACK, "farm": board_history.FARM}
    return tx.execute(_NOT_PUT_BACK, parameters).first() is not None


_HELD_OF_AGENT = text("""
    SELECT * FROM boards WHERE public_id = :id AND agent_id = :agent FOR NO KEY UPDATE
""")
_NOT_PUT_BACK = text("""
    SELECT FROM boards b CROSS JOIN LATERAL (
        SELECT * FROM health_changes WHERE board_id = b.id ORDER BY id DESC LIMIT 1) h
    WHERE b.id = :id AND b.health = 'quarantined' AND h.from_health = 'good' AND h.author = :farm
        AND starts_with(h.reason, :why)
""")


def set_health(tx: Transaction, board: str, health: Health, reason: str, by: Caller) -> BoardView:
    """The lab's judgement of a board, with its reason and author. Raises NotFound, Conflict.

    A board taken out of use loses its lease at once; nobody pays for that.
    """
    row = tx.execute(select(boards).where(boards.c.public_id == board).with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise NotFound("there is no such board")
    if row.health != health:
        advance(HEALTH_TRANSITIONS, Health(row.health), health)
    _change_health(tx, row, health, reason, author=board_history.author_of(by))
    if health in USABLE_HEALTH:
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board,)))
    return get_board(tx, board, show_serial=True)


def suspect(tx: Transaction, row: Row[Any], reason: str) -> None:
    """The farm's own judgement of a held board, where the lab thinks it good. It goes on measuring."""
    if row.health == Health.GOOD:
        _change_health(tx, row, Health.SUSPECT, reason, author=board_history.FARM)


def quarantine(tx: Transaction, row: Row[Any], reason: str) -> None:
    """The farm's own judgement of a held board that is in use: it gets no more leases until a person releases it."""
    if Health(row.health) in USABLE_HEALTH:
        _change_health(tx, row, Health.QUARANTINED, reason, author=board_history.FARM)


def _change_health(tx: Transaction, row: Row[Any], health: Health, reason: str, *, author: str) -> None:
    tx.execute(
        _RECORD,
        {"id": row.id, "old": row.health, "new": health, "reason": reason, "author": author, "now": tx.now},
    )
    board: str = tx.execute(
        text("UPDATE boards SET health = :health, reason = :reason WHERE id = :id RETURNING public_id"),
        {"health": health, "reason": reason, "id": row.id},
    ).scalar_one()
    tx.after_commit(Nudge(channel=board_channel(board)))
    if health not in USABLE_HEALTH:
        endings.end_of_board(tx, row.id, "operator" if author != board_history.FARM else reason)


_RECORD = text("""
    INSERT INTO health_changes (board_id, from_health, to_health, reason, author, at)
    VALUES (:id, :old, :new, :reason, :author, :now)
""")


def list_boards(
    tx: Transaction,
    *,
    state: BoardState | None = None,
    health: Health | None = None,
    kind: str | None = None,
    board_model: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
    show_serial: bool = False,
) -> Page[BoardView]:
    """Boards in id order."""
    wanted = {"state": state, "health": health, "kind": kind, "board_model": board_model}
    statement = _BOARDS.where(*(boards.c[name] == value for name, value in wanted.items() if value is not None))
    if cursor:
        statement = statement.where(boards.c.id > cursors.decode("boards", cursor, int)[0])
    rows = tx.execute(statement.order_by(boards.c.id).limit(limit + 1)).all()
    return cursors.page(rows, limit, lambda r: _view(r, show_serial), lambda r: cursors.encode("boards", r.id))


def get_board(tx: Transaction, board: str, show_serial: bool = False) -> BoardView:
    """One board. Raises NotFound."""
    row = tx.execute(_BOARDS.where(boards.c.public_id == board)).one_or_none()
    if row is None:
        raise NotFound("there is no such board")
    return _view(row, show_serial)


_BOARDS = select(
    boards,
    text("(SELECT g.name FROM generations g WHERE g.id = boards.generation_id) AS generation"),
    text("(SELECT a.last_heard_at FROM agents a WHERE a.id = boards.agent_id) AS last_heard_at"),
    text(
        "ARRAY(SELECT p.key FROM board_platforms o JOIN platforms p ON p.id = o.platform_id"
        " WHERE o.board_id = boards.id ORDER BY p.key) AS platforms"
    ),
)


def _view(row: Any, show_serial: bool) -> BoardView:
    return BoardView(
        id=row.public_id,
        agent_id=row.agent_id,
        kind=row.kind,
        board_model=row.board_model,
        model_name=row.model_name,
        generation=row.generation or "",
        state=row.state,
        health=row.health,
        reason=row.reason,
        serial=row.serial if show_serial else None,
        facts={name: fact for name, fact in row.facts.items() if show_serial or name not in LAB_FACTS},
        engines=[EngineReport.model_validate(engine) for engine in row.engines],
        clock_proof=CLOCK_PROOFS[row.clock_proof],
        last_heard_at=row.last_heard_at,
        platforms=row.platforms,
        ranges=[OperatingRange.model_validate(one) for one in row.ranges],
        marks=row.marks,
    )


def drifted(tx: Transaction, agent_id: str, board_ids: Sequence[str], lease_tokens: Sequence[str] = ()) -> list[str]:
    """Those of an agent's boards, by their ids or by the leases at work on them, whose latest golden run drifted and
    that are to be looked at again.

    One that was quarantined for it, or has rebooted since, is not: a new run is due for that.
    """
    tokens = [lease_column(token) for token in lease_tokens]
    return list(tx.execute(_DRIFTED_NOW, {"agent": agent_id, "ids": list(board_ids), "tokens": tokens}).scalars())


HAS_DRIFTED: Final = f"""(
    b.health IN ('good', 'suspect') AND b.marks = '[]' AND coalesce((
        SELECT outcome = 'drifted' AND boot_id = coalesce(b.facts->>'{BOOT}', '') FROM golden_runs
        WHERE board_id = b.id ORDER BY wanted_at DESC LIMIT 1), false))"""
"""Of a board `b`: what `drifted` says of it."""
_DRIFTED_NOW = text(f"""
    SELECT b.public_id FROM boards b
    WHERE b.id IN (
            SELECT id FROM boards WHERE public_id = ANY(:ids)
            UNION SELECT board_id FROM leases WHERE token = ANY(CAST(:tokens AS uuid[])))
        AND b.agent_id = :agent AND {HAS_DRIFTED}
""")
