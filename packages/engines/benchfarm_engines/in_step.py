"""Columns walked through together, for boards too: their Python may be older than `zip(strict=True)`."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final, TypeVar, overload

_One = TypeVar("_One")
_Two = TypeVar("_Two")
_Three = TypeVar("_Three")
_END: Final = object()


@overload
def in_step(one: Iterable[_One], two: Iterable[_Two], /) -> Iterator[tuple[_One, _Two]]: ...
@overload
def in_step(
    one: Iterable[_One], two: Iterable[_Two], three: Iterable[_Three], /
) -> Iterator[tuple[_One, _Two, _Three]]: ...
def in_step(*columns: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of columns of one length. Raises ValueError where one ends before another."""
    for row in zip_longest(*columns, fillvalue=_END):
        if any(each is _END for each in row):
            raise ValueError("columns of different lengths")
        yield row
