"""What one version says of many items on a platform: as rows one by one, as JSON many at once, or as columns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

from pydantic_core import to_json

from benchfarm_core.latency import AnswerRow
from benchfarm_core.latency_columns import ColumnPart

T = TypeVar("T")

_LISTS: Final = frozenset({"unknown_kernels", "outside"})


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """By item's number of the workload; lists, which are read one by one ten times as fast as arrays.

    `like`: an answer with all that its answers have in common; to check each of them takes six times as long. `rows`:
    where each number's values stand.
    """

    like: AnswerRow
    rows: Mapping[int, int]
    ms: list[float]
    low_ms: list[float]
    high_ms: list[float]
    coverage: list[float]
    unknown: tuple[tuple[str, ...], ...]
    outside: tuple[tuple[str, ...], ...]

    @cached_property
    def _own(self) -> dict[str, Sequence[Any]]:
        """What rows do not have in common, beside the item's number, by the names of an answer's fields."""
        return {
            "median_ms": self.ms,
            "low_ms": self.low_ms,
            "high_ms": self.high_ms,
            "normalised_ms": self.ms,
            "coverage": self.coverage,
            "unknown_kernels": self.unknown,
            "outside": self.outside,
        }

    def row(self, item_no: int, number: int) -> AnswerRow:
        """One row."""
        at = self.rows[number]
        return {**self.like, "item_no": item_no, **{name: values[at] for name, values in self._own.items()}}

    def texts(self, first_item: int, numbers: Sequence[int]) -> Iterator[str]:
        """The rows of items that stand one behind the other, each as JSON."""
        at = self._places(numbers)
        # the same list under two names is written once
        written = {
            id(values): (_lists if name in _LISTS else _numbers)(values, at) for name, values in self._own.items()
        }
        own = {name: written[id(values)] for name, values in self._own.items()}
        told: dict[str, Iterable[Any]] = {"item_no": range(first_item, first_item + len(at)), **own}
        return map(self._form.__mod__, zip(*(told[name] for name in self.like if name in told), strict=True))

    def columns(self, numbers: Sequence[int]) -> ColumnPart:
        """The same of all items that there are, as columns."""
        at = self._places(numbers)

        def own(name: str) -> list[Any] | None:
            return _chosen(self._own[name], at) if name in self._own else None

        return ColumnPart(self.like, own)

    def _places(self, numbers: Sequence[int]) -> list[int]:
        return [*map(self.rows.__getitem__, numbers)]

    @cached_property
    def _form(self) -> str:
        """A row with a place for each value of its own."""
        own = {"item_no", *self._own}
        parts = (
            json_text(name) + ":" + ("%s" if name in own else json_text(value).replace("%", "%%"))
            for name, value in self.like.items()
        )
        return "{" + ",".join(parts) + "}"


def json_text(value: Any) -> str:
    """As answers have it: what is no number is null."""
    return to_json(value, inf_nan_mode="null").decode()


def _chosen(values: Sequence[T], at: Sequence[int]) -> list[T]:
    return [*map(values.__getitem__, at)]


def _numbers(values: Sequence[float], at: Sequence[int]) -> list[str]:
    return json_text(_chosen(values, at))[1:-1].split(",")


def _lists(values: Sequence[tuple[str, ...]], at: Sequence[int]) -> list[str]:
    """Thousands of rows say the same."""
    chosen = _chosen(values, at)
    written = {one: json_text(one) for one in {*chosen}}
    return [*map(written.__getitem__, chosen)]
