"""Results of bundles: each part is a lease of an air-gapped board that begins and ends within its import.

So results enter by the one way that all results have, `ingesting`: judged by the same rule, with the same evidence.
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from sqlalchemy import Row, text

from benchfarm_core.agent_protocol import PROTOCOL_VERSION, RegisterBoards, ReleaseRequest, ResultsRequest
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import USABLE_HEALTH, BoardReport, board_id
from benchfarm_core.bundles import BundleHead, BundleImported, BundleOrder, BundlePart, BundleResults, is_signed
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from benchfarm_core.matching import offered_platforms, with_meant_options, with_options
from benchfarm_core.measurements import MeasurementState, Timing
from benchfarm_core.planning import expected_s
from benchfarm_core.platforms import Platform
from benchfarm_core.values import find_unkept
from benchfarm_store import board_history, board_models, boards, ingesting, leases, measurements, platforms, specs
from benchfarm_store.board_history import Happened, author_of
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import lease_column, rows_json
from benchfarm_store.measurements import QueueKey
from benchfarm_store.tokens import Caller

NORMAL_PRIORITY: Final = 1
WITHIN: Final = timedelta(minutes=10)
"""Far above what an import takes: its lease ends with it."""


class _Opened(NamedTuple):
    """A part that belongs to a bundle of this farm, with what it says."""

    bundle: Row[Any]
    order: BundleOrder
    head: BundleHead
    part: BundlePart
    sha256: str


class _Place(NamedTuple):
    """Rows of the board, of its generation as the run had it, and of the platform that was measured."""

    agent_id: str
    board: Row[Any]
    generation_id: int
    platform_id: int


class _Wish(NamedTuple):
    """The measurement that a result is for, and whether it was wanted already."""

    measurement_id: int
    was_wanted: bool


def import_part(tx: Transaction, bundle_id: str, results: BundleResults, by: Caller) -> BundleImported:
    """Take in one part of a results file; the same part again changes nothing.

    Completes identical measurements that wait; what was done elsewhere meanwhile becomes a further repeat of it.
    Raises NotFound; InvalidRequest: `bundle_foreign`, `bundle_tampered`, `result_invalid`, `platform_impossible`;
    Conflict: `bundle_expired`, `bundle_differs`, and for a board that is out of use.
    """
    opened = _open(tx, bundle_id, results)
    known = tx.execute(_KNOWN, {**_names(opened)}).one_or_none()
    if known is not None:
        if known.sha256 != opened.sha256:
            raise Conflict("this part of the run was imported before, with other contents", code="bundle_differs")
        return BundleImported.model_validate({**known.answer, "repeated": True})
    if opened.bundle.expires_at <= tx.now:
        raise Conflict(
            f"the bundle was good until {opened.bundle.expires_at:%Y-%m-%d %H:%M} UTC", code="bundle_expired"
        )
    place = _place(tx, opened, by)
    lease_id, answer = _take_in(tx, opened, place, by)
    row = {"board": place.board.id, "lease": lease_id, "now": tx.now, "author": author_of(by)}
    document = answer.model_dump_json()
    tx.execute(_NOTE, {**_names(opened), **row, "sha256": opened.sha256, "answer": document})
    return answer


def _names(opened: _Opened) -> dict[str, Any]:
    return {"bundle": opened.bundle.id, "run": opened.head.run_id, "part": opened.part.number}


_KNOWN = text("""
    SELECT sha256, answer FROM bundle_parts WHERE bundle_id = :bundle AND run_id = :run AND part = :part
""")
_NOTE = text("""
    INSERT INTO bundle_parts (bundle_id, run_id, part, board_id, lease_id, imported_at, sha256, author, answer)
    VALUES (:bundle, :run, :part, :board, :lease, :now, :sha256, :author, CAST(:answer AS jsonb))
