"""Platforms: found by id, key or alias; which boards serve them; which engines there are."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.boards import EngineOption, EngineReport
from benchfarm_core.correctness import is_ungated
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.matching import may_exist
from benchfarm_core.operating_ranges import OperatingRange
from benchfarm_core.platforms import Platform, PlatformFilter, matches, parse_platform_key
from benchfarm_core.profilers import has_profiler
from benchfarm_core.views import EngineView, PlatformView
from benchfarm_store import cursors, wanted_platforms
from benchfarm_store.agents import IS_ONLINE
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.model_merges import find_merges, present_key
from benchfarm_store.tables import boards, platform_aliases, platforms

_OFFERED: Final = """
    EXISTS (SELECT FROM board_platforms o JOIN boards b ON b.id = o.board_id
            WHERE o.platform_id = platforms.id AND b.health <> 'retired')
"""
ALIAS: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}")


class Found(NamedTuple):
    """A platform as a request means it.

    `id` is its row; below zero where nobody wanted it yet. `base_id` is the row whose boards serve it: its own, or for
    one without a row the same platform with default options, or where no board offers that either one of the same
    boards, engine and precision at another operating point.
    """

    id: int
    key: str
    base_id: int


def find(tx: Transaction, name: str, *, field: str = "platform") -> Row[Any]:
    """The row of the platform with this id, key or alias, which stands in this part of the request.

    Raises InvalidRequest: `platform_unknown`, `platform_impossible` for a well-formed key that no board offers, or as
    `wanted_platforms.meant` does for one with other options or another operating point.
    """
    row = _known_rows(tx, [name]).get(name)
    if row is not None and not row.is_stale:  # a merged board model's too: where it was measured
        return row
    with named_in(field):
        (found,) = find_all(tx, [name])
    if found.id < 0:
        raise InvalidRequest(f"no job has wanted {found.key} yet", code="platform_unknown", field=field)
    return tx.execute(select(platforms).where(platforms.c.id == found.id)).one()


@contextmanager
def named_in(field: str) -> Iterator[None]:
    """What is wrong with a platform is told of this part of a request, which names one and no list of them."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(error.detail, code=error.code, field=field) from error


def find_all(tx: Transaction, names: Sequence[str]) -> list[Found]:
    """The platforms that these names mean, in order, each once. Raises as `find`, for the first stray name.

    Writes nothing: a platform that nobody wanted yet stands on one that its boards offer.
    """
    rows = _known_rows(tx, names)
    if rows.keys() >= set(names) and not any(row.is_stale or row.is_merged for row in rows.values()):
        return _each_once(rows[name] for name in names)  # nearly always: one look
    present = _present_names(tx, names, rows)
    if present != [*names]:
        names, rows = present, _known_rows(tx, present)
    meant = _meant(tx, names, rows)
    if not meant and rows.keys() >= set(names):
        return _each_once(rows[name] for name in names)
    rows |= _known_rows(tx, [one.platform.key for one in meant.values()])
    found: dict[str, Found] = {}
    for name in dict.fromkeys(names):
        key = meant[name].platform.key if name in meant else name
        row = rows.get(key)
        if row is None and name not in meant:
            raise _not_found(tx, name)
        one = Found(row.id, row.key, row.id) if row is not None else Found(-1 - len(found), key, meant[name].base_id)
        found.setdefault(one.key, one)
    return list(found.values())


def _meant(tx: Transaction, names: Sequence[str], rows: Mapping[str, Row[Any]]) -> dict[str, wanted_platforms.Meant]:
    """What the names without a row mean as keys, and those of rows that no board offers with these options any more.

    Where no board can be such a row at all, what was measured there can still be asked for.
    """
    meant = wanted_platforms.meant(tx, [name for name in names if name not in rows])
    stale = {name: rows[name].key for name in names if name in rows and rows[name].is_stale}
    now = wanted_platforms.meant(tx, set(stale.values()), lenient=True)
    return meant | {name: now[key] for name, key in stale.items() if key in now}


def make_all(tx: Transaction, names: Sequence[str], account: int) -> list[Found]:
    """As `find_all`, but what nobody wanted yet is made for the account and offered.

    Raises as `find` and `wanted_platforms.make`.
    """
    found = find_all(tx, names)
    fresh = [one.key for one in found if one.id < 0]
    if fresh:
        wanted_platforms.make(tx, fresh, account)
    return find_all(tx, names) if fresh else found


def _present_names(tx: Transaction, names: Sequence[str], rows: Mapping[str, Row[Any]]) -> list[str]:
    """The names, those of a merged board model's platforms replaced by the keys that are meant now; `rows`: of those
    that have one."""
    merges = find_merges(tx)
    if not merges:
        return list(names)
    return [present_key(merges, rows[name].key) if name in rows else present_key(merges, name) for name in names]


