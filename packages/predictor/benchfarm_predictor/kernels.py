"""Configurations of one kernel type as columns of numbers: what features are computed from, thousands at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.columns import Column, Scalar
from benchfarm_workloads.kernels import kernel_type, kernel_types

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KNOWN: Final = frozenset(kind.name for kind in kernel_types())
"""The kernel types of the catalogue; every other name is a foreign kernel type."""
LARGEST: Final = 2**31


@dataclass(frozen=True, eq=False)
class Kernels:
    """n configurations of one kernel type. Make them by ``of_configs`` or ``of_rows``, which check and put in order.

    Attributes:
        type: of the catalogue, or a foreign name.
        columns: of a catalogue type its own columns in order, then columns that it does not have, by name.
        values: n x columns, int64; a text column holds the place of the choice in the catalogue's list.
    """

    type: str
    columns: tuple[str, ...]
    values: Ints
    matrices: dict[object, Floats] = field(default_factory=dict, repr=False)
    """Feature matrices made so far, by what made them: members of one ensemble share them."""

    @classmethod
    def of_configs(cls, type_name: str, configs: Sequence[Mapping[str, Scalar]]) -> "Kernels":
        """From configurations as workloads name them. Ranges are not checked; defaults are filled in.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` for a missing column, a word that is no choice, a number too large.
        """
        columns = _columns(type_name, _extra(type_name, configs))
        made = [_column_values(type_name, name, configs) for name in columns]
        values = np.array(made, dtype=np.int64).reshape(len(columns), len(configs)).T
        return cls(type_name, columns, np.ascontiguousarray(values))

    @classmethod
    def of_rows(cls, type_name: str, columns: Sequence[str], rows: Sequence[Sequence[int]] | Ints) -> "Kernels":
        """From a table of numbers as measurement sets hold it.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` for a missing column or a number too large.
        """
        table = np.asarray(rows, dtype=np.int64).reshape(len(rows), len(columns))
        if table.size and np.abs(table).max() > LARGEST:
            raise _refusal(type_name, "a number is too large", columns[0])
        known = {column.name: column for column in catalogue_columns(type_name)}
        ordered = _columns(type_name, sorted(set(columns) - set(known)) if known else list(columns))
        place = {name: at for at, name in enumerate(columns)}
        taken = [
            table[:, place[name]] if name in place else np.full(len(rows), _default(type_name, known[name]))
            for name in ordered
        ]
        return cls(type_name, ordered, np.ascontiguousarray(np.array(taken, dtype=np.int64).reshape(-1, len(rows)).T))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_known(self) -> bool:
        """Whether the type is of the catalogue."""
        return self.type in KNOWN

    def column(self, name: str) -> Floats:
        """One column as float64[n]; exact up to 2^53. Raises KeyError."""
        if name not in self.columns:
            raise KeyError(name)
        return self.values[:, self.columns.index(name)].astype(np.float64)

    def take(self, rows: Ints | npt.NDArray[np.bool_] | slice) -> "Kernels":
        """Some of the rows, in that order."""
        return Kernels(self.type, self.columns, self.values[rows])


def catalogue_columns(type_name: str) -> tuple[Column, ...]:
    """The columns of a catalogue type, none of a foreign one."""
    return kernel_type(type_name).columns if type_name in KNOWN else ()


def is_text(column: Column) -> bool:
    """Whether a column holds words."""
    return bool(column.choices) and isinstance(column.choices[0], str)


def _columns(type_name: str, extra: Sequence[str]) -> tuple[str, ...]:
    return (*(column.name for column in catalogue_columns(type_name)), *extra)


def _extra(type_name: str, configs: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """What the configurations have beyond the catalogue; of a foreign type all, in the order of the first one."""
    if not configs:
        return []
    known = {column.name for column in catalogue_columns(type_name)}
    extra = [name for name in configs[0] if name not in known]
    return sorted(extra) if known else extra


def _column_values(type_name: str, name: str, configs: Sequence[Mapping[str, Scalar]]) -> list[int]:
    column = next((each for each in catalogue_columns(type_name) if each.name == name), None)
    if column is not None and is_text(column):
        return _places(type_name, column, configs)
    found = []
    for config in configs:
        value = config.get(name, None if column is None else column.default)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST:
            raise _refusal(type_name, f"{name}={value!r:.40} must be an integer", name)
        found.append(value)
    return found


def _places(type_name: str, column: Column, configs: Sequence[Mapping[str, Scalar]]) -> list[int]:
    places = {choice: at for at, choice in enumerate(column.choices)}
    try:
        return [places[config.get(column.name, column.default)] for config in configs]  # type: ignore[index]
    except (KeyError, TypeError) as error:
        raise _refusal(type_name, f"{column.name} must be {column.allowed}", column.name) from error


def _default(type_name: str, column: Column) -> int:
    if column.default is None:
        raise _refusal(type_name, f"{column.name} is missing", column.name)
    return column.choices.index(column.default) if is_text(column) else int(column.default)


def _refusal(type_name: str, detail: str, column: str) -> InvalidRequest:
    return InvalidRequest(f"kernel {type_name}: {detail}", code="kernel_out_of_range", field=f"config.{column}")
