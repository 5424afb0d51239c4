"""Adaptations: asked for, moved from state to state, cancelled, shown. What is measured for them: `adaptation_items`.

All that a step knows stands here, so that any process may take the next one. Whoever computes for seconds claims the
adaptation for a while; whoever writes holds its row and finds out whether it still stands as he read it.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.access import sees_all_accounts
from benchfarm_core.adapting import (
    ADAPTATION_TRANSITIONS,
    LAPSE_S,
    AdaptationRequest,
    AdaptationState,
    AdaptationsWanted,
    AdaptationView,
    AdaptedPredictor,
    CurvePoint,
    broken_off,
)
from benchfarm_core.boards import refuse_single_use
from benchfarm_core.correctness import is_ungated
from benchfarm_core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.messages import Task, TaskMessage, TrainingWork
from benchfarm_core.platforms import Platform, Precision, parse_platform_key
from benchfarm_core.states import advance, final_states
from benchfarm_core.workloads import ArchitectureRequest, workload_id
from benchfarm_store import accounts, adaptation_budgets, adaptation_items, cursors, model_merges, platforms
from benchfarm_store.board_history import account_of, author_of
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import adaptation_column
from benchfarm_store.tables import adaptation_rounds, adaptations
from benchfarm_store.tokens import Caller
from benchfarm_workloads.spaces import space

ANY_ADAPTATION: Final = AdaptationsWanted()
FINAL: Final = final_states(ADAPTATION_TRANSITIONS)
CLAIM_S: Final = 120.0
"""Who claimed an adaptation and died holds it up for so long."""
MAX_ATTEMPTS: Final = 3
"""Of one step: what was begun so often and never came to its end fails for a reason that nobody foresaw."""
MAX_WOKEN: Final = 100
"""Adaptations that one sweep asks for; the next sweep takes the others."""
COUNT_EVERY_S: Final = 30.0
"""So often it is counted how long boards were waited for."""
GAP_S: Final = 120.0
"""Sweeps that are farther apart say that the farm was not there."""


class Adaptation(NamedTuple):
    """What a step needs to know; `platform_id` and `account_id` are rows.

    `claimed_until` is the claim's own: whoever has another one has lost it. `attempts`: steps begun since the last that
    brought it on, this one among them. `waited_s`: for boards that measured nothing of it, while the farm ran.
    """

    id: str
    platform_id: int
    account_id: int
    platform: Platform
    request: AdaptationRequest
    state: AdaptationState
    round: int
    changed_at: datetime
    donors: tuple[str, ...]
    waited_s: float
    claimed_until: datetime | None
    attempts: int


def start(tx: Transaction, platform: str, request: AdaptationRequest, *, by: Caller) -> AdaptationView:
    """Begin one. The caller's account is charged with the time that it takes of boards.

    Raises:
        NotFound: there is no such platform.
        InvalidRequest: `space_unknown`, `architecture_out_of_range`, `platform_single_use` where nothing may teach,
            `adaptation_impossible` where nothing can be learnt, or as a job there.
        Conflict: `adaptation_running` while another one of the platform is under way.
        QuotaExceeded: the account has too much under way, or waiting, with what would judge here.
    """
    model_merges.hold(tx)
    found = _platform(tx, platform, by)
    _check(request, parse_platform_key(found.key))
    request = _each_once(request)
    accounts.check_room(tx, by.account_number, request.judged_by, "adaptation")
    values = {
        "platform_id": found.id,
        "account_id": by.account_number,
        "leases_after": tx.execute(_LAST_LEASE, {"platform": found.id}).scalar_one(),
        "created_at": tx.now,
        "changed_at": tx.now,
        "author": author_of(by),
        "state": AdaptationState.QUEUED,
        "request": request.model_dump(mode="json"),
    }
    statement = insert(adaptations).values(**values).on_conflict_do_nothing().returning(adaptations.c.id)
    adaptation_id = tx.execute(statement).scalar_one_or_none()
    if adaptation_id is None:
        raise Conflict(f"an adaptation of {found.key} is under way; cancel it or wait", code="adaptation_running")
    _ask(tx, adaptation_id)
    return get_adaptation(tx, adaptation_id)


# what is joined may be measured already
_LAST_LEASE = text("""
    SELECT coalesce(
        (SELECT min(l.id) - 1 FROM leases l JOIN queues q ON q.id = l.queue_id
            WHERE l.ended_at IS NULL AND q.platform_id = :platform),
        (SELECT max(id) FROM leases), 0)
