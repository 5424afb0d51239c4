"""Results as CSV, page by page."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from benchfarm_core.csv_rows import csv_header, csv_rows
from benchfarm_core.jobs import ItemView, Page
from benchfarm_core.views import ResultView

T = TypeVar("T", ItemView, ResultView)

CSV_TYPE: Final = "text/csv"
PAGE_ROWS: Final = 1000


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
    yield csv_header(columns)
    current = first
    while True:
        yield csv_rows(columns, current.items)
        if current.next_cursor is None:
            return
        current = page(current.next_cursor)
