"""Measurement sets: latencies that somebody else measured, as a folder of tables, and what may be taken from them.

A set is a text `platform.json` (board_model, engine, precision, operating_point, source, licence) and one CSV per
kernel type: the columns of its configuration, then `latency_ms`. Sets are never mixed with the farm's own measurements
and never answer as ours; they can be donors. By which rules rows are rejected stands in ``set_rows``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, Protocol

from pydantic import Field, ValidationError, model_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.refusals import refusal_of
from benchfarm_core.set_rows import (
    LATENCY_COLUMN,
    REASONS,
    Rejected,
    RejectedRow,
    Rejections,
    Row,
    check_speed,
    checked_header,
    read_lines,
    read_row,
    refuse_constant,
    without_coarse,
    without_duplicates,
)
from benchfarm_core.values import Answer, Value, digest

__all__ = ["REASONS", "KernelRows", "MeasurementSet", "RejectedRow", "SetPlatform", "read_tables"]

MAX_SET_CHARS: Final = 8 * 2**20
"""All texts of a set together."""
MAX_SET_ROWS: Final = 100_000
MAX_SET_TABLES: Final = 64
MAX_LISTED_ROWS: Final = 10_000
"""Rejected rows that an answer lists; all are counted."""

IMPORTED: Final = "imported"
"""The origin of all rows of a set; who measured them stands in its platform's `source`."""

_Text = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Fact = _Text | int | float | bool | None
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
_Naming = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:=-]{0,299}$")]
Scalar = int | str


class SetPlatform(Value):
    """Where a set was measured, in the words of those who did. `batch` holds for tables without such a column."""

    board_model: _Text
    engine: _Text
    precision: _Text
    operating_point: dict[_Text, _Fact | tuple[_Fact, ...]] = Field(max_length=20)
    source: _Text
    licence: _Text
    batch: int | None = Field(default=None, ge=1, le=65_536)


class KernelRows(Value):
    """The rows of one kernel type: `configs` are integers in the order of `columns`, one for each of `latency_ms`.

    `type` is one of the farm's, or the foreign name where nothing maps it. `fixed` holds columns that are the same in
    every row and stand in no column.
    """

    type: str
    given_as: str
    columns: tuple[str, ...]
    fixed: dict[str, Scalar]
    configs: tuple[tuple[int, ...], ...]
    latency_ms: tuple[float, ...]

    def config(self, index: int) -> dict[str, Scalar]:
        """One row's configuration with what is fixed."""
        return {**self.fixed, **dict(zip(self.columns, self.configs[index], strict=True))}

    @property
    def in_order(self) -> tuple[list[str], list[list[Scalar | float]]]:
        """All columns by name, what is fixed among them, and the sorted rows with their times behind: the same for the
        same rows, in whatever order lines and columns stood."""
        names = sorted({*self.columns, *self.fixed})
        places = {name: at for at, name in enumerate(self.columns)}
        rows: list[list[Scalar | float]] = [
            [*(config[places[name]] if name in places else self.fixed[name] for name in names), time_ms]
            for config, time_ms in zip(self.configs, self.latency_ms, strict=True)
        ]
        return names, sorted(rows)


class MeasurementSet(Value):
    """What a set brings in, and what it does not."""

    platform: SetPlatform
    kernels: dict[str, KernelRows]
    rejected: tuple[RejectedRow, ...]

    @property
    def rows(self) -> int:
        """Rows that are taken."""
        return sum(len(kernel.latency_ms) for kernel in self.kernels.values())

    @property
    def content_hash(self) -> str:
        """Names what was measured where, of the rows that are taken: 32 hexadecimal digits.

        In which order lines and columns stand is no part of it, nor who tells of it under which licence: the same
        measurements are one set.
        """
        where = self.platform.model_dump(mode="json", exclude={"source", "licence", "batch"})
        return digest({"platform": where, "kernels": {name: rows.in_order for name, rows in self.kernels.items()}})

    @property
    def former_hash(self) -> str:
        """What the same file was named by before the order of its lines and columns stopped counting."""
        kernels = {name: kernel.model_dump(mode="json") for name, kernel in sorted(self.kernels.items())}
        return digest({"platform": self.platform.model_dump(mode="json"), "kernels": kernels})

    @property
    def rejected_by_reason(self) -> dict[str, int]:
        """How many rows each reason cost; a rejected table counts once."""
        return counted(self.rejected)


class KernelCatalogue(Protocol):
    """What the rules ask about the farm's kernel types."""

    def names(self) -> Sequence[str]:
        """All types."""

    def columns(self, type_name: str) -> Mapping[str, bool]:
        """The columns of one of the types, in order, and whether each must be given."""

    def why_not(self, type_name: str, config: Mapping[str, Scalar]) -> str | None:
        """A sentence when the type does not have that configuration."""


