"""By which rules a table of somebody else's latencies is read: what is taken, and why the rest is rejected.

A row that cannot be trusted costs more than a row that is missing: predictors would learn from it. So nothing is
guessed or mended. A placeholder, an unclear unit or a clock that is too coarse is named with its line, and left out.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_core.values import Value

LATENCY_COLUMN: Final = "latency_ms"
FLOOR_MS: Final = 1e-5
"""10 ns: no engine starts a kernel in less."""
CEILING_MS: Final = 3_600_000.0
"""An hour."""
MAX_FLOPS_PER_S: Final = 1e16
"""Beyond any one machine, at any precision."""
STEP_ROWS: Final = 20
"""Fewer rows say nothing about the clock they were read from."""
STEP_SHARE: Final = 0.95
"""So many of a table's times are multiples of a step, then it is the clock's."""
STEPS_PER_TIME: Final = 20
"""A time of fewer steps may be wrong by more than 2.5 %."""
CONSTANT_ROWS: Final = 5
"""So many configurations that differ do not all take the same time."""

REASONS: Final[dict[str, str]] = {
    "not_csv": "The table cannot be read as CSV.",
    "column_missing": "The table has no latency_ms, or no column of the configuration.",
    "column_wrong": "A column is none of the kernel type's, is named twice, or holds something else than a size.",
    "unit_unclear": "A column of times in another unit, or in none: only latency_ms is taken.",
    "kernel_unknown": "The farm has no kernel type of that name, and no option says which of its types is meant.",
    "kernel_repeated": "Two tables of one set are of the same kernel type.",
    "cells_missing": "The row has fewer or more cells than the header.",
    "not_a_number": "A cell holds no number where one must stand.",
    "placeholder": "The time is -1, which stands for a failure somewhere.",
    "not_positive": "The time is zero or negative.",
    "below_floor": "The time is below 10 ns.",
    "above_ceiling": "The time is above one hour.",
    "beyond_any_machine": "The kernel's operations in that time are more than any machine computes.",
    "out_of_range": "The configuration is outside the kernel type's ranges or rules.",
    "other_value": "A column that an option holds at one value has another one here.",
    "duplicate": "The same configuration with the same time stands in an earlier line, which is kept.",
    "contradicting": "The same configuration stands in another line with another time: none of them is taken.",
    "quantised": "The times are multiples of a step that is coarse beside this one, or beside most of them.",
    "constant": "All times of the table are the same although its configurations differ.",
    "empty": "The table has no rows.",
}
"""Every reason for which a row or a table is rejected. Codes are never reused or renamed."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_INTEGER: Final = re.compile(r"([0-9]{1,9})(\.0*)?")
_NUMBER: Final = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_MEASURED: Final = ("_ms", "_us", "_ns", "_mj", "_mw", "time", "std", "energy", "power")
"""How columns end that hold something measured, which is no part of a configuration."""
_STEPS_MS: Final = tuple(
    sorted((m * 10.0**e for e in range(-5, 4) for m in (1.0, 1.024, 1.5625, 2.0, 4.0, 5.0)), reverse=True)
)
"""Steps of clocks: decimal places, powers of two of a nanosecond, ticks of operating systems."""


class RejectedRow(Value):
    """A row that is not taken. `line` counts from 1; line 1, the header, stands for the whole table."""

    file: str
    line: int
    reason_code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row as far as it was read: the configuration in the order of the table's columns."""

    line: int
    config: tuple[int, ...]
    latency_ms: float


class Rejected(Exception):
    """Raised by the rules below: a reason of ``REASONS`` and a sentence."""

    def __init__(self, reason_code: str, detail: str) -> None:
        super().__init__(detail)
        self.reason_code = reason_code
        self.detail = detail


