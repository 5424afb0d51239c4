"""What one version says of many items on a platform: as rows one by one, as JSON many at once, or as columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

from pydantic_core import to_json

from benchfarm_core.latency import AnswerRow
from benchfarm_core.latency_columns import ColumnPart

T = TypeVar("T")

_OWN: Final = frozenset(
    {"item_no", "median_ms", "low_ms", "high_ms", "normalised_ms", "coverage", "unknown_kernels", "outside"}
)
"""What rows do not have in common."""


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

    def row(self, item_no: int, number: int) -> AnswerRow:
        """One row."""
        at = self.rows[number]
        return {
            **self.like,
            "item_no": item_no,
            "median_ms": self.ms[at],
            "low_ms": self.low_ms[at],
            "high_ms": self.high_ms[at],
            "normalised_ms": self.ms[at],
            "coverage": self.coverage[at],
            "unknown_kernels": self.unknown[at],
            "outside": self.outside[at],
        }

    def texts(self, first_item: int, numbers: Sequence[int]) -> Iterator[str]:
        """The rows of items that stand one behind the other, each as JSON."""
        at = [*map(self.rows.__getitem__, numbers)]
        ms = _numbers(self.ms, at)
        own = {
            "item_no": range(first_item, first_item + len(at)),
            "median_ms": ms,
            "low_ms": _numbers(self.low_ms, at),
            "high_ms": _numbers(self.high_ms, at),
            "normalised_ms": ms,
            "coverage": _numbers(self.coverage, at),
            "unknown_kernels": _lists(self.unknown, at),
            "outside": _lists(self.outside, at),
        }
        return map(self._form.__mod__, zip(*(own[name] for name in self.like if name in own), strict=True))

    def columns(self, numbers: Sequence[int]) -> ColumnPart:
        """The same of all items that there are, as columns."""
        at = [*map(self.rows.__getitem__, numbers)]
        ms = _chosen(self.ms, at)
        own = {
            "median_ms": ms,
            "low_ms": _chosen(self.low_ms, at),
            "high_ms": _chosen(self.high_ms, at),
            "normalised_ms": ms,
            "coverage": _chosen(self.coverage, at),
            "unknown_kernels": _chosen(self.unknown, at),
            "outside": _chosen(self.outside, at),
        }
        return ColumnPart(self.like, own)

    @cached_property
    def _form(self) -> str:
        """A row with a place for each value of its own."""
        parts = (
            json_text(name) + ":" + ("%s" if name in _OWN else json_text(value).replace("%", "%%"))
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