""")


def _platform(tx: Transaction, name: str, by: Caller) -> platforms.Found:
    try:
        with platforms.named_in("platform"):
            (found,) = platforms.make_all(tx, [name], by.account_number)
    except InvalidRequest as error:
        if error.code != "platform_unknown":
            raise
        raise NotFound(error.detail) from error
    return found


def _check(request: AdaptationRequest, platform: Platform) -> None:
    refuse_single_use(platform.key)
    why = None
    if platform.precision == Precision.AS_GIVEN:
        why = "nothing that the farm generates runs as given"
    elif is_ungated(platform.engine.name):
        why = f"{platform.engine.name} has no normalised times"
    if why is not None:
        raise InvalidRequest(f"nothing can be learnt on {platform.key}: {why}", code="adaptation_impossible")
    for field, names in (("spaces", request.spaces), ("unseen_spaces", request.unseen_spaces)):
        for index, name in enumerate(names):
            try:
                space(name)
            except InvalidRequest as error:
                raise InvalidRequest(error.detail, code=error.code, field=f"{field}.{index}") from error
        if len(set(names)) < len(names):
            raise InvalidRequest("a search space is named twice", field=field)
    if both := set(request.spaces).intersection(request.unseen_spaces):
        detail = f"what is unseen is not learnt from: {', '.join(sorted(both))} cannot be both"
        raise InvalidRequest(detail, field="unseen_spaces")
    if request.architectures and request.unseen_spaces:
        detail = "architectures that are given judge alone: none of another space would be declared"
        raise InvalidRequest(detail, field="unseen_spaces")
    for index, one in enumerate(request.architectures):
        _check_given(one, request.spaces, f"architectures.{index}")


def _check_given(given: ArchitectureRequest, spaces: Sequence[str], field: str) -> None:
    if given.space not in spaces:
        detail = f"{field} is of {given.space[:40]!r}, which is none of the spaces that are learnt from: name it there"
        raise InvalidRequest(detail, field=f"{field}.space")
    try:
        space(given.space).validate(given.genes)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {error.detail}", code=error.code, field=f"{field}.{error.field}") from error


def _each_once(request: AdaptationRequest) -> AdaptationRequest:
    """The request with each of its architectures in the first of its places: winners of several searches are often the
    same, and one that stands where another judges would teach nothing and judge itself."""
    given: dict[str, ArchitectureRequest] = {}
    for one in request.architectures:
        given.setdefault(workload_id(space(one.space).workload(one.genes)), one)
    return request.model_copy(update={"architectures": tuple(given.values())})


def _ask(tx: Transaction, adaptation_id: str) -> None:
    """Have the next step taken after the commit."""
    tx.after_commit(TaskMessage(task=Task.TRAIN, args=(TrainingWork.ADAPT, adaptation_id)))


def wake(tx: Transaction) -> int:
    """Ask again for the next steps that are due and that nobody takes; how many. For the sweep.

    Before that, what does not fit into budgets any more is given up, and it is counted what ended leases took and how
    long boards were waited for: between two sweeps at most `GAP_S`, so that a farm that was switched off waited for
    nobody.
    """
    adaptation_budgets.keep(tx)
    adaptation_budgets.count_ended(tx)
    tx.execute(_AWAIT, {"now": tx.now, "every_s": COUNT_EVERY_S, "gap_s": GAP_S})
    found = tx.execute(_DUE, {"now": tx.now, "limit": MAX_WOKEN}).scalars().all()
    for adaptation_id in found:
        _ask(tx, adaptation_id)
    return len(found)


# a count that has changed since the last look says that boards do measure
_AWAIT = text("""
    UPDATE adaptations a SET looked_at = :now, awaited = x.awaited,
        waited_s = CASE WHEN x.awaited > 0 AND x.awaited = a.awaited
            THEN a.waited_s + least(extract(epoch FROM :now - a.looked_at), :gap_s) ELSE 0 END
    FROM (
        SELECT d.id, (
            SELECT count(*) FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
            WHERE i.adaptation_id = d.id AND m.state IN ('wanted', 'leased') AND NOT i.given_up
                AND (i.purpose = 'holdout') = (d.state = 'judging')) AS awaited
        FROM adaptations d
        WHERE d.finished_at IS NULL AND d.state IN ('probing', 'measuring', 'judging')
            AND (d.looked_at IS NULL OR d.looked_at <= :now - make_interval(secs => :every_s))
        ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED) x
    WHERE a.id = x.id