class Rejections:
    """Collects what one file does not bring in, in the order in which it is found."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.rows: list[RejectedRow] = []

    def add(self, line: int, reason_code: str, detail: str) -> None:
        """Note one row; line 1 is the whole table."""
        self.rows.append(RejectedRow(file=self.file, line=line, reason_code=reason_code, detail=detail))


def read_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that hold something, with their numbers from 1 and their cells stripped. Raises Rejected."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise Rejected("not_csv", f"line {reader.line_num}: {error}") from error


def checked_header(names: Sequence[str]) -> tuple[str, ...]:
    """The header's names, ``latency_ms`` among them and at least one of a configuration. Raises Rejected."""
    for name in names:
        _check_name(name)
    if LATENCY_COLUMN not in names:
        raise Rejected("column_missing", f"there is no column {LATENCY_COLUMN}; write the times there, in milliseconds")
    if len(names) < 2:
        raise Rejected("column_missing", f"there is no column of the configuration beside {LATENCY_COLUMN}")
    repeated = next((name for name in names if list(names).count(name) > 1), None)
    if repeated is not None:
        raise Rejected("column_wrong", f"column {repeated!r} stands there twice")
    return tuple(names)


def _check_name(name: str) -> None:
    if name == LATENCY_COLUMN:
        return
    if not _NAME.fullmatch(name):
        raise Rejected("column_wrong", f"{name[:40]!r} is no name of a column; letters, digits and _ make one")
    if name.lower().startswith("latency"):
        raise Rejected("unit_unclear", f"column {name!r}: convert it to milliseconds and call it {LATENCY_COLUMN}")
    if name.lower().endswith(_MEASURED):
        raise Rejected("column_wrong", f"column {name!r} reads like something measured; only sizes may stand beside it")


def read_row(line: int, cells: Sequence[str], header: Sequence[str]) -> Row:
    """One row: sizes as integers (``21.0`` is one), the time within what is possible. Raises Rejected."""
    if len(cells) != len(header):
        raise Rejected("cells_missing", f"the row has {len(cells)} cells, the header {len(header)}")
    pairs = list(zip(header, cells, strict=True))
    config = tuple(_size(name, cell) for name, cell in pairs if name != LATENCY_COLUMN)
    return Row(line, config, _latency_ms(next(cell for name, cell in pairs if name == LATENCY_COLUMN)))


def _size(name: str, cell: str) -> int:
    found = _INTEGER.fullmatch(cell)
    if found is None:
        raise Rejected("not_a_number", f"{name}={cell[:40]!r} is no whole number from 0 to 999999999")
    return int(found[1])