def _each_once(rows: Iterable[Row[Any]]) -> list[Found]:
    return list(dict.fromkeys(Found(row.id, row.key, row.id) for row in rows))


def _known_rows(tx: Transaction, names: Sequence[str]) -> dict[str, Row[Any]]:
    """The rows of those names that are an id, a key or an alias."""
    # a text with a zero byte cannot be sent to Postgres and names nothing
    found = tx.execute(_KNOWN, {"names": [name for name in dict.fromkeys(names) if "\x00" not in name]})
    return {row.name: row for row in found}


_KNOWN = text(f"""
    SELECT x.name, platforms.*, (position('~' IN platforms.key) > 0 AND NOT {_OFFERED}) AS is_stale,
        EXISTS (SELECT FROM board_model_merges g WHERE g.board_model = split_part(platforms.key, '/', 1)) AS is_merged
    FROM (SELECT public_id AS name, id FROM platforms WHERE public_id = ANY(CAST(:names AS text[]))
          UNION ALL SELECT key, id FROM platforms WHERE key = ANY(CAST(:names AS text[]))
          UNION ALL SELECT alias, platform_id FROM platform_aliases WHERE alias = ANY(CAST(:names AS text[]))) x
    JOIN platforms ON platforms.id = x.id
""")
"""`is_stale`: made for options that no board offers now, which may be of no effect: boards are asked what such a key
means. `is_merged`: its board model is called otherwise now. Written out, for every question asks it."""


def _not_found(tx: Transaction, name: str) -> InvalidRequest:
    try:
        may_exist(parse_platform_key(name), [platform for _, platform in _offered(tx)])
    except InvalidRequest as error:
        if error.code == "platform_impossible":
            return error
    return InvalidRequest(
        f"no platform has the id, key or alias {name[:120]!r}", code="platform_unknown", field="platforms"
    )


def find_offered(tx: Transaction, wanted: PlatformFilter) -> list[Row[Any]]:
    """The rows of the platforms that boards offer now and that pass the filter, in key order.

    A filter means default options and what boards were registered with: what somebody else once wanted does not change
    it. Ungated engines are meant by their names alone.
    """
    return [
        row
        for row, platform in _offered(tx)
        if not platform.engine.options and row.wanted_by_id is None and _is_meant(platform, wanted)
    ]


def _is_meant(platform: Platform, wanted: PlatformFilter) -> bool:
    return matches(platform, wanted) and (bool(wanted.engine) or not is_ungated(platform.engine.name))


def _offered(tx: Transaction) -> list[tuple[Row[Any], Platform]]:
    rows = tx.execute(select(platforms).where(_IS_OFFERED).order_by(platforms.c.key)).all()
    return [(row, Platform.model_validate(row.spec)) for row in rows]


_IS_OFFERED = text(_OFFERED)


def ensure(tx: Transaction, wanted: Sequence[Platform]) -> dict[str, int]:
    """Make the platforms that do not exist yet; returns key -> row id."""
    by_key = {platform.key: platform for platform in wanted}
    if not by_key:
        return {}
    rows = [
        {
            "public_id": by_key[key].id,
            "key": key,
            "spec": by_key[key].model_dump(mode="json"),
            "created_at": tx.now,
        }
        for key in sorted(by_key)
    ]
    tx.execute(insert(platforms).on_conflict_do_nothing(), rows)
    found = tx.execute(select(platforms.c.key, platforms.c.id).where(platforms.c.key.in_(by_key))).all()
    return {row.key: row.id for row in found}


def list_platforms(tx: Transaction, wanted: PlatformFilter, cursor: str | None, limit: int) -> Page[PlatformView]:
    """Platforms in key order, with the boards that serve them."""
    after = cursors.decode("platforms", cursor, str)[0] if cursor else ""
    everything = tx.execute(select(platforms).where(platforms.c.key > after).order_by(platforms.c.key)).all()
    rows = [row for row in everything if matches(Platform.model_validate(row.spec), wanted)][: limit + 1]
    views = {view.id: view for view in _views(tx, rows[:limit])}
    return cursors.page(rows, limit, lambda row: views[row.public_id], lambda row: cursors.encode("platforms", row.key))


def get_platform(tx: Transaction, name: str) -> PlatformView:
    """One platform by id, key or alias. Raises NotFound."""
    try:
        row = find(tx, name)
    except InvalidRequest as error:
        raise NotFound(error.detail) from error
    return _views(tx, [row])[0]