""")
_DUE = text(f"""
    SELECT a.id::text FROM adaptations a
    WHERE a.finished_at IS NULL AND (a.claimed_until IS NULL OR a.claimed_until <= :now)
        AND (a.state IN ('queued', 'training') OR a.waited_s > {LAPSE_S} OR NOT EXISTS (
            SELECT FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
            WHERE i.adaptation_id = a.id AND m.state IN ('wanted', 'leased') AND NOT i.given_up
                AND (i.purpose = 'holdout') = (a.state = 'judging')))
    ORDER BY a.id LIMIT :limit
""")


def is_any_due(tx: Transaction) -> bool:
    """Whether the next step of any is due and nobody takes it: what can wait longer lets it pass."""
    return tx.execute(_DUE, {"now": tx.now, "limit": 1}).first() is not None


def claim(tx: Transaction, adaptation_id: str, for_s: float = CLAIM_S) -> Adaptation | None:
    """Take the next step of an adaptation for oneself; None when it has ended or somebody else takes it.

    Raises NotFound.
    """
    parameters = {"id": adaptation_column(adaptation_id), "now": tx.now, "for_s": for_s}
    row = tx.execute(_CLAIM, parameters).one_or_none()
    if row is not None:
        return _adaptation(row)
    _row(tx, adaptation_id)
    return None


_CLAIM = text("""
    UPDATE adaptations a SET claimed_until = :now + make_interval(secs => :for_s), attempts = a.attempts + 1
    FROM platforms p
    WHERE a.id = CAST(:id AS uuid) AND p.id = a.platform_id AND a.finished_at IS NULL
        AND (a.claimed_until IS NULL OR a.claimed_until <= :now)
    RETURNING a.id::text AS id, a.platform_id, a.account_id, p.spec, a.request, a.state, a.round, a.changed_at,
        a.donors, a.waited_s, a.claimed_until, a.attempts
""")


def renew(tx: Transaction, adaptation: Adaptation, for_s: float = CLAIM_S) -> Adaptation | None:
    """Go on holding a claim: the work takes longer. None where it ran out and is somebody else's, or nobody's."""
    parameters = {"id": adaptation.id, "mine": adaptation.claimed_until, "now": tx.now, "for_s": for_s}
    row = tx.execute(_RENEW, parameters).one_or_none()
    return None if row is None else adaptation._replace(claimed_until=row.claimed_until)


_RENEW = text("""
    UPDATE adaptations SET claimed_until = :now + make_interval(secs => :for_s)
    WHERE id = CAST(:id AS uuid) AND finished_at IS NULL AND claimed_until = :mine RETURNING claimed_until
""")


def release(tx: Transaction, adaptation: Adaptation) -> None:
    """Give a claim back: nothing can be done now, which is no attempt. Somebody else's claim stays."""
    tx.execute(_RELEASE, {"id": adaptation.id, "mine": adaptation.claimed_until})


_RELEASE = text("""
    UPDATE adaptations SET claimed_until = NULL, attempts = greatest(0, attempts - 1)
    WHERE id = CAST(:id AS uuid) AND finished_at IS NULL AND claimed_until = :mine
""")


def rests(tx: Transaction, adaptation: Adaptation, wait_s: float, *, is_measuring: bool) -> bool:
    """Whether training waits on for a host that measures: for `wait_s` in one go at most, from when it was first ready.

    A quiet moment begins the time anew.
    """
    since = tx.execute(_REST, {"id": adaptation.id, "now": tx.now, "measuring": is_measuring}).scalar_one()
    return since is not None and (tx.now - since).total_seconds() < wait_s


_REST = text("""
    UPDATE adaptations SET waiting_since = CASE WHEN CAST(:measuring AS boolean) THEN coalesce(waiting_since, :now) END
    WHERE id = CAST(:id AS uuid) RETURNING waiting_since
""")


def hold(tx: Transaction, adaptation: Adaptation) -> bool:
    """Hold its row to the end of the transaction; whether it still stands as it was claimed."""
    row = tx.execute(_HOLD, {"id": adaptation.id}).one()
    return bool(row.state == adaptation.state and row.round == adaptation.round and row.finished_at is None)


_HOLD = text("""
    SELECT state, round, finished_at FROM adaptations WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE
""")


def worked(tx: Transaction, adaptation: Adaptation, train_s: float) -> None:
    """Count seconds of the worker's processor."""
    tx.execute(_WORKED, {"id": adaptation.id, "train_s": train_s})


_WORKED = text("UPDATE adaptations SET train_s = train_s + :train_s WHERE id = CAST(:id AS uuid)")


