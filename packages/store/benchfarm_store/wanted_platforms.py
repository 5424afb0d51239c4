"""Platforms that no registration names: made when first wanted, offered by the boards that can be them.

A board is registered at a few operating points and with its engines' default options. A key that names another point,
or other options, means the same boards, engine and precision; what the boards say of their ranges and engines decides
whether it can exist.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.boards import BoardReport, EngineReport
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import ItemState
from benchfarm_core.matching import offered_platforms, with_meant_options, with_options
from benchfarm_core.operating_ranges import OperatingRange, accepts, impossible_point
from benchfarm_core.platforms import EngineSpec, Platform, parse_platform_key
from benchfarm_store import progress
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.tables import board_platforms, platforms

MAX_WANTED: Final = 2000
"""Platforms that one account can have made: each was wanted by it first."""


class Meant(NamedTuple):
    """What a key means: the platform, a row whose boards stand for its own, and the boards that can be it."""

    platform: Platform
    base_id: int
    boards: list[int]


def meant(tx: Transaction, names: Iterable[str], *, hold: bool = False, lenient: bool = False) -> dict[str, Meant]:
    """The platforms that some texts mean as keys, by text.

    Left out is what is no key, and what no board offers that tells its options or ranges; with `lenient` also what
    would raise. With `hold` the boards stay as they are to the end of the transaction. Raises InvalidRequest:
    `engine_option_unknown`, `engine_option_invalid` as the first board that could otherwise serve it says;
    `engine_option_repeated`; `operating_point_impossible`.
    """
    wanted = {name: platform for name in names if (platform := _parsed(name)) is not None}
    if not wanted:
        return {}
    rows: dict[str, list[Row[Any]]] = defaultdict(list)
    groups = {_group(platform): platform for platform in wanted.values()}
    parameters = {
        "groups": rows_json([_columns(name, platform) for name, platform in sorted(groups.items())]),
        "bases": sorted({_base(platform).key for platform in wanted.values()}),
    }
    for row in tx.execute(_HELD if hold else _SEEN, parameters):
        rows[row.name].append(row)
    found: dict[str, Meant] = {}
    for name, platform in wanted.items():
        try:
            one = _first_meant(platform, rows[_group(platform)])
        except InvalidRequest:
            if not lenient:
                raise
            continue
        found |= {} if one is None else {name: one}
    return found


def _parsed(name: str) -> Platform | None:
    try:
        return parse_platform_key(name)
    except InvalidRequest as error:
        if error.code == "engine_option_repeated":
            raise
        return None


def _base(platform: Platform) -> Platform:
    """The same with its engine's default options."""
    return with_options(platform, {})


def _suffix(platform: Platform) -> str:
    """The end of the keys of all platforms that differ from a base in their operating point alone."""
    engine = EngineSpec(name=platform.engine.name, version=platform.engine.version)
    return f"/{engine.key}/{platform.precision}"


def _group(platform: Platform) -> str:
    return platform.board_model + _suffix(platform)


def _columns(name: str, platform: Platform) -> dict[str, str]:
    return {
        "name": name,
        "model": platform.board_model,
        "engine": platform.engine.name,
        "version": platform.engine.version,
        "suffix": _suffix(platform),
    }


# all at once and in one order: whoever registers boards holds several too
_SEEN_TEXT: Final = """
    SELECT x.name, b.id, b.ranges, e.report, o.base_id, coalesce(o.offered, '{}') AS offered
    FROM jsonb_to_recordset(CAST(:groups AS jsonb)) AS x(name text, model text, engine text, version text, suffix text)
    JOIN boards b ON b.board_model = x.model AND b.health <> 'retired'
    CROSS JOIN LATERAL (
        SELECT report FROM jsonb_array_elements(b.engines) AS report
        WHERE report->>'name' = x.engine AND report->>'version' = x.version AND report->>'available' = 'true' LIMIT 1) e
    CROSS JOIN LATERAL (
        SELECT min(p.id) AS base_id, jsonb_object_agg(p.key, p.id) FILTER (WHERE p.key = ANY(:bases)) AS offered
        FROM board_platforms s JOIN platforms p ON p.id = s.platform_id
        WHERE s.board_id = b.id AND right(p.key, length(x.suffix)) = x.suffix) o
    WHERE o.base_id IS NOT NULL ORDER BY b.id
"""
_SEEN = text(_SEEN_TEXT)
_HELD = text(f"{_SEEN_TEXT} FOR SHARE OF b")


