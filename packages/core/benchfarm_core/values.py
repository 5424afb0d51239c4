"""The base of every value on the wire, and the one canonical form used for identities."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Sized
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails

MAX_FIELDS: Final = 200
"""Of one object: none of ours has as many. Of a million unknown ones each would be told, which takes a gigabyte."""


class Value(BaseModel):
    """Frozen, strict about unknown fields; at once a domain value and a message."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _numbers: ClassVar[frozenset[str]] = frozenset()
    _truths: ClassVar[frozenset[str]] = frozenset()
    _longest: ClassVar[Mapping[str, int]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        kinds = {name: {field.annotation, *get_args(field.annotation)} for name, field in cls.model_fields.items()}
        cls._numbers = frozenset(name for name, kind in kinds.items() if kind & {int, float} and bool not in kind)
        cls._truths = frozenset(name for name, kind in kinds.items() if bool in kind and not kind & {int, float})
        cls._longest = {
            name: most
            for name, field in cls.model_fields.items()
            if field.annotation not in (str, str | None) and (most := _longest(field.metadata)) is not None
        }

    @model_validator(mode="before")
    @classmethod
    def _looked_over(cls, data: Any) -> Any:
        """`false` would be taken for 0, and 0 for `false`. What is too long is not looked at: of a list's million wrong
        items each would be told before its length."""
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise ValueError(f"it has {len(data)} fields; no object has more than {MAX_FIELDS}")
        if not (cls._numbers or cls._truths or cls._longest):
            return data
        wrong = [("int_type", name) for name in cls._numbers if isinstance(data.get(name), bool)]
        wrong += [("bool_type", name) for name in cls._truths if type(data.get(name)) in (int, float)]
        long = [
            name
            for name, most in cls._longest.items()
            if isinstance(found := data.get(name), _SIZED) and len(found) > most
        ]
        if wrong or long:
            errors = [InitErrorDetails(type=kind, loc=(name,), input=data[name]) for kind, name in sorted(wrong)]
            errors += [_too_long(name, data[name], cls._longest[name]) for name in long]
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return data


_SIZED: Final = (list, tuple, dict)


def _longest(metadata: Sequence[Any]) -> int | None:
    """The most items of a field; None also where it looks at them by itself before."""
    if any(isinstance(each, BeforeValidator) for each in metadata):
        return None
    return next((most for each in metadata if (most := getattr(each, "max_length", None)) is not None), None)


def _too_long(name: str, value: Sized, most: int) -> InitErrorDetails:
    told = {"field_type": type(value).__name__.capitalize(), "max_length": most, "actual_length": len(value)}
    return InitErrorDetails(type="too_long", loc=(name,), input=None, ctx=told)


def at_most(most: int) -> BeforeValidator:
    """For a dictionary, where the field that holds it does not look: its entries come after its size."""

    def check(given: Any) -> Any:
        if isinstance(given, Mapping) and len(given) > most:
            raise ValueError(f"it has {len(given)} entries; the limit is {most}")
        return given

    return BeforeValidator(check)


class Answer(BaseModel):
    """A message that a server sends: unknown fields are ignored so that old clients survive additions."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, no NaN: the same bytes for the same value in every process."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return _CANONICAL.encode(value)


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_UNKEPT: Final = re.compile("[\x00\ud800-\udfff]")


def find_unkept(value: Any) -> str | None:
    """A text of a decoded JSON value, keys too, with a NUL or half a surrogate pair; None where no text has one.

    Postgres keeps neither in JSON, and each can be written in more ways than one before it is decoded.
    """
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if _UNKEPT.search(one):
                return one
        elif isinstance(one, Mapping):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            left += one
    return None


def digest(value: Any, *, length: int = 32) -> str:
    """The first ``length`` hexadecimal digits of SHA-256 over the canonical form."""
    return text_digest(canonical_json(value), length=length)


def text_digest(canonical: str, *, length: int = 32) -> str:
    """The same of what is canonical JSON already."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC: Postgres refuses zones beyond 16 hours, ISO 8601 does not. Raises ValueError."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the moment lies outside the years 1 to 9999 in UTC") from error


def date_and_time(given: object) -> object:
    """Before a moment is read: a number would be taken for seconds since 1970. Raises ValueError."""
    is_digits = isinstance(given, str) and given.replace(".", "", 1).lstrip("+-").isdigit()
    if is_digits or isinstance(given, int | float):
        raise ValueError("write date and time with a time zone, as in 2026-01-31T12:00:00Z")
    return given


Instant = Annotated[AwareDatetime, BeforeValidator(date_and_time), AfterValidator(in_utc)]
"""A moment that a caller names, in UTC."""