def move(
    tx: Transaction, adaptation: Adaptation, to: AdaptationState, reason: str = "", *, round_no: int | None = None
) -> None:
    """Bring a held adaptation to another state, give its claim back and ask for the next step. Raises Conflict.

    One that is cancelled or fails says with its reason what of it was published by then.
    """
    state = advance(ADAPTATION_TRANSITIONS, adaptation.state, to)
    number = adaptation.round if round_no is None else round_no
    parameters = {"id": adaptation.id, "state": state, "reason": reason[:500], "now": tx.now, "round": number}
    if state not in FINAL:
        tx.execute(_MOVE, parameters)
        _ask(tx, adaptation.id)
        return
    if state != AdaptationState.SUCCEEDED:
        parameters["reason"] = broken_off(reason, _made(_row(tx, adaptation.id)))[:500]
    tx.execute(_END, {**parameters, **adaptation_budgets.spent(tx, adaptation.id)._asdict()})
    adaptation_items.drop(tx, adaptation.id)


_MOVE = text("""
    UPDATE adaptations SET state = :state, reason = :reason, round = :round, changed_at = :now, claimed_until = NULL,
        attempts = 0, waited_s = 0, waiting_since = NULL, looked_at = NULL, awaited = 0
    WHERE id = CAST(:id AS uuid)
""")
_END = text("""
    UPDATE adaptations SET state = :state, reason = :reason, round = :round, changed_at = :now, claimed_until = NULL,
        finished_at = :now, board_s = :board_s, holdout_board_s = :holdout_board_s, known_board_s = :known_board_s
    WHERE id = CAST(:id AS uuid)
""")


def keep_round(tx: Transaction, adaptation: Adaptation, point: CurvePoint, donors: Sequence[str]) -> None:
    """Keep what was known after a round, and from which platforms it started; the same round again changes nothing."""
    values = {"adaptation_id": adaptation.id, "round": point.round, "point": point.model_dump(mode="json")}
    tx.execute(insert(adaptation_rounds).values(**values).on_conflict_do_nothing())
    tx.execute(_DONORS, {"id": adaptation.id, "donors": json.dumps(list(donors))})


_DONORS = text("UPDATE adaptations SET donors = CAST(:donors AS jsonb) WHERE id = CAST(:id AS uuid)")


def keep_predictor(tx: Transaction, adaptation: Adaptation, found: AdaptedPredictor) -> None:
    """Keep what became of one subject; told again it takes the earlier one's place."""
    kept = [*(one for one in _made(_row(tx, adaptation.id)) if one.subject != found.subject), found]
    document = "[" + ",".join(one.model_dump_json() for one in kept) + "]"
    tx.execute(_PREDICTORS, {"id": adaptation.id, "predictors": document})


_PREDICTORS = text("""
    UPDATE adaptations SET predictors = CAST(:predictors AS jsonb), attempts = 0 WHERE id = CAST(:id AS uuid)
""")


def curve(tx: Transaction, adaptation_id: str) -> list[CurvePoint]:
    """What was known after each round, in order."""
    rows = tx.execute(_CURVE, {"ids": [adaptation_id]})
    return [CurvePoint.model_validate(row.point) for row in rows]


_CURVE = text("""
    SELECT adaptation_id::text AS id, point FROM adaptation_rounds
    WHERE adaptation_id = ANY(CAST(:ids AS uuid[])) ORDER BY adaptation_id, round
""")


def cancel(tx: Transaction, adaptation_id: str, *, by: Caller) -> AdaptationView:
    """End one; what waits for it alone is not measured any more, what was measured stays. Twice changes nothing.

    Raises:
        NotFound: there is none.
        Forbidden: another account's, and the caller looks after no boards.
        Conflict: `adaptation_finished`.
    """
    row = tx.execute(_HELD, {"id": adaptation_column(adaptation_id)}).one_or_none()
    if row is None:
        raise NotFound("there is no such adaptation")
    if row.account_id != by.account_number and not sees_all_accounts(by.role):
        raise Forbidden("another account asked for this adaptation")
    if row.state != AdaptationState.CANCELLED:
        if row.finished_at is not None:
            raise Conflict("the adaptation has ended already", code="adaptation_finished")
        move(tx, _adaptation(row), AdaptationState.CANCELLED, f"cancelled by {by.account}")
    return get_adaptation(tx, adaptation_id)


