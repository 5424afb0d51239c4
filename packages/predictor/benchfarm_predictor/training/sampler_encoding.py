"""Configurations as vectors for a network, and vectors as configurations that the catalogue takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value
from benchfarm_predictor.kernels import LARGEST, Floats
from benchfarm_workloads.columns import Column, Config, Scalar
from benchfarm_workloads.kernel_frequencies import KernelFrequencies
from benchfarm_workloads.kernels import kernel_type

MAX_CATEGORIES: Final = 8
"""A column of integers with no more different values is a choice between them, not a size."""
GRID: Final = 8
"""Networks take channels in multiples of it."""
GRID_SHARE: Final = 0.9


_Size = Annotated[int, Field(ge=0, le=LARGEST)]


class EncodedColumn(Value):
    """One column. With ``values`` it is a choice among them, else a size from ``low`` to ``high`` in steps of ``step``.

    ``seen``: sizes that occur; a size is drawn as one of them or as a multiple of ``step``, whichever is nearer.
    """

    name: str
    values: tuple[int | str, ...] = ()
    low: _Size = 0
    high: _Size = 0
    step: _Size = 1
    seen: tuple[_Size, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> "EncodedColumn":
        sizes = 1 <= self.low < self.high and self.step >= 1 and len(self.seen) > 1 and min(self.seen) >= 1
        if not self.values and not (sizes and list(self.seen) == sorted(self.seen)):
            raise ValueError(f"column {self.name} is neither a choice nor a size")
        return self

    @property
    def width(self) -> int:
        """Numbers that it takes in a vector: none where there is nothing to choose."""
        return len(self.values) if len(self.values) > 1 else 0 if self.values else 1


@dataclass(frozen=True, slots=True)
class Encoding:
    """A vector holds, for each column in order, the logarithm of a size scaled to 0 .. 1, or a place for each value."""

    type: str
    columns: tuple[EncodedColumn, ...]

    @classmethod
    def of(cls, frequencies: KernelFrequencies) -> "Encoding":
        """Ranges and values as they occur."""
        return cls(
            frequencies.type, tuple(_encoded(column, frequencies) for column in kernel_type(frequencies.type).columns)
        )

    @property
    def width(self) -> int:
        """Length of a vector."""
        return sum(column.width for column in self.columns)

    @property
    def is_size(self) -> npt.NDArray[np.bool_]:
        """bool[width]: whether a place of the vector is a size; the others are places of choices."""
        return np.array([not column.values for column in self.columns for _ in range(column.width)], dtype=np.bool_)

    @property
    def choices(self) -> tuple[tuple[int, int], ...]:
        """Where in a vector each choice begins and ends."""
        found, at = [], 0
        for column in self.columns:
            if column.values and column.width:
                found.append((at, at + column.width))
            at += column.width
        return tuple(found)

    def encode(self, configs: Sequence[Config]) -> Floats:
        """float64[n, width]."""
        parts = [_encode(column, [config[column.name] for config in configs]) for column in self.columns]
        return np.concatenate(parts, axis=1)

    def decode(self, vectors: Floats, chance: np.random.Generator) -> list[Config | None]:
        """A valid configuration for each of float64[n, width], None where the catalogue takes none like it.

        Places of choices are logits, from which one is drawn.
        """
        columns: list[Sequence[Scalar]] = []
        at = 0
        for column in self.columns:
            columns.append(_decode(column, vectors[:, at : at + column.width], chance))
            at += column.width
        names = [column.name for column in self.columns]
        return [
            valid_or_none(self.type, dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"type": self.type, "columns": [column.model_dump(mode="json") for column in self.columns]}

    @classmethod
    def from_json(cls, document: Any) -> "Encoding":
        """The inverse. Raises ValueError, KeyError, TypeError for anything else, InvalidRequest for no kernel type."""
        columns = tuple(EncodedColumn.model_validate(column) for column in document["columns"])
        if [column.name for column in columns] != [column.name for column in kernel_type(document["type"]).columns]:
            raise ValueError("the columns are not those of the kernel type")
        return cls(document["type"], columns)


def _encoded(column: Column, frequencies: KernelFrequencies) -> EncodedColumn:
    values = [config[column.name] for config in frequencies.configs]
    different = sorted(set(values), key=lambda value: (str(type(value)), value))
    sizes = [value for value in different if isinstance(value, int)]
    if column.choices or len(sizes) < len(different) or len(different) <= MAX_CATEGORIES:
        return EncodedColumn(name=column.name, values=tuple(different))
    on_grid = sum(share for value, share in zip(values, frequencies.shares, strict=True) if int(value) % GRID == 0)
    step = GRID if on_grid >= GRID_SHARE and column.unit == "channels" else 1
    seen = tuple(size for size in sizes if size > 0)
    return EncodedColumn(name=column.name, low=seen[0], high=seen[-1], step=step, seen=seen)


def _encode(column: EncodedColumn, values: Sequence[Scalar]) -> Floats:
    if column.values:
        table = np.array([[value == one for one in column.values] for value in values], dtype=np.float64)
        return table if column.width else table[:, :0]
    low, high = np.log2(column.low), np.log2(column.high)
    logs: Floats = np.log2(np.maximum(1.0, np.array(values, dtype=np.float64)))
    scaled: Floats = (logs - low) / (high - low)
    return scaled[:, None]


def _decode(column: EncodedColumn, part: Floats, chance: np.random.Generator) -> Sequence[Scalar]:
    if not column.values:
        return _sizes(column, part[:, 0])
    if not column.width:
        return [column.values[0]] * len(part)
    odds = np.exp(part - part.max(axis=1, keepdims=True))
    ends = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
    places = (chance.random((len(part), 1)) > ends[:, :-1]).sum(axis=1)
    return [column.values[place] for place in places]


def _sizes(column: EncodedColumn, scaled: Floats) -> list[Scalar]:
    """The nearest size that occurs or lies on the grid, by ratio."""
    low, high = np.log2(column.low), np.log2(column.high)
    wanted = np.exp2(low + np.clip(scaled, 0.0, 1.0) * (high - low))
    seen = np.array(column.seen, dtype=np.float64)
    right = np.clip(np.searchsorted(seen, wanted), 1, len(seen) - 1)
    on_grid = np.maximum(column.step, np.round(wanted / column.step) * column.step)
    nearest = np.stack([seen[right - 1], seen[right], on_grid])
    best = np.argmin(np.abs(np.log2(nearest / wanted)), axis=0)
    return [int(value) for value in nearest[best, np.arange(len(wanted))]]


def valid_or_none(type_name: str, config: Config) -> Config | None:
    """The canonical configuration where the catalogue takes it."""
    try:
        return kernel_type(type_name).validate(config)
    except InvalidRequest:
        return None
