"""Platforms whose engine has options of its own choice: made when first wanted, offered by the boards that can.

A board offers its engines with default options. A key that names others means the same board, operating point, engine
and precision; what the engines of the boards say of their options decides whether it can exist.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.boards import BoardReport, EngineReport
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.matching import with_meant_options, with_options
from benchfarm_core.platforms import Platform, parse_platform_key
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.tables import platforms

MAX_WANTED: Final = 1000
"""Platforms with options that one board model can have: each was wanted once."""


class Meant(NamedTuple):
    """What a key with options means: the platform, the row it stands on (the same with default options), who can."""

    platform: Platform
    base_id: int
    boards: list[int]


def meant(tx: Transaction, names: Iterable[str], *, hold: bool = False) -> dict[str, Meant]:
    """The platforms that some texts mean as keys with options, by text.

    Left out is what is no such key, and what no board offers that tells its options. With `hold` the boards stay as
    they are to the end of the transaction. Raises InvalidRequest (`engine_option_unknown`, `engine_option_invalid`)
    as the first board that could otherwise serve it says.
    """
    wanted = {name: platform for name in names if (platform := _with_options(name)) is not None}
    if not wanted:
        return {}
    bases = {name: with_options(platform, {}).key for name, platform in wanted.items()}
    rows: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in tx.execute(_HELD if hold else _SEEN, {"keys": sorted(set(bases.values()))}):
        rows[row.key].append(row)
    found = {name: _first_meant(platform, rows[bases[name]]) for name, platform in wanted.items()}
    return {name: one for name, one in found.items() if one is not None}


def _with_options(name: str) -> Platform | None:
    try:
        platform = parse_platform_key(name)
    except InvalidRequest:
        return None
    return platform if platform.engine.options else None


# all at once and in one order: whoever registers boards holds several too
_SEEN_TEXT: Final = """
    SELECT b.id, b.engines, p.key, p.id AS platform_id
    FROM boards b JOIN board_platforms o ON o.board_id = b.id JOIN platforms p ON p.id = o.platform_id
    WHERE p.key = ANY(:keys) AND b.health <> 'retired' ORDER BY b.id
"""
_SEEN = text(_SEEN_TEXT)
_HELD = text(f"{_SEEN_TEXT} FOR SHARE OF b")


def _report(row: Row[Any], wanted: Platform) -> EngineReport | None:
    """The board's own word on the engine, where it tells its options."""
    for report in map(EngineReport.model_validate, row.engines):
        same = (report.name, report.version) == (wanted.engine.name, wanted.engine.version)
        if same and report.available and report.options is not None:
            return report
    return None


def _first_meant(wanted: Platform, rows: Sequence[Row[Any]]) -> Meant | None:
    """What the boards that tell their options make of a platform; the first one's word counts."""
    found: Meant | None = None
    refusal: InvalidRequest | None = None
    for row in rows:
        report = _report(row, wanted)
        if report is None or report.options is None:
            continue
        try:
            platform = with_meant_options(wanted, report.options)
        except InvalidRequest as error:
            refusal = refusal or error
            continue
        found = found or Meant(platform, row.platform_id, [])
        if platform.key == found.platform.key:
            found.boards.append(row.id)
    if found is None and refusal is not None:
        raise refusal
    return found


def make(tx: Transaction, names: Iterable[str]) -> dict[str, int]:
    """The rows of the platforms that keys with options mean, by text, made and offered where they are not.

    Leaves out and raises as `meant` does; raises InvalidRequest (`too_large`) above `MAX_WANTED`.
    """
    found = meant(tx, names, hold=True)
    own = {one.platform.key: one for one in found.values() if one.platform.engine.options}
    ids = _make_rows(tx, [own[key].platform for key in sorted(own)])
    offers = [{"board": board, "platform": ids[key]} for key in sorted(own) for board in sorted(own[key].boards)]
    if offers:
        tx.execute(_OFFER, {"rows": rows_json(offers)})
    return {name: ids.get(one.platform.key, one.base_id) for name, one in found.items()}


def _make_rows(tx: Transaction, wanted: Sequence[Platform]) -> dict[str, int]:
    known = _row_ids(tx, wanted)
    fresh = [platform for platform in wanted if platform.key not in known]
    for platform in fresh:
        _check_room(tx, platform)
        columns = {"public_id": platform.id, "key": platform.key, "spec": platform.model_dump(mode="json")}
        tx.execute(insert(platforms).values(**columns, created_at=tx.now).on_conflict_do_nothing())
    return known | _row_ids(tx, fresh)


def _row_ids(tx: Transaction, wanted: Sequence[Platform]) -> dict[str, int]:
    if not wanted:
        return {}
    keys = [platform.key for platform in wanted]
    found = tx.execute(select(platforms.c.key, platforms.c.id).where(platforms.c.key.in_(keys)))
    return {row.key: row.id for row in found}


_OFFER = text("""
    INSERT INTO board_platforms (board_id, platform_id)
    SELECT board, platform FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(board int, platform int)
    ON CONFLICT DO NOTHING
""")


def _check_room(tx: Transaction, platform: Platform) -> None:
    if tx.execute(_COUNT, {"prefix": f"{platform.board_model}/"}).scalar_one() >= MAX_WANTED:
        raise InvalidRequest(
            f"board model {platform.board_model} has {MAX_WANTED} platforms with engine options, which is the limit",
            code="too_large",
            field="platforms",
        )


_COUNT = text("SELECT count(*) FROM platforms WHERE starts_with(key, :prefix) AND strpos(key, '~') > 0")


def still_offered(tx: Transaction, report: BoardReport, offered: Sequence[Platform]) -> list[Platform]:
    """The platforms with options that were wanted of this board model and that the board can still be."""
    options = {(one.name, one.version): one.options for one in report.engines if one.available}
    keys = {platform.key for platform in offered}
    rows = tx.execute(_WANTED, {"prefix": f"{report.board_model}/"}).scalars()
    return [
        platform
        for platform in map(Platform.model_validate, rows)
        if with_options(platform, {}).key in keys
        and _is_meant(platform, options.get((platform.engine.name, platform.engine.version)))
    ]


_WANTED = text("SELECT spec FROM platforms WHERE starts_with(key, :prefix) AND strpos(key, '~') > 0 ORDER BY key")


def _is_meant(platform: Platform, known: Any) -> bool:
    try:
        return known is not None and with_meant_options(platform, known).key == platform.key
    except InvalidRequest:
        return False