def _first_meant(wanted: Platform, rows: Sequence[Row[Any]]) -> Meant | None:
    """What the boards that could serve a platform make of it; the first one's word counts."""
    found: Meant | None = None
    refusal: InvalidRequest | None = None
    elsewhere: dict[OperatingRange, None] = {}
    for row in rows:
        ranges = [OperatingRange.model_validate(one) for one in row.ranges]
        base_id = row.offered.get(_base(wanted).key)
        if base_id is None and not accepts(ranges, wanted.operating_point):
            elsewhere |= dict.fromkeys(ranges)
            continue
        try:
            platform = _as_told(wanted, EngineReport.model_validate(row.report))
        except InvalidRequest as error:
            refusal = refusal or error
            continue
        if platform is not None:
            found = found or Meant(platform, base_id or row.base_id, [])
            found.boards.extend([row.id] if platform.key == found.platform.key else [])
    if found is None and refusal is not None:
        raise refusal
    if found is None and elsewhere:
        raise impossible_point(wanted, elsewhere)
    return found


def _as_told(wanted: Platform, report: EngineReport) -> Platform | None:
    """The platform as an engine's own word on its options has it; None where it tells none and some are named."""
    if not wanted.engine.options:
        return wanted
    return None if report.options is None else with_meant_options(wanted, report.options)


def make(tx: Transaction, names: Iterable[str], account: int) -> None:
    """Make the platforms that some texts mean as keys, for an account, where nobody wanted them yet; offer them.

    Leaves out and raises as `meant` does; raises InvalidRequest (`too_large`) above `MAX_WANTED`.
    """
    own = {one.platform.key: one for one in meant(tx, names, hold=True).values()}
    ids = _make_rows(tx, [own[key].platform for key in sorted(own)], account)
    offers = [{"board_id": board, "platform_id": ids[key]} for key in sorted(own) for board in sorted(own[key].boards)]
    if offers:
        tx.execute(insert(board_platforms).on_conflict_do_nothing(), offers)


def _make_rows(tx: Transaction, wanted: Sequence[Platform], account: int) -> dict[str, int]:
    known = _row_ids(tx, wanted)
    fresh = [platform for platform in wanted if platform.key not in known]
    if not fresh:
        return known
    _check_room(tx, account, len(fresh))
    for platform in fresh:
        columns = {"public_id": platform.id, "key": platform.key, "spec": platform.model_dump(mode="json")}
        statement = insert(platforms).values(**columns, created_at=tx.now, wanted_by_id=account)
        tx.execute(statement.on_conflict_do_nothing())
    return known | _row_ids(tx, fresh)


def _row_ids(tx: Transaction, wanted: Sequence[Platform]) -> dict[str, int]:
    if not wanted:
        return {}
    keys = [platform.key for platform in wanted]
    found = tx.execute(select(platforms.c.key, platforms.c.id).where(platforms.c.key.in_(keys)))
    return {row.key: row.id for row in found}


def _check_room(tx: Transaction, account: int, fresh: int) -> None:
    made = tx.execute(_MADE, {"account": account}).scalar_one()
    if made + fresh > MAX_WANTED:
        raise InvalidRequest(
            f"the account was the first to want {made} platforms and names {fresh} new ones; the limit is {MAX_WANTED}",
            code="too_large",
            field="platforms",
        )


_MADE = text("SELECT count(*) FROM platforms WHERE wanted_by_id = :account")


