"""Cursors of paged lists: the sort key of the last row seen, opaque to callers."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import Page
from benchfarm_core.values import in_utc

T = TypeVar("T")


def encode(kind: str, *values: object) -> str:
    """A cursor of one list; `kind` keeps it from being used with another."""
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps([kind, *plain]).encode()).decode().rstrip("=")


def decode(kind: str, cursor: str, *types: type) -> list[Any]:
    """The values of a cursor. Raises InvalidRequest (`cursor_invalid`) when it is not one of this list."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found, *values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if found != kind or len(values) != len(types):
            raise ValueError("another list's cursor")
        return [_typed(value, wanted) for value, wanted in zip(values, types, strict=True)]
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidRequest(
            "the cursor was not made by this list; start again without one", code="cursor_invalid", field="cursor"
        ) from error


def page(rows: Sequence[Any], limit: int, view: Callable[[Any], T], cursor: Callable[[Any], str]) -> Page[T]:
    """A page from up to `limit` + 1 rows; the extra row says that there is more."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=[view(row) for row in shown], next_cursor=cursor(shown[-1]) if more else None)


def _typed(value: object, wanted: type) -> object:
    if wanted is datetime:
        if not isinstance(value, str):
            raise ValueError("not a time")
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return in_utc(moment)
    if type(value) is not wanted:
        raise ValueError("a value of another type")
    if wanted is int and not -(2**63) <= int(str(value)) < 2**63:
        raise ValueError("a number out of range")
    if wanted is str and "\x00" in str(value):
        raise ValueError("a text with a zero byte")
    return value
