"""Items and results as CSV, the same text from the farm and from the SDK. Times in ms per iteration."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from benchfarm_core.jobs import ItemView
from benchfarm_core.protocols import Protocol, parameters_text
from benchfarm_core.summaries import Summary
from benchfarm_core.views import ResultView
from benchfarm_core.workloads import AnyWorkload, workload_label

_MEMORY: Final = ("load_ms", "first_ms", "peak_pss_bytes", "model_pss_bytes", "mapped_weights_bytes")
_LATER: Final = ("noisy",)
_LAST: Final = ("effective_precision", "protocol_parameters")
_SUMMARY: Final = tuple(field for field in Summary.model_fields if field not in (*_MEMORY, *_LATER))
_COMPARISON: Final = (
    "verdict", "change_percent", "low_percent", "high_percent", "coverage", "tolerance_percent", "a_ms", "b_ms",
    "pairs", "rounds",
)  # fmt: skip
ITEM_COLUMNS: Final = (
    "item_no", "workload_id", "workload", "label", "platform_id", "platform", "repeat", "state", "source", "reason",
    "failure", "measurement_id", "origin", "board_id", "measured_at", *_SUMMARY, *_COMPARISON,
    *_MEMORY, "timing", *_LATER, *_LAST, "b_effective_precision",
)  # fmt: skip
RESULT_COLUMNS: Final = (
    "measurement_id", "workload_id", "workload", "label", "platform_id", "platform", "protocol", "timing",
    "repeat_no", "purpose", "origin", "board_id", "generation", "measured_at", *_SUMMARY,
    *_MEMORY, "bundle_id", "in_situ_by", *_LATER, *_LAST,
)  # fmt: skip
"""Written out, so that a new field of the API moves no column of a stored table."""

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run cells that begin so, and labels are other people's words."""


def csv_header(columns: Sequence[str]) -> str:
    """The first line."""
    return _text([columns])


def csv_rows(columns: Sequence[str], records: Iterable[ItemView | ResultView]) -> str:
    """A line for each record; absent values are empty."""
    return _text([_row(columns, record) for record in records])


def _text(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue()


def _row(columns: Sequence[str], record: ItemView | ResultView) -> list[object]:
    values = dict(record)
    values |= dict(record.summary) if record.summary is not None else {}
    if isinstance(record, ItemView) and record.comparison is not None:
        values |= dict(record.comparison)
    return [_cell(values.get(column)) for column in columns]


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, dict):
        return parameters_text(value)
    text = _plain(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _plain(value: object) -> str:
    if isinstance(value, AnyWorkload):
        return workload_label(value)
    return f"{value.name}-{value.version}" if isinstance(value, Protocol) else str(value)
