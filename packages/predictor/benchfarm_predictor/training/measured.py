"""Measured kernels of one type: what predictors are trained on, and what they are judged by."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import KernelRows
from benchfarm_predictor.kernels import Floats, Ints, Kernels, Rows

MIN_ROWS: Final = 10
"""Fewer say nothing when a part of them is held back to choose by."""
FOLDS: Final = 5
FOLDS_OF_MANY: Final = 3
MANY_ROWS: Final = 500
"""From here on fewer folds, and trees for fewer bases: what is left is plenty, and training is what costs."""


@dataclass(frozen=True, eq=False)
class Measured:
    """n configurations of one kernel type with what they took: ``latency_ms`` float64[n]."""

    kernels: Kernels
    latency_ms: Floats

    @classmethod
    def of_set(cls, rows: KernelRows) -> "Measured":
        """One kernel type of a measurement set. Raises InvalidRequest as ``Kernels.of_set`` does."""
        return cls(Kernels.of_set(rows), np.array(rows.latency_ms, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.latency_ms)

    @cached_property
    def log_ms(self) -> Floats:
        """Natural logarithms of the latencies: float64[n]."""
        logs: Floats = np.log(self.latency_ms)
        return logs

    def take(self, rows: Rows) -> "Measured":
        """Some of the rows, in that order."""
        return Measured(self.kernels.take(rows), self.latency_ms[rows])


@dataclass(frozen=True, eq=False)
class Fold:
    """A part of n rows that is held back, and the rest: row numbers int64, and the kernels of each."""

    train: Ints
    held: Ints
    train_kernels: Kernels
    held_kernels: Kernels


def config_keys(kernels: Kernels) -> list[bytes]:
    """Names each configuration within its kernel type, whatever the order of its columns."""
    order = sorted(range(len(kernels.columns)), key=kernels.columns.__getitem__)
    table = np.ascontiguousarray(kernels.values[:, order])
    return [row.tobytes() for row in table]


def check_rows(measured: Measured) -> None:
    """Refuse rows that nothing can be learnt from.

    Raises:
        InvalidRequest: ``training_rows_invalid``: too few rows, a latency that is no positive number, or all the same.
    """
    times_ms = measured.latency_ms
    reason = ""
    if len(times_ms) < MIN_ROWS:
        reason = f"{len(times_ms)} rows are too few, at least {MIN_ROWS} are needed"
    elif not (np.isfinite(times_ms) & (times_ms > 0)).all():
        reason = "a latency is no positive number"
    elif times_ms.min() == times_ms.max():
        reason = f"all {len(times_ms)} latencies are {times_ms[0]:g} ms: nothing can be learnt from them"
    if reason:
        raise InvalidRequest(f"kernel {measured.kernels.type}: {reason}", code="training_rows_invalid", field="rows")


def folds_of(measured: Measured, seed: int) -> tuple[Fold, ...]:
    """Folds that are alike: of rows with neighbouring latencies each goes to another fold."""
    count = FOLDS if len(measured) <= MANY_ROWS else FOLDS_OF_MANY
    chance = np.random.default_rng(seed)
    number = np.empty(len(measured), dtype=np.int64)
    order = np.argsort(measured.latency_ms, kind="stable")
    for start in range(0, len(order), count):
        block = order[start : start + count]
        number[block] = chance.permutation(count)[: len(block)]
    return tuple(_fold(measured.kernels, number == each) for each in range(count))


def _fold(kernels: Kernels, is_held: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Fold:
    train, held = np.flatnonzero(~is_held), np.flatnonzero(is_held)
    return Fold(train, held, kernels.take(train), kernels.take(held))
