"""The support matrix, counted from outcomes as they come in and from nothing else."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, select, text, tuple_

from benchfarm_core.jobs import Page
from benchfarm_core.platforms import Platform, Precision, effective_precision
from benchfarm_core.profilers import has_profiler
from benchfarm_core.support import OK, SupportRow, fault_of_outcome
from benchfarm_store import cursors
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.tables import SUPPORT_KEY, support_outcomes

_COLUMNS: Final = support_outcomes.c


class Attempt(NamedTuple):
    """What came of one attempt at a workload of a family.

    `code`: `ok` or a failure code. `seconds` of board time, 0 where unknown. `effective_precision`: of an `ok`, empty
    where nobody told.
    """

    measurement_id: int
    code: str
    family: str
    needs_profiler: bool
    subject: str = ""
    relative_l2: float | None = None
    seconds: float = 0.0
    effective_precision: str = ""


def count(tx: Transaction, platform: Platform, attempts: Sequence[Attempt]) -> None:
    """Add attempts on a platform to the matrix. Call it last: others wait for these rows until the commit.

    Left out is what needed a profiler in an engine that has none: nothing was tried of the family.
    Rows are taken in key order, so that two lessees at once wait for each other and never both.
    """
    tried = [one for one in attempts if has_profiler(platform.engine.name) or not one.needs_profiler]
    subjects = _subjects(tx, [one for one in tried if one.subject and one.code != OK])
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in tried:
        key = _key(platform, one, subjects.get(one.measurement_id, ""))
        found[key] = _added(found.get(key), one) | dict(zip(SUPPORT_KEY, key, strict=True))
    if found:
        tx.execute_prepared(_COUNT, rows_json(list(found.values())), tx.now)


def _subjects(tx: Transaction, attempts: Sequence[Attempt]) -> dict[int, str]:
    """What failures are about, as far as everybody may know it, by measurement."""
    if not attempts:
        return {}
    rows = rows_json([{"id": one.measurement_id, "subject": one.subject} for one in attempts])
    return {row.id: row.subject for row in tx.execute(_SUBJECTS, {"rows": rows})}


# an upload's names are its owner's: an operator is told only by a name that its own graph has in public
_SUBJECTS = text("""
    SELECT m.id, CASE WHEN w.kind <> 'upload' OR EXISTS (
            SELECT FROM models o, jsonb_array_elements(o.graph->'nodes') AS n
            WHERE o.workload_id = w.id AND n->>'op' = x.subject) THEN x.subject ELSE '' END AS subject
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id bigint, subject text)
        JOIN measurements m ON m.id = x.id JOIN workloads w ON w.id = m.workload_id
""")


def _key(platform: Platform, one: Attempt, subject: str) -> tuple[str, ...]:
    engine = platform.engine
    return (
        one.family,
        engine.name,
        engine.version,
        engine.options_key,
        platform.precision,
        platform.board_model,
        one.code,
        subject,
        one.effective_precision,
    )


def _added(so_far: dict[str, Any] | None, one: Attempt) -> dict[str, Any]:
    before: dict[str, Any] = so_far or {"count": 0, "seconds": 0.0, "largest": None, "last": None}
    errors = [error for error in (before["largest"], one.relative_l2) if error is not None]
    return {
        "count": before["count"] + 1,
        "seconds": before["seconds"] + one.seconds,
        "largest": max(errors, default=None),
        "last": one.relative_l2 if one.relative_l2 is not None else before["last"],
        "id": one.measurement_id,
    }


_NAMES: Final = ", ".join(SUPPORT_KEY)
_COUNT = Prepared(
    "support_count",
    "jsonb, timestamptz",
    f"""
    INSERT INTO support_outcomes AS s ({_NAMES}, count, seconds, relative_l2_max, relative_l2_last, measurement_id,
        first_at, last_at)
    SELECT {_NAMES}, count, seconds, largest, last, id, $2, $2
    FROM jsonb_to_recordset($1) AS x(
        {", ".join(f"{name} text" for name in SUPPORT_KEY)}, count bigint, seconds double precision,
        largest double precision, last double precision, id bigint)
    ORDER BY {_NAMES}
    ON CONFLICT ({_NAMES}) DO UPDATE SET count = s.count + excluded.count, seconds = s.seconds + excluded.seconds,
        relative_l2_max = greatest(s.relative_l2_max, excluded.relative_l2_max),
        relative_l2_last = coalesce(excluded.relative_l2_last, s.relative_l2_last),
        measurement_id = excluded.measurement_id, last_at = greatest(s.last_at, excluded.last_at)
    """,
)


def list_support(
    tx: Transaction,
    *,
    family: str | None = None,
    engine: str | None = None,
    precision: Precision | None = None,
    board_model: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[SupportRow]:
    """The matrix in key order: families, then engines. Uploads of all accounts are one family, without names."""
    wanted = {"family": family, "engine": engine, "precision": precision, "board_model": board_model}
    statement = select(
        *(column for column in _COLUMNS if column.name != "count"), _COLUMNS["count"].label("times")
    ).where(*(_COLUMNS[name] == value for name, value in wanted.items() if value is not None))
    key = [_COLUMNS[name] for name in SUPPORT_KEY]
    if cursor:
        statement = statement.where(tuple_(*key) > tuple_(*cursors.decode("support", cursor, *[str] * len(key))))
    rows = tx.execute(statement.order_by(*key).limit(limit + 1)).all()
    return cursors.page(rows, limit, _view, lambda row: cursors.encode("support", *row[: len(key)]))


def _view(row: Row[Any]) -> SupportRow:
    return SupportRow(
        family=row.family,
        engine=row.engine,
        version=row.version,
        options=row.options,
        precision=row.precision,
        board_model=row.board_model,
        outcome="ok" if row.code == OK else "failed",
        code=row.code,
        fault=fault_of_outcome(row.code),
        subject=row.subject,
        count=row.times,
        max_relative_l2=row.relative_l2_max,
        last_relative_l2=row.relative_l2_last,
        mean_s=row.seconds / row.times if row.seconds else None,
        first_at=row.first_at,
        last_at=row.last_at,
        measurement_id=None if row.family == "upload" else row.measurement_id,
        effective_precision=effective_precision(row.effective_precision or None),
    )