def set_alias(tx: Transaction, name: str, alias: str) -> PlatformView:
    """Point an alias at a platform; an alias that exists is moved. Raises InvalidRequest, NotFound."""
    if not ALIAS.fullmatch(alias) or alias.startswith("p_"):
        raise InvalidRequest("an alias is 1 to 60 of a-z 0-9 _ . - and does not begin with p_", field="alias")
    view = get_platform(tx, name)
    platform_id = select(platforms.c.id).where(platforms.c.public_id == view.id).scalar_subquery()
    statement = insert(platform_aliases).values(alias=alias, platform_id=platform_id, set_at=tx.now)
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=["alias"],
            set_={"platform_id": statement.excluded.platform_id, "set_at": statement.excluded.set_at},
        )
    )
    return get_platform(tx, view.id)


def _views(tx: Transaction, rows: Sequence[Row[Any]]) -> list[PlatformView]:
    facts = {
        fact.id: fact
        for fact in tx.execute(_FACTS, {"ids": rows_json([{"id": row.id} for row in rows]), "now": tx.now})
    }
    ranges = _ranges(tx, {row.spec["board_model"] for row in rows})
    return [_view(row, facts[row.id], ranges[row.spec["board_model"]]) for row in rows]


def _ranges(tx: Transaction, models: Set[str]) -> dict[str, list[OperatingRange]]:
    """What the boards of some models can be set to, each range once."""
    found: dict[str, dict[OperatingRange, None]] = {model: {} for model in models}
    for row in tx.execute(_RANGES, {"models": sorted(models)}):
        found[row.board_model] |= dict.fromkeys(map(OperatingRange.model_validate, row.ranges))
    return {model: list(ranges) for model, ranges in found.items()}


_RANGES = text("""
    SELECT DISTINCT board_model, ranges FROM boards
    WHERE board_model = ANY(:models) AND health <> 'retired' AND ranges <> '[]' ORDER BY board_model, ranges
""")


_FACTS = text(f"""
    SELECT p.id,
        ARRAY(SELECT alias FROM platform_aliases WHERE platform_id = p.id ORDER BY alias) AS aliases,
        ARRAY(SELECT b.public_id FROM board_platforms o JOIN boards b ON b.id = o.board_id
              WHERE o.platform_id = p.id ORDER BY b.public_id) AS boards,
        (SELECT count(*) FROM board_platforms o JOIN boards b ON b.id = o.board_id
             JOIN agents a ON a.id = b.agent_id
         WHERE o.platform_id = p.id AND b.health IN ('good', 'suspect') AND {IS_ONLINE}) AS online,
        (SELECT count(*) FROM results WHERE platform_id = p.id) AS results
    FROM jsonb_to_recordset(CAST(:ids AS jsonb)) AS p(id int)
""")


def _view(row: Row[Any], facts: Row[Any], ranges: list[OperatingRange]) -> PlatformView:
    platform = Platform.model_validate(row.spec)
    return PlatformView(
        id=row.public_id,
        key=row.key,
        aliases=facts.aliases,
        board_model=platform.board_model,
        operating_point=platform.operating_point,
        engine=platform.engine,
        precision=platform.precision,
        boards=facts.boards,
        boards_online=facts.online,
        results=facts.results,
        ranges=ranges,
    )


def list_engines(tx: Transaction) -> list[EngineView]:
    """Every engine that some board has or lacks, in name order."""
    reports: dict[str, list[tuple[str, EngineReport]]] = defaultdict(list)
    known = select(boards.c.public_id, boards.c.engines).where(boards.c.health != "retired")
    for row in tx.execute(known.order_by(boards.c.public_id)):
        for engine in map(EngineReport.model_validate, row.engines):
            reports[engine.name].append((row.public_id, engine))
    return [_engine_view(name, reports[name]) for name in sorted(reports)]


def engine_options(tx: Transaction, engine: str) -> dict[str, dict[str, EngineOption]]:
    """The options of an engine by version, as the boards tell that have it; empty where none does."""
    return next((view.options for view in list_engines(tx) if view.name == engine), {})


def _engine_view(name: str, reports: Sequence[tuple[str, EngineReport]]) -> EngineView:
    usable = [(board, engine) for board, engine in reports if engine.available]
    return EngineView(
        name=name,
        versions=sorted({engine.version for _, engine in usable if engine.version}),
        precisions=sorted({precision for _, engine in usable for precision in engine.precisions}),
        boards=[board for board, _ in usable],
        unavailable={board: engine.reason for board, engine in reports if not engine.available},
        options=_options(usable),
        profiles=has_profiler(name),
    )


def _options(usable: Sequence[tuple[str, EngineReport]]) -> dict[str, dict[str, EngineOption]]:
    """By version, as the last board that has it tells."""
    return {one.version: one.options for _, one in usable if one.version is not None and one.options is not None}
