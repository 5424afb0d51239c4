"""Configurations of one kernel type as columns of numbers: what features are computed from, thousands at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import KernelRows
from benchfarm_workloads.columns import Column, Scalar
from benchfarm_workloads.kernels import kernel_type, kernel_types

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Rows = Ints | npt.NDArray[np.bool_] | slice
"""Which rows: numbers, a mask or a slice."""

KNOWN: Final = frozenset(kind.name for kind in kernel_types())
"""The kernel types of the catalogue; every other name is a foreign kernel type."""
LARGEST: Final = 2**31
"""No size of a kernel is larger: products of three stay exact enough in float64."""


@dataclass(frozen=True, eq=False)
class Kernels:
    """n configurations of one kernel type. Make them by ``of_configs``, ``of_rows`` or ``of_set``: they check and sort.

    Attributes:
        type: of the catalogue, or a foreign name.
        columns: of a catalogue type its own columns in order, then columns that it does not have, by name.
        values: int64[n, columns]; a text column holds the place of the choice in the catalogue's list.
        matrices: feature matrices made so far, by what made them: members of one ensemble share them.
        made: whatever else was worked out of these kernels and is wanted again, by what worked it out.
    """

    type: str
    columns: tuple[str, ...]
    values: Ints
    matrices: dict[object, Floats] = field(default_factory=dict, repr=False)
    made: dict[object, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_configs(cls, type_name: str, configs: Sequence[Mapping[str, Scalar]]) -> "Kernels":
        """From configurations as workloads name them. Ranges are not checked; defaults are filled in.

        Of a foreign type, every configuration has the columns of the first one.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` for a missing column, a word that is no choice, a number too large.
        """
        columns = _ordered(type_name, tuple(configs[0]) if configs else ())
        made = [_read(type_name, name, [config.get(name) for config in configs]) for name in columns]
        return cls(type_name, columns, _table(made, len(configs)))

    @classmethod
    def of_rows(
        cls,
        type_name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[int]] | Ints,
        fixed: Mapping[str, Scalar] | None = None,
    ) -> "Kernels":
        """From a table of integers; ``fixed`` holds columns that are the same in every row.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` as ``of_configs``.
        """
        fixed = fixed or {}
        given = _integers(type_name, columns, rows)
        ordered = _ordered(type_name, (*columns, *(name for name in fixed if name not in columns)))
        made = []
        for name in ordered:
            if name in columns:
                made.append(given[:, list(columns).index(name)])
            else:
                [value] = _read(type_name, name, [fixed.get(name)])
                made.append(np.full(len(given), value, dtype=np.int64))
        return cls(type_name, ordered, _table(made, len(given)))

    @classmethod
    def of_set(cls, rows: KernelRows) -> "Kernels":
        """From one kernel type of a measurement set; of a foreign type, fixed words are left out: they say nothing.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` as ``of_configs``.
        """
        known = rows.type in KNOWN
        fixed = {name: value for name, value in rows.fixed.items() if known or isinstance(value, int)}
        return cls.of_rows(rows.type, rows.columns, rows.configs, fixed)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_known(self) -> bool:
        """Whether the type is of the catalogue."""
        return self.type in KNOWN

    def column(self, name: str) -> Floats:
        """One column as float64[n]. Raises KeyError."""
        if name not in self.columns:
            raise KeyError(name)
        return self.values[:, self.columns.index(name)].astype(np.float64)

    def take(self, rows: Rows) -> "Kernels":
        """Some of the rows, in that order."""
        return Kernels(self.type, self.columns, self.values[rows])


def catalogue_columns(type_name: str) -> tuple[Column, ...]:
    """The columns of a catalogue type, none of a foreign one."""
    return kernel_type(type_name).columns if type_name in KNOWN else ()


def is_text(column: Column) -> bool:
    """Whether a column holds words."""
    return bool(column.choices) and isinstance(column.choices[0], str)


def _ordered(type_name: str, given: Sequence[str]) -> tuple[str, ...]:
    """The catalogue's columns in its order, then the others by name; of a foreign type as given."""
    own = tuple(column.name for column in catalogue_columns(type_name))
    others = [name for name in given if name not in own]
    return (*own, *(sorted(others) if own else others))


def _read(type_name: str, name: str, values: Sequence[object]) -> Ints:
    """int64[n] of one column's values; None stands for the catalogue's default."""
    column = next((each for each in catalogue_columns(type_name) if each.name == name), None)
    default = None if column is None else column.default
    filled = [default if value is None else value for value in values]
    if column is not None and is_text(column):
        places: dict[object, int] = {choice: at for at, choice in enumerate(column.choices)}
        filled = [places.get(value) if isinstance(value, str) else None for value in filled]
    for at, value in enumerate(filled):
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST:
            allowed = "a moderate integer" if column is None else column.allowed
            raise _refusal(type_name, f"{name}={values[at]!r:.40} must be {allowed}", name)
    return np.array(filled, dtype=np.int64)


def _integers(type_name: str, columns: Sequence[str], rows: Sequence[Sequence[int]] | Ints) -> Ints:
    first = columns[0] if columns else "type"
    try:
        table = np.asarray(rows, dtype=np.int64).reshape(len(rows), len(columns))
    except (OverflowError, ValueError) as error:
        raise _refusal(type_name, "rows must be integers, one for each column", first) from error
    if ((table > LARGEST) | (table < -LARGEST)).any():
        raise _refusal(type_name, f"a number is beyond {LARGEST}", first)
    return table


def _table(columns: Sequence[Ints], count: int) -> Ints:
    return np.ascontiguousarray(np.array(columns, dtype=np.int64).reshape(len(columns), count).T)


def _refusal(type_name: str, detail: str, column: str) -> InvalidRequest:
    return InvalidRequest(f"kernel {type_name[:40]}: {detail}", code="kernel_out_of_range", field=f"config.{column}")