def _lines(text: str) -> int:
    """As CSV has them: they end with a line feed, a carriage return, or both."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")


class MeasurementSetUpload(Value):
    """A set as it comes: the texts of its files by name, and what foreign kernel names stand for.

    A value of `names` is one of the farm's kernel types, perhaps with columns held at a value:
    `conv-bn-act:act=relu`. A column of the table that is held so keeps the rows that have this value and goes.
    """

    platform_json: str = Field(max_length=65_536)
    tables: dict[_FileName, str] = Field(min_length=1, max_length=MAX_SET_TABLES)
    names: dict[_FileName, _Naming] = Field(default={}, max_length=MAX_SET_TABLES)
    dry_run: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> "MeasurementSetUpload":
        if sum(len(text) for text in self.tables.values()) > MAX_SET_CHARS:
            raise ValueError(f"the tables hold more than {MAX_SET_CHARS} characters; split the set")
        if sum(map(_lines, self.tables.values())) > MAX_SET_ROWS + MAX_SET_TABLES:
            raise ValueError(f"the tables hold more than {MAX_SET_ROWS} rows; split the set")
        stray = self.names.keys() - {name.removesuffix(".csv") for name in self.tables}
        if stray:
            raise ValueError(f"names: the set has no table {min(stray)!r}")
        return self


class SetKernelView(Answer):
    """One kernel type of an imported set."""

    type: str
    given_as: str
    columns: list[str]
    fixed: dict[str, Scalar]
    rows: int


class MeasurementSetView(Answer):
    """An imported set as the API shows it, named by its content. Its origin is never one that answers as measured."""

    id: str
    origin: str
    platform: SetPlatform
    kernels: list[SetKernelView]
    rows: int
    rejected_by_reason: dict[str, int]
    imported_at: datetime
    author: str


class MeasurementSetImported(Answer):
    """What an import did, or would do (`dry_run`). `repeated`: the same content was there already, nothing changed.

    `id` is null while the set is not there: after a dry run. `rejected` lists the first ten thousand rows;
    `rejected_by_reason` counts all.
    """

    id: str | None
    dry_run: bool
    repeated: bool
    kernels: list[SetKernelView]
    rows: int
    rejected: list[RejectedRow]
    rejected_by_reason: dict[str, int]


@dataclass(frozen=True, slots=True)
class Naming:
    """What a foreign kernel name stands for: a type and columns held at a value."""

    type: str
    held: dict[str, Scalar] = field(default_factory=dict)


_NAMING: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,39})((?::[A-Za-z][A-Za-z0-9_]{0,39}=[A-Za-z0-9_.-]{1,40}){0,12})")


def naming(text: str) -> Naming:
    """``conv-bn-act:act=relu:fused_elementwise=0`` as a naming. Raises InvalidRequest."""
    found = _NAMING.fullmatch(text)
    if found is None:
        detail = f"{text[:80]!r} names no kernel type; the form is conv-bn-act or conv-bn-act:act=relu"
        raise InvalidRequest(detail, field="names")
    pairs = [part.split("=") for part in found[2].split(":") if part]
    return Naming(found[1], {name: int(value) if value.isdecimal() else value for name, value in pairs})


def read_platform(text: str) -> SetPlatform:
    """The platform of a ``platform.json``. Raises InvalidRequest that names the field."""
    try:
        return SetPlatform.model_validate_json(text.removeprefix("\ufeff"))
    except ValidationError as error:
        found = refusal_of(error.errors())
        raise InvalidRequest(
            f"platform.json: {found.sentence}", field=f"platform_json.{found.field}".rstrip(".")
        ) from error


def read_tables(
    platform_json: str,
    tables: Mapping[str, str],
    *,
    names: Mapping[str, str],
    catalogue: KernelCatalogue | None = None,
) -> MeasurementSet:
    """A measurement set from the texts of its files; ``tables`` by file name (``conv.csv``).

    ``names`` says what foreign kernel names stand for (see ``MeasurementSetUpload``). With a catalogue every table must
    be of one of its types, in its columns and ranges; without one, foreign names and columns stay as given.

    Raises:
        InvalidRequest: the platform, or a naming, cannot be read. What is wrong with tables and rows is rejected.
    """
    platform = read_platform(platform_json)
    namings = {foreign: naming(text) for foreign, text in names.items()}
    kernels: dict[str, KernelRows] = {}
    rejected: list[RejectedRow] = []
    for file in sorted(tables):
        rejections = Rejections(file)
        try:
            kernel = _kernel(file, tables[file], _Reading(platform, namings, catalogue), rejections)
            if kernel.type in kernels:
                raise Rejected("kernel_repeated", f"{kernels[kernel.type].given_as!r} is of type {kernel.type} too")
            if kernel.configs:
                kernels[kernel.type] = kernel
        except Rejected as verdict:
            rejections.add(1, verdict.reason_code, verdict.detail)
        rejected += sorted(rejections.rows, key=lambda row: row.line)
    return MeasurementSet(platform=platform, kernels=kernels, rejected=tuple(rejected))


@dataclass(frozen=True, slots=True)
class _Reading:
    """What holds for all tables of a set."""

    platform: SetPlatform
    namings: Mapping[str, Naming]
    catalogue: KernelCatalogue | None

    def naming_of(self, given: str) -> Naming:
        """What a table is of. Raises Rejected where the farm has no such type."""
        named = self.namings.get(given, Naming(given))
        if self.catalogue is not None and named.type not in self.catalogue.names():
            ours = ", ".join(self.catalogue.names())
            raise Rejected("kernel_unknown", f"no kernel type {named.type!r}; say which is meant, one of {ours}")
        return named

    def table(self, given: str, header: tuple[str, ...]) -> "_Table":
        """How a table with this header is read. Raises Rejected where a column is missing or foreign.

        A column that is held at a value leaves the table; it is fixed where the type has it.
        """
        named = self.naming_of(given)
        columns = tuple(name for name in header if name != LATENCY_COLUMN)
        known = self.catalogue.columns(named.type) if self.catalogue is not None else {}
        fixed = {name: value for name, value in named.held.items() if name not in columns or name in known}
        if self.platform.batch is not None and "batch" not in columns:
            fixed.setdefault("batch", self.platform.batch)
        kept = tuple(name for name in columns if name not in named.held)
        if not kept:
            raise Rejected("column_missing", "every column is held at one value: no configuration is left")
        if self.catalogue is not None:
            _check_columns(named.type, (*kept, *fixed), known)
        return _Table(given, named, header, columns, kept, fixed, self.catalogue)


def _check_columns(type_name: str, names: Sequence[str], known: Mapping[str, bool]) -> None:
    foreign = next((name for name in names if name not in known), None)
    if foreign is not None:
        detail = (
            f"{type_name} has no column {foreign!r}; it has {', '.join(known)}; hold it at one value to leave it out"
        )
        raise Rejected("column_wrong", detail)
    missing = next((name for name, needed in known.items() if needed and name not in names), None)
    if missing is not None:
        raise Rejected("column_missing", f"{type_name} needs a column {missing!r}; add it, or hold it at one value")


@dataclass(frozen=True, slots=True)
class _Table:
    """How one table is read: `columns` stand in the file, `kept` of them are the configuration."""

    given: str
    named: Naming
    header: tuple[str, ...]
    columns: tuple[str, ...]
    kept: tuple[str, ...]
    fixed: Mapping[str, Scalar]
    catalogue: KernelCatalogue | None

    def row(self, line: int, cells: Sequence[str]) -> Row:
        """One row that holds for itself, its configuration in the order of `kept`. Raises Rejected."""
        row = read_row(line, cells, self.header)
        given = dict(zip(self.columns, row.config, strict=True))
        for name, value in self.named.held.items():
            if given.get(name, value) != value:
                raise Rejected("other_value", f"{name}={given[name]}, and only {name}={value} is wanted")
        config: dict[str, Scalar] = {**self.fixed, **{name: given[name] for name in self.kept}}
        reason = self.catalogue.why_not(self.named.type, config) if self.catalogue is not None else None
        if reason is not None:
            raise Rejected("out_of_range", reason)
        check_speed(self.named.type, config, row.latency_ms)
        return Row(line, tuple(given[name] for name in self.kept), row.latency_ms)

    def rows(self, lines: Iterable[tuple[int, list[str]]], rejections: Rejections) -> list[Row]:
        """The rows that hold for themselves and beside each other, by line. Raises Rejected."""
        rows = []
        for line, cells in lines:
            try:
                rows.append(self.row(line, cells))
            except Rejected as verdict:
                rejections.add(line, verdict.reason_code, verdict.detail)
        kept = sorted(without_duplicates(rows, rejections), key=lambda row: row.line)
        refuse_constant(kept)
        return without_coarse(kept, rejections)


def _kernel(file: str, text: str, reading: _Reading, rejections: Rejections) -> KernelRows:
    """One table's kernel type with the rows that can be taken. Raises Rejected."""
    lines = read_lines(text)
    first = next(lines, None)
    if first is None:
        raise Rejected("empty", "the file is empty")
    table = reading.table(file.removesuffix(".csv"), checked_header(first[1]))
    rows = table.rows(lines, rejections)
    if not rows and not rejections.rows:
        raise Rejected("empty", "the table has a header and no rows")
    return KernelRows(
        type=table.named.type,
        given_as=table.given,
        columns=table.kept,
        fixed=dict(table.fixed),
        configs=tuple(row.config for row in rows),
        latency_ms=tuple(row.latency_ms for row in rows),
    )


def counted(rejected: Sequence[RejectedRow]) -> dict[str, int]:
    """How many rows each reason cost, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rejected:
        counts[row.reason_code] = counts.get(row.reason_code, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
