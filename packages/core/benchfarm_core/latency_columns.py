"""Answers of a latency question as columns: thousands of numbers as one text of bytes, what repeats told once.

A document holds `format`, `count` and, by the names of `LatencyAnswer`, two kinds of columns. `numbers`: float64,
little endian, NaN for none. `coded`: int32, little endian, the place of each answer's value in that column's list in
`values`, -1 for none. Answers are in the order of the question, items outer, platforms inner, so that `item_no` is the
number of the answer over the number of platforms, which are `values.platform` in their order.
"""

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from math import isnan, nan
from typing import Any, Final, NamedTuple, Self

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import AnswerRow, LatencyAnswer

COLUMNS_TYPES: Final = ("application/vnd.msgpack", "application/msgpack", "application/x-msgpack")
"""Media types by which columns are asked for; the first is the registered one."""
FORMAT: Final = 1
NUMBERS: Final = ("median_ms", "low_ms", "high_ms", "normalised_ms", "coverage", "age_s")
CODED: Final = (
    "platform",
    "timing",
    "source",
    "grade",
    "clock_proof",
    "measurement_id",
    "measured_at",
    "origin",
    "predictor_id",
    "predictor_version",
    "unknown_kernels",
    "outside",
    "within_tolerance",
    "job_id",
    "error",
    "detail",
    "field",
)
NONE: Final = -1


@dataclass(frozen=True, eq=False)
class LatencyColumns:
    """Answers as columns. `numbers`: float64 by name, NaN for none; `codes`: int32 by name, places in `values`."""

    count: int
    numbers: Mapping[str, "array[float]"]
    codes: Mapping[str, "array[int]"]
    values: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read a document. Raises InvalidRequest for what is none, or of a later format."""
        try:
            if document["format"] != FORMAT:
                raise InvalidRequest(f"answers in the columns' format {document['format']!r:.20} are not known here")
            numbers = {name: _read("d", document["numbers"][name]) for name in NUMBERS}
            codes = {name: _read("i", document["coded"][name]) for name in CODED}
            found = cls(document["count"], numbers, codes, {name: document["values"][name] for name in CODED})
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(f"these are no columns of answers: {error!r:.100}") from error
        found.check()
        return found

    def check(self) -> None:
        """Raise InvalidRequest for columns of different lengths, and for places of no value."""
        lengths = {len(each) for each in self.numbers.values()} | {len(each) for each in self.codes.values()}
        if lengths != {self.count}:
            raise InvalidRequest("the columns of answers have different lengths")
        for name, codes in self.codes.items():
            if codes and not NONE <= min(codes) <= max(codes) < len(self.values[name]):
                raise InvalidRequest(f"the column {name} names values that are not there")

    @property
    def platforms(self) -> tuple[str, ...]:
        """Those of each item, in their order."""
        return tuple(self.values["platform"])

    def row(self, number: int) -> dict[str, Any]:
        """One answer by the names of its fields."""
        numbers = {name: None if isnan(each[number]) else each[number] for name, each in self.numbers.items()}
        coded = {name: None if each[number] == NONE else self.values[name][each[number]]
                 for name, each in self.codes.items()}  # fmt: skip
        return {"item_no": number // max(len(self.platforms), 1), **numbers, **coded}

    def answer(self, number: int) -> LatencyAnswer:
        """One answer."""
        return LatencyAnswer.model_validate(self.row(number))

    def answers(self) -> Iterator[LatencyAnswer]:
        """All of them in order."""
        return map(self.answer, range(self.count))


def columns_of(answers: Iterable[AnswerRow]) -> dict[str, Any]:
    """Answers as a document, which MessagePack takes as it is. They are read one by one, and take 116 bytes each
    beside their values."""
    numbers = {name: array("d") for name in NUMBERS}
    codes = {name: array("i") for name in CODED}
    known: dict[str, dict[Any, int]] = {name: {} for name in CODED}
    count = 0
    for fields in answers:
        for name, column in numbers.items():
            value = fields[name]
            column.append(nan if value is None else value)
        for name, places in codes.items():
            value = fields[name]
            of_column = known[name]
            places.append(NONE if value is None else of_column.setdefault(value, len(of_column)))
        count += 1
    return {
        "format": FORMAT,
        "count": count,
        "numbers": {name: _written(numbers.pop(name)) for name in NUMBERS},
        "coded": {name: _written(codes.pop(name)) for name in CODED},
        "values": {name: [_plain(value) for value in each] for name, each in known.items()},
    }


class ColumnPart(NamedTuple):
    """What is said of all items on one platform. `like`: the fields that its answers have in common. `own`: of each
    other one, by its name, a value for each item, none of the numbers None; None of those in common. It is asked for a
    column when that is made, so that no two are held."""

    like: AnswerRow
    own: Callable[[str], Sequence[Any] | None]


def columns_of_parts(parts: Sequence[ColumnPart], count: int) -> dict[str, Any]:
    """The same document of `count` items on the platforms of `parts`, column by column, which takes a fraction."""
    return {
        "format": FORMAT,
        "count": count * len(parts),
        "numbers": {name: _written(_number_column(name, parts, count)) for name in NUMBERS},
        **_coded_columns(parts, count),
    }


def _number_column(name: str, parts: Sequence[ColumnPart], count: int) -> "array[float]":
    column = array("d", bytes(8 * count * len(parts)))
    for place, part in enumerate(parts):
        own = part.own(name)
        common = part.like[name]
        values = array("d", [nan if common is None else common]) * count if own is None else array("d", own)
        column[place :: len(parts)] = values
    return column


def _coded_columns(parts: Sequence[ColumnPart], count: int) -> dict[str, Any]:
    coded, values = {}, {}
    for name in CODED:
        known: dict[Any, int] = {}
        column = array("i", bytes(4 * count * len(parts)))
        for place, part in enumerate(parts):
            own = part.own(name)
            told = [part.like[name]] if own is None else own
            codes = {one: NONE if one is None else known.setdefault(one, len(known)) for one in dict.fromkeys(told)}
            found = array("i", map(codes.__getitem__, told))
            column[place :: len(parts)] = found * count if own is None else found
        coded[name] = _written(column)
        values[name] = [_plain(value) for value in known]
    return {"coded": coded, "values": values}


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def _written(column: "array[float] | array[int]") -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _read(kind: str, data: bytes) -> "array[Any]":
    column: array[Any] = array(kind)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