""")


def _open(tx: Transaction, bundle_id: str, results: BundleResults) -> _Opened:
    """Check whose a part is and that it came as it was signed. Two imports of one bundle wait for each other."""
    bundle = tx.execute(_HOLD, {"id": bundle_id}).one_or_none()
    if bundle is None:
        raise _unknown(tx, bundle_id, results)
    if not is_signed(bundle.key, results):
        raise _tampered("the signature does not fit: the results were damaged or changed on the way")
    try:
        head, part = BundleHead.model_validate_json(results.head), BundlePart.model_validate_json(results.part)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f"the results are not understood ({where}: {first['msg']})", code="result_invalid"
        ) from error
    if head.bundle_id != bundle_id or head.contents_sha256 != bundle.contents_sha256:
        raise _tampered("what measured is not what this bundle was packed to")
    if any("\\u0000" in said and find_unkept(json.loads(said)) for said in (results.head, results.part)):
        raise InvalidRequest("the results hold a NUL character", code="result_invalid")
    order = BundleOrder.model_validate({**json.loads(bundle.spec), "key": bundle.key})
    _check(order, head, part)
    return _Opened(bundle, order, head, part, results.sha256)


_HOLD = text("""
    SELECT id, key, contents_sha256, expires_at, spec::text AS spec FROM bundles WHERE public_id = :id
    FOR NO KEY UPDATE
""")


def _unknown(tx: Transaction, bundle_id: str, results: BundleResults) -> Exception:
    """No such bundle: of another farm, where the results say so."""
    own = tx.execute(text("SELECT name FROM farms WHERE id = 1")).scalar_one()
    try:
        head = json.loads(results.head)
    except ValueError:
        head = None
    farm = head.get("farm") if isinstance(head, dict) else None
    if isinstance(farm, str) and farm != own:
        detail = f"the farm {farm[:60]!r} made that bundle, and this is {own!r}: import it there"
        return InvalidRequest(detail, code="bundle_foreign", field="head")
    return NotFound(f"this farm never made a bundle {bundle_id[:40]}")


def _tampered(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="bundle_tampered", field="signature")


def _check(order: BundleOrder, head: BundleHead, part: BundlePart) -> None:
    """Raise InvalidRequest where a run says what the bundle never asked for."""
    platform, report = head.platform, head.report
    meant = (order.engine, order.options, order.precision, order.threads)
    ran = (platform.engine.name, platform.engine.options, platform.precision, platform.operating_point.threads)
    if ran != meant or report.kind != "air_gapped" or platform.board_model != report.board_model:
        raise _invalid("the results are of another platform than the bundle asked for")
    numbers = [result.measurement_id for result in part.results]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= {item.measurement_id for item in order.items}:
        raise _invalid("the results name measurements that the bundle does not hold, or one twice")
    if part.number >= head.parts:
        raise _invalid("the run has fewer parts")


def _invalid(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="result_invalid", field="results")


def _place(tx: Transaction, opened: _Opened, by: Caller) -> _Place:
    """The board, registered with the first part of a run, and what the run says it was: whatever it has become since.

    A run of a generation that the board had before, and has no more, is an old one: it registers nothing.
    """
    agent_id = _agent(tx, by)
    (report,) = board_models.as_merged(tx, [opened.head.report])
    salt = tx.execute(text("SELECT salt FROM farms WHERE id = 1")).scalar_one()
    public_id = board_id(salt, report)
    platform_id = _platform(tx, report, opened.head.platform)
    if _is_news(tx, opened, public_id):
        _register(tx, agent_id, opened)
        board = tx.execute(_HOLD_BOARD, {"board": public_id}).one()
        reason = f"air-gapped; bundle {opened.order.bundle_id} was imported by {author_of(by)}"[:300]
        author = board_history.agent_author(agent_id)
        board_history.record(tx, [Happened(board.id, BoardEventKind.OFFLINE, author, reason=reason)])
    board = tx.execute(_HOLD_BOARD, {"board": public_id}).one()
    if board.health not in USABLE_HEALTH:
        raise Conflict(f"board {public_id} is {board.health} ({board.reason}): nothing of it is taken in")
    generation_id = tx.execute(_GENERATION, {"board": board.id, "name": report.generation}).scalar_one()
    tx.execute(_OFFER, {"board": board.id, "generation": generation_id, "platform": platform_id})
    return _Place(board.agent_id, board, generation_id, platform_id)


def _is_news(tx: Transaction, opened: _Opened, public_id: str) -> bool:
    """Whether the first part of a run comes in, of a board that is as it was then or was never seen so."""
    if tx.execute(_OF_RUN, _names(opened)).first() is not None:
        return False
    names = {"board": public_id, "name": opened.head.report.generation}
    return tx.execute(_LEFT_BEHIND, names).first() is None


_LEFT_BEHIND = text("""
    SELECT 1 FROM boards b JOIN generations g ON g.board_id = b.id
    WHERE b.public_id = :board AND g.name = :name AND g.id <> b.generation_id