_COLUMNS: Final = """
    SELECT a.id::text AS id, a.platform_id, a.account_id, p.spec, p.key, p.public_id, a.request, a.state, a.round,
        a.changed_at, a.donors, a.waited_s, a.claimed_until, a.attempts, a.reason, a.author, a.predictors, a.created_at,
        a.finished_at, a.board_s, a.holdout_board_s, a.known_board_s, a.train_s
    FROM adaptations a JOIN platforms p ON p.id = a.platform_id
"""
_ONE = text(f"{_COLUMNS} WHERE a.id = CAST(:id AS uuid)")
_HELD = text(f"{_COLUMNS} WHERE a.id = CAST(:id AS uuid) FOR NO KEY UPDATE OF a")
_LIST = text(f"""
    {_COLUMNS} WHERE (CAST(:platform AS int) IS NULL OR a.platform_id = :platform)
        AND (CAST(:state AS text) IS NULL OR a.state = :state)
        AND (CAST(:last AS uuid) IS NULL OR a.id < CAST(:last AS uuid))
    ORDER BY a.id DESC LIMIT :limit
""")


def _row(tx: Transaction, adaptation_id: str) -> Row[Any]:
    row = tx.execute(_ONE, {"id": adaptation_column(adaptation_id)}).one_or_none()
    if row is None:
        raise NotFound("there is no such adaptation")
    return row


def _adaptation(row: Row[Any]) -> Adaptation:
    return Adaptation(
        id=row.id,
        platform_id=row.platform_id,
        account_id=row.account_id,
        platform=Platform.model_validate(row.spec),
        request=AdaptationRequest.model_validate(row.request),
        state=AdaptationState(row.state),
        round=row.round,
        changed_at=row.changed_at,
        donors=tuple(row.donors),
        waited_s=row.waited_s,
        claimed_until=row.claimed_until,
        attempts=row.attempts,
    )


def _made(row: Row[Any]) -> list[AdaptedPredictor]:
    return [AdaptedPredictor.model_validate(one) for one in row.predictors]


def get_adaptation(tx: Transaction, adaptation_id: str) -> AdaptationView:
    """One adaptation with its whole story. Raises NotFound."""
    return _views(tx, [_row(tx, adaptation_id)])[0]


def list_adaptations(
    tx: Transaction, wanted: AdaptationsWanted = ANY_ADAPTATION, *, cursor: str | None = None, limit: int = 50
) -> Page[AdaptationView]:
    """Adaptations, newest first. Raises InvalidRequest for a platform that is none."""
    parameters = {
        "platform": None if wanted.platform is None else platforms.find(tx, wanted.platform).id,
        "state": wanted.state,
        "last": _cursor(cursor) if cursor else None,
        "limit": limit + 1,
    }
    rows = tx.execute(_LIST, parameters).all()
    views = {view.id: view for view in _views(tx, rows[:limit])}
    return cursors.page(rows, limit, lambda row: views[row.id], lambda row: cursors.encode("adaptations", row.id))


def _cursor(cursor: str) -> str:
    try:
        return adaptation_column(cursors.decode("adaptations", cursor, str)[0])
    except NotFound as error:
        raise InvalidRequest("the cursor names no adaptation", code="cursor_invalid", field="cursor") from error


def _views(tx: Transaction, rows: Sequence[Row[Any]]) -> list[AdaptationView]:
    points: Mapping[str, list[CurvePoint]] = {row.id: [] for row in rows}
    for found in tx.execute(_CURVE, {"ids": list(points)}):
        points[found.id].append(CurvePoint.model_validate(found.point))
    return [_view(tx, row, points[row.id]) for row in rows]


def _view(tx: Transaction, row: Row[Any], points: list[CurvePoint]) -> AdaptationView:
    ended = adaptation_budgets.Spent(row.board_s, row.holdout_board_s, row.known_board_s)
    spent = adaptation_budgets.spent(tx, row.id) if row.finished_at is None else ended
    latest = [point.unseen for point in points if point.unseen is not None]
    return AdaptationView(
        id=row.id,
        platform_id=row.public_id,
        platform=row.key,
        state=AdaptationState(row.state),
        reason=row.reason,
        request=AdaptationRequest.model_validate(row.request),
        author=account_of(row.author),
        round=row.round,
        board_s=spent.board_s,
        holdout_board_s=spent.holdout_board_s,
        known_board_s=spent.known_board_s,
        train_s=row.train_s,
        measured=adaptation_items.measured(tx, row.id),
        expected=latest[-1] if latest else None,
        donors=list(row.donors),
        curve=points,
        predictors=_made(row),
        created_at=row.created_at,
        changed_at=row.changed_at,
        finished_at=row.finished_at,
    )
