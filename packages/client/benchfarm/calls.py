"""What the parts of `Client` share: its connection, lists page by page, requests checked before they are sent."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from benchfarm.connection import Connection, Params
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import Page
from benchfarm_core.refusals import refusal_of

T = TypeVar("T")
V = TypeVar("V", bound=BaseModel)

PAGE_ITEMS = 1000


class Calls:
    """Questions to one farm over one connection."""

    _connection: Connection

    def _post(self, kind: type[T], path: str, json: BaseModel | Mapping[str, object] | None = None) -> T:
        return self._connection.value(kind, self._connection.request("POST", path, json=json))

    def _pages(
        self, kind: type[V], path: str, params: Params | None = None, *, page_items: int | None = None
    ) -> Iterator[V]:
        cursor: str | None = None
        while True:
            page = self._connection.read(
                Page[kind],  # type: ignore[valid-type]  # pydantic makes the page type at run time
                path,
                params={**(params or {}), "cursor": cursor, "limit": page_items or PAGE_ITEMS},
            )
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


def checked(kind: type[V], fields: Mapping[str, Any]) -> V:
    """A request made of its fields. Raises InvalidRequest with the first field that does not fit, as the farm would."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        found = refusal_of(error.errors())
        raise InvalidRequest(found.sentence, field=found.field or None) from error