""")
_GENERATION = text("SELECT id FROM generations WHERE board_id = :board AND name = :name")
# of a board that is still as the run had it; an older one's offer is history
_OFFER = text("""
    INSERT INTO board_platforms (board_id, platform_id)
    SELECT id, :platform FROM boards WHERE id = :board AND generation_id = :generation
    ON CONFLICT DO NOTHING
""")
_OF_RUN = text("SELECT 1 FROM bundle_parts WHERE bundle_id = :bundle AND run_id = :run AND part <> :part LIMIT 1")
_HOLD_BOARD = text("""
    SELECT id, public_id, agent_id, health, reason FROM boards WHERE public_id = :board FOR NO KEY UPDATE
""")


def _agent(tx: Transaction, by: Caller) -> str:
    """The agent that stands for an account's air-gapped boards: nobody ever hears of it."""
    agent_id = f"a_airgapped{by.account_number}"
    tx.execute(_ADD_AGENT, {"id": agent_id, "account": by.account_number, "now": tx.now})
    return agent_id


_ADD_AGENT = text("""
    INSERT INTO agents (id, account_id, name, agent_version, created_at)
    VALUES (:id, :account, 'air-gapped boards', '', :now) ON CONFLICT DO NOTHING
""")


def _register(tx: Transaction, agent_id: str, opened: _Opened) -> None:
    request = RegisterBoards(
        protocol_version=PROTOCOL_VERSION, agent_version=opened.head.agent_version, boards=(opened.head.report,)
    )
    boards.register(tx, agent_id, request)


def _platform(tx: Transaction, report: BoardReport, ran: Platform) -> int:
    """The row of the platform that was measured, which the board as the run had it must offer."""
    platform = ran.model_copy(update={"board_model": report.board_model})
    told = next((one.options for one in report.engines if one.name == ran.engine.name and one.available), None)
    if platform.engine.options and told is not None:
        platform = with_meant_options(platform, told)
    is_offered = with_options(platform, {}).key in {one.key for one in offered_platforms(report)}
    if not is_offered or (platform.engine.options and told is None):
        raise InvalidRequest(f"the board does not offer {platform.key}", code="platform_impossible", field="head")
    return platforms.ensure(tx, [platform])[platform.key]


def _take_in(tx: Transaction, opened: _Opened, place: _Place, by: Caller) -> tuple[int, BundleImported]:
    """Ingest a part as the results of a lease, and end that; the board is away again afterwards."""
    protocol_id = specs.ensure_protocol(tx, opened.order.protocol)
    queue: QueueKey = (place.platform_id, protocol_id, by.account_number, NORMAL_PRIORITY)
    queue_id = measurements.ensure_queues(tx, [queue])[queue]
    wishes = _wishes(tx, opened, place, protocol_id, queue_id)
    ids = [wish.measurement_id for wish in wishes.values()]
    token, lease_id = _lease(tx, place, ids, queue_id)
    results = [
        result.model_copy(update={"measurement_id": wishes[result.measurement_id].measurement_id})
        for result in opened.part.results
    ]
    chunk = ResultsRequest(results=tuple(results), launches=opened.part.launches)
    ingesting.ingest(tx, place.agent_id, token, chunk, noisy_max=0)  # nobody there can measure again
    release = ReleaseRequest(reason="done", lease_wall_ms=opened.part.wall_ms)
    leases.release(tx, place.agent_id, token, release)
    done = set(tx.execute(_DONE, {"ids": ids}).scalars())
    measurements.drop_unwanted(tx, ids)
    tx.execute(_AWAY, {"board": place.board.id})
    return lease_id, _answer(opened, place, done, wishes)


_DONE = text("SELECT id FROM measurements WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'done'")
_AWAY = text("UPDATE boards SET state = 'offline', cooling_until = NULL WHERE id = :board AND state <> 'offline'")


def _answer(opened: _Opened, place: _Place, done: set[int], wishes: Mapping[int, _Wish]) -> BundleImported:
    head = opened.head
    return BundleImported(
        bundle_id=head.bundle_id,
        run_id=head.run_id,
        part=opened.part.number,
        repeated=False,
        board_id=place.board.public_id,
        platform=head.platform.key,
        results=len(done),
        completed=sum(wish.was_wanted and wish.measurement_id in done for wish in wishes.values()),
        failed=len(wishes) - len(done),
    )