def _latency_ms(cell: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise Rejected("not_a_number", f"{LATENCY_COLUMN}={cell[:40]!r} is no number")
    value = float(cell)
    if value == -1:
        raise Rejected("placeholder", f"{LATENCY_COLUMN}={cell} is a placeholder, not a time")
    if value <= 0:
        raise Rejected("not_positive", f"{LATENCY_COLUMN}={cell[:40]} is no time: it must be above 0")
    if value < FLOOR_MS:
        raise Rejected("below_floor", f"{LATENCY_COLUMN}={cell[:40]} is below 10 ns; is it in milliseconds?")
    if value > CEILING_MS:
        raise Rejected("above_ceiling", f"{LATENCY_COLUMN}={cell[:40]} is above one hour; is it in milliseconds?")
    return value


def check_speed(kernel: str, config: Mapping[str, int | str], latency_ms: float) -> None:
    """Refuse a time in which no machine computes the kernel. Raises Rejected."""
    check_flops(known_flops(kernel, config) or 0, latency_ms)


def check_flops(flops: int, latency_ms: float) -> None:
    """Refuse a time in which no machine computes so many operations. Raises Rejected."""
    if flops > MAX_FLOPS_PER_S * latency_ms / 1e3:
        per_s = flops / latency_ms * 1e3
        raise Rejected(
            "beyond_any_machine",
            f"{flops} operations in {latency_ms:g} ms are {per_s:.1e} a second; is it milliseconds?",
        )


def known_flops(kernel: str, config: Mapping[str, int | str]) -> int | None:
    """Multiplications and additions of a kernel whose columns say it: ``cin`` and ``cout``, with ``hw`` also ``k``.

    The names may be written in capitals. A depthwise kernel is known by its name or by having no ``cout``.
    None: not known.
    """
    sizes = {name.lower(): value for name, value in config.items() if isinstance(value, int)}
    cin, cout = sizes.get("cin"), sizes.get("cout")
    depthwise = cout is None or "dw" in kernel.lower() or "depthwise" in kernel.lower()
    if cin is None or ("hw" in sizes) != ("k" in sizes) or (depthwise and "hw" not in sizes):
        return None
    side = math.ceil(sizes.get("hw", 1) / max(1, sizes.get("s", 1)))
    each = cin if depthwise else cin * (cout or 0) // max(1, sizes.get("groups", 1))
    return 2 * sizes.get("batch", 1) * side * side * int(sizes.get("k", 1)) ** 2 * each


def without_duplicates(rows: Iterable[Row], rejections: Rejections) -> list[Row]:
    """Each configuration once: equal times keep the first line, times that contradict each other keep none."""
    by_config: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        by_config.setdefault(row.config, []).append(row)
    kept = []
    for same in by_config.values():
        if len({row.latency_ms for row in same}) == 1:
            kept.append(same[0])
            for row in same[1:]:
                rejections.add(row.line, "duplicate", f"the same as line {same[0].line}, which is kept")
            continue
        lines = ", ".join(str(row.line) for row in same[:8])
        for row in same:
            rejections.add(row.line, "contradicting", f"lines {lines} give one configuration different times")
    return kept


def without_coarse(rows: Sequence[Row], rejections: Rejections) -> list[Row]:
    """The rows that their clock resolves; a table that it mostly does not is rejected whole. Raises Rejected.

    A step is the clock's when ``STEP_SHARE`` of at least ``STEP_ROWS`` times are multiples of it. A time of fewer than
    ``STEPS_PER_TIME`` steps is rejected; where more than half of the times are, the table is.
    """
    step_ms = coarse_step_ms([row.latency_ms for row in rows])
    if step_ms is None:
        return list(rows)
    least_ms = step_ms * STEPS_PER_TIME
    coarse = [row for row in rows if row.latency_ms < least_ms]
    if 2 * len(coarse) > len(rows):
        raise Rejected("quantised", f"the times are multiples of {step_ms:g} ms, and most are below {least_ms:g} ms")
    for row in coarse:
        detail = (
            f"the times are multiples of {step_ms:g} ms; one of {row.latency_ms:g} ms may be off by more than 2.5 %"
        )
        rejections.add(row.line, "quantised", detail)
    return [row for row in rows if row.latency_ms >= least_ms]


def coarse_step_ms(times_ms: Sequence[float]) -> float | None:
    """The coarsest known step of which nearly all times are multiples; None when there is none or too few times."""
    if len(times_ms) < STEP_ROWS:
        return None
    misses = int(len(times_ms) * (1 - STEP_SHARE))
    return next((step for step in _STEPS_MS if _are_multiples(times_ms, step, misses)), None)


def _are_multiples(times_ms: Sequence[float], step_ms: float, misses: int) -> bool:
    for time_ms in times_ms:
        steps = time_ms / step_ms
        if round(steps) == 0 or abs(steps - round(steps)) > 1e-6 + 1e-9 * steps:
            misses -= 1
            if misses < 0:
                return False
    return True


def refuse_constant(rows: Sequence[Row]) -> None:
    """Refuse a table whose configurations differ and whose times do not. Raises Rejected."""
    if len(rows) >= CONSTANT_ROWS and len({row.latency_ms for row in rows}) == 1:
        raise Rejected("constant", f"all {len(rows)} rows say {rows[0].latency_ms:g} ms")
