"""The routes, one file per noun. A function's name is its operation id, and stands in core's access table."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar

from fastapi import APIRouter, Query
from pydantic import Field

from benchfarm_api.access import GuardedRoute
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import Page
from benchfarm_core.values import Value

T = TypeVar("T")

MAX_PAGE: Final = 1000
PREFIX: Final = "/v1"


class PageQuery(Value):
    """The query of a paged list."""

    cursor: str | None = Field(default=None, max_length=500, description="`next_cursor` of the page before")
    limit: int = Field(default=100, ge=1, le=MAX_PAGE, description="entries of a page")


class ExportQuery(PageQuery):
    """The query of a list that can be had as CSV too."""

    format: Literal["json", "csv"] | None = Field(default=None, description="wins over the Accept header")


PageParameters = Annotated[PageQuery, Query()]


def page_of(entries: Sequence[T], query: PageQuery) -> Page[T]:
    """One page of a short list that is made anew for each call; its cursor is a position."""
    start = int(query.cursor or 0) if (query.cursor or "0").isdecimal() else -1
    if not 0 <= start <= len(entries):
        raise InvalidRequest("the cursor was not made by this list", code="cursor_invalid", field="cursor")
    end = start + query.limit
    return Page(items=list(entries[start:end]), next_cursor=str(end) if end < len(entries) else None)


def new_router(noun: str, *, prefix: str = PREFIX) -> APIRouter:
    """A router whose routes are guarded, and whole: their paths and operation ids are final."""
    return APIRouter(
        route_class=GuardedRoute,
        prefix=prefix,
        tags=[noun],
        generate_unique_id_function=lambda route: route.name,
    )