def _wishes(tx: Transaction, opened: _Opened, place: _Place, protocol_id: int, queue_id: int) -> dict[int, _Wish]:
    """For each number of the part the measurement that it is: the first that waits, else a new repeat; all held."""
    items = {item.measurement_id: item for item in opened.order.items}
    wanted = [items[result.measurement_id] for result in opened.part.results]
    rows = specs.ensure_workloads(tx, [specs.Resolved(item.workload, None) for item in wanted])
    often = Counter(rows)
    known = _known_repeats(tx, list(often), place.platform_id, protocol_id)
    found: dict[int, list[_Wish]] = {w: [] for w in often}
    for w, row in known.items():
        found[w] += [_Wish(id_, True) for id_ in row.waits[: often[w]]]
    seconds = expected_s(opened.order.protocol, None, None)
    new = [
        {"w": w, "p": place.platform_id, "r": (known[w].next if w in known else 0) + n, "q": queue_id, "s": seconds}
        for w in often
        for n in range(often[w] - len(found[w]))
    ]
    made = measurements.add_wanted(tx, new, protocol_id=protocol_id, timing=Timing.ALONE, clock_need=0) if new else {}
    for (w, _, _), id_ in sorted(made.items()):
        found[w].append(_Wish(id_, False))
    if len(made) < len(new):
        raise Unavailable("somebody else made one of these measurements just now: import again")
    _still_waiting(tx, [wish for wishes in found.values() for wish in wishes])
    return {item.measurement_id: found[row].pop(0) for item, row in zip(wanted, rows, strict=True)}


def _known_repeats(tx: Transaction, workloads: Sequence[int], platform: int, protocol: int) -> dict[int, Row[Any]]:
    """By workload: the number of the next repeat, and the first measurement that waits without a proof of its clock."""
    names = {"platform": platform, "protocol": protocol, "timing": Timing.ALONE}
    return {row.workload_id: row for row in tx.execute(_REPEATS, {"workloads": list(workloads), **names})}


_REPEATS = text("""
    SELECT workload_id, max(repeat_no) + 1 AS next,
        coalesce(array_agg(id ORDER BY repeat_no) FILTER (WHERE state = 'wanted' AND clock_need = 0), '{}') AS waits
    FROM measurements WHERE workload_id = ANY(CAST(:workloads AS bigint[])) AND platform_id = :platform
        AND protocol_id = :protocol AND timing = :timing GROUP BY workload_id
""")


def _still_waiting(tx: Transaction, wishes: Iterable[_Wish]) -> None:
    ids = sorted(wish.measurement_id for wish in wishes)
    held = tx.execute(_HOLD_WANTED, {"ids": ids}).scalars().all()
    if len(held) < len(ids):
        raise Unavailable("a board took one of these measurements just now: import again")


_HOLD_WANTED = text(f"""
    SELECT id FROM measurements WHERE id = ANY(CAST(:ids AS bigint[])) AND state = '{MeasurementState.WANTED}'
    ORDER BY id FOR NO KEY UPDATE
""")


def _lease(tx: Transaction, place: _Place, ids: Sequence[int], queue_id: int) -> tuple[str, int]:
    """An accepted lease of the board on these measurements: its token and its row. Its queue is the importer's."""
    token = "l_" + secrets.token_hex(16)
    parameters = {
        "token": lease_column(token),
        "board": place.board.id,
        "agent": place.agent_id,
        "generation": place.generation_id,
        "now": tx.now,
        "ends": tx.now + WITHIN,
        "rows": rows_json([{"id": id_, "position": position} for position, id_ in enumerate(ids)]),
        "queue": queue_id,
    }
    lease_id = tx.execute(_ADD_LEASE, parameters).scalar_one()
    tx.execute(_ADD_ITEMS, {**parameters, "lease": lease_id})
    tx.execute(_LEASED, {"ids": list(ids), "lease": lease_id})
    return token, int(lease_id)


_ADD_LEASE = text("""
    INSERT INTO leases (token, board_id, agent_id, generation_id, queue_id, offered_at, accepted_at, expires_at)
    VALUES (CAST(:token AS uuid), :board, :agent, :generation, :queue, :now, :now, :ends) RETURNING id
""")
_ADD_ITEMS = text("""
    INSERT INTO lease_items (lease_id, measurement_id, position, started_at)
    SELECT :lease, id, position, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id bigint, position smallint)
""")
_LEASED = text("""
    UPDATE measurements SET state = 'leased', lease_id = :lease
    WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'wanted'
""")