def offers_of(tx: Transaction, reports: Mapping[int, BoardReport]) -> dict[int, list[Platform]]:
    """What each board offers, by the key of `reports`: its first operating points and engines, and of what was ever
    made for its model all that it can still be.

    Boards that say the same are looked at once. What a board is registered with is no longer somebody's own wish.
    """
    known: dict[str, list[Platform]] = defaultdict(list)
    wanted: set[str] = set()
    for row in tx.execute(_OF_MODELS, {"models": sorted({one.board_model for one in reports.values()})}):
        platform = Platform.model_validate(row.spec)
        known[platform.board_model].append(platform)
        wanted |= {platform.key} if row.wanted_by_id is not None else set()
    told = {"board_model", "operating_points", "ranges", "engines"}
    texts = {board: report.model_dump_json(include=told) for board, report in reports.items()}
    offers: dict[str, list[Platform]] = {}
    for board, report in reports.items():
        if texts[board] not in offers:
            offers[texts[board]] = _offer(report, known[report.board_model])
    first = wanted & {platform.key for report in reports.values() for platform in offered_platforms(report)}
    if first:
        tx.execute(_EVERYBODYS, {"keys": sorted(first)})
    return {board: offers[words] for board, words in texts.items()}


_EVERYBODYS = text("UPDATE platforms SET wanted_by_id = NULL WHERE key = ANY(:keys)")
_OF_MODELS = text("SELECT spec, wanted_by_id FROM platforms WHERE split_part(key, '/', 1) = ANY(:models) ORDER BY key")


def _offer(report: BoardReport, known: Sequence[Platform]) -> list[Platform]:
    offered = offered_platforms(report)
    keys = {platform.key for platform in offered}
    engines = {(one.name, one.version): one for one in report.engines if one.available}
    more = [one for one in known if one.key not in keys and _can_be(one, report, keys, engines)]
    return offered + more


def _can_be(
    platform: Platform, report: BoardReport, keys: set[str], engines: Mapping[tuple[str, str | None], EngineReport]
) -> bool:
    """Whether a board that offers the keys can be another platform of its model too."""
    engine = engines.get((platform.engine.name, platform.engine.version))
    if engine is None or platform.precision not in engine.precisions:
        return False
    if _base(platform).key not in keys and not accepts(report.ranges, platform.operating_point):
        return False
    try:
        told = _as_told(platform, engine)
    except InvalidRequest:
        return False
    return told is not None and told.key == platform.key


def retire(tx: Transaction, limit: int) -> int:
    """Cancel what waits on platforms that were made for options before these were known to be without effect.

    Their boards take such a key for another one, and nothing will ever be offered there. An item keeps the platform
    that its job named, so that it cannot be moved: its reason says what to ask for. Returns how many measurements,
    at most `limit`.
    """
    keys = list(tx.execute(_STRANDED).scalars())
    now = meant(tx, keys, lenient=True) if keys else {}
    told = {key: now[key].platform.key for key in keys if key in now and now[key].platform.key != key}
    held = tx.execute(_HOLD_WAITING, {"keys": sorted(told), "limit": limit}).all() if told else []
    tx.execute(_CANCEL, {"ids": [row.id for row in held]})
    finished = [
        progress.Finished(
            measurement_id=row.id,
            state=ItemState.CANCELLED,
            reason=f"its options are without effect: ask for {told[row.key]}, which is the same",
        )
        for row in held
    ]
    progress.advance(tx, finished)
    return len(held)


_STRANDED = text("""
    SELECT p.key FROM platforms p WHERE position('~' IN p.key) > 0
        AND EXISTS (SELECT FROM measurements m WHERE m.platform_id = p.id AND m.state = 'wanted')
        AND NOT EXISTS (
            SELECT FROM board_platforms o JOIN boards b ON b.id = o.board_id
            WHERE o.platform_id = p.id AND b.health <> 'retired')
    ORDER BY p.key
""")
_HOLD_WAITING = text("""
    SELECT m.id, p.key FROM platforms p JOIN measurements m ON m.platform_id = p.id
    WHERE p.key = ANY(:keys) AND m.state = 'wanted' ORDER BY m.id LIMIT :limit FOR NO KEY UPDATE OF m SKIP LOCKED
""")
_CANCEL = text("UPDATE measurements SET state = 'cancelled' WHERE id = ANY(CAST(:ids AS bigint[]))")
