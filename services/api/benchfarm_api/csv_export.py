"""Results as CSV, row by row. Times in ms per iteration."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from benchfarm_core.jobs import ItemView, Page
from benchfarm_core.protocols import Protocol
from benchfarm_core.summaries import Summary
from benchfarm_core.views import ResultView
from benchfarm_core.workloads import AnyWorkload, workload_label

T = TypeVar("T", bound=BaseModel)

CSV_TYPE: Final = "text/csv"
PAGE_ROWS: Final = 1000

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run cells that begin so."""

_SUMMARY: Final = tuple(Summary.model_fields)
_ITEM: Final = (
    "item_no", "workload_id", "workload", "label", "platform_id", "platform", "repeat", "state", "source", "reason",
    "failure", "measurement_id", "origin", "board_id", "measured_at",
)  # fmt: skip
_RESULT: Final = (
    "measurement_id", "workload_id", "workload", "label", "platform_id", "platform", "protocol", "timing",
    "repeat_no", "purpose", "origin", "board_id", "generation", "measured_at",
)  # fmt: skip
ITEM_COLUMNS: Final = (*_ITEM, *_SUMMARY)
RESULT_COLUMNS: Final = (*_RESULT, *_SUMMARY)


def wants_csv(request: Request, given: str | None) -> bool:
    """Whether the caller asked for CSV: by ?format=, else by Accept."""
    if given is not None:
        return given == "csv"
    return CSV_TYPE in request.headers.get("Accept", "")


def csv_response(columns: Sequence[str], page: Callable[[str | None], Page[T]], name: str) -> StreamingResponse:
    """All rows from the first page on. The first page is read at once, so that its errors have a status."""
    first = page(None)
    return StreamingResponse(
        _lines(columns, first, page),
        media_type=f"{CSV_TYPE}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def _lines(columns: Sequence[str], first: Page[T], page: Callable[[str | None], Page[T]]) -> Iterator[str]:
    yield _text([columns])
    current = first
    while True:
        yield _text([_row(columns, item) for item in current.items])
        if current.next_cursor is None:
            return
        current = page(current.next_cursor)


def _text(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue()


def _row(columns: Sequence[str], item: BaseModel) -> list[object]:
    assert isinstance(item, ItemView | ResultView)
    values = {name: getattr(item, name) for name in type(item).model_fields}
    summary = values.pop("summary")
    values |= summary.model_dump() if isinstance(summary, Summary) else {}
    return [_cell(values.get(column)) for column in columns]


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = _plain(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _plain(value: object) -> str:
    if isinstance(value, AnyWorkload):
        return workload_label(value)
    return f"{value.name}-{value.version}" if isinstance(value, Protocol) else str(value)
