"""Which configurations a predictor was trained on, and how far outside a configuration lies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.elementary import Column, log2
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints, Kernels, catalogue_columns, is_text
from benchfarm_predictor.models import Batch
from benchfarm_predictor.quantities import quantities
from benchfarm_predictor.sums import in_order, raw_sums
from benchfarm_predictor.tabled_lists import KERNELS, OUTSIDE_BYTES, TabledLists
from benchfarm_workloads.costs import BYTES_PER_ELEMENT

UNSEEN_WORD: Final = 1.0
"""Octaves that a word counts which was never seen, as an activation of another kind."""
_TOTALS: Final = ("kflops", "bytes", "parameters", "kernels")
_LARGEST_TOTAL: Final = 2.0**62
"""Kernel lists may name kernels of any size a hundred thousand times: beyond it a whole number would turn negative."""
PARTS_OF_OCTAVE: Final = 2.0**12
"""Of octaves of kernels, which are multiplied by bytes and summed up."""
TOTALS_OF: Final = "model"
"""Instead of a kernel type: totals of whole models."""


@dataclass(frozen=True, eq=False)
class TrainedRange:
    """Per kernel type its columns with the least and the largest value seen; int64[columns] each.

    Of a text column both are the seen choices as a set of bits. Of whole models also ``TOTALS_OF`` is there.
    """

    columns: Mapping[str, tuple[str, ...]]
    low: Mapping[str, Ints]
    high: Mapping[str, Ints]

    @classmethod
    def of(cls, batch: Batch) -> "TrainedRange":
        """The range of what a model is fitted on. The batch has at least one row."""
        columns, low, high = {}, {}, {}
        for kernels in _tables(batch):
            columns[kernels.type] = kernels.columns
            low[kernels.type], high[kernels.type] = _bounds(kernels)
        return cls(columns, low, high)

    def octaves_outside(self, batch: Batch) -> Floats:
        """float64[n]: 0 inside; else the sum over columns of how often the nearest bound must be doubled or halved.

        Of a whole model: that of its totals, and the mean over its kernels by their share of bytes. A kernel type that
        was never seen counts 0 here: who predicts it says what is unknown.
        """
        if isinstance(batch, Kernels):
            return self._octaves(batch)
        if isinstance(batch, TabledLists):
            share, weight = batch.total(OUTSIDE_BYTES), np.asarray(in_order(model_bytes(batch.totals)))
        else:
            share = batch.sums(self.outside_bytes, self, "outside_bytes")
            weight = batch.sums(_size_bytes, _size_bytes)
        found: Floats = share / np.maximum(weight, 1) + self._octaves(totals(batch))
        return found

    def outside_bytes(self, kernels: Kernels) -> Floats:
        """Each kernel's bytes times its octaves, these so coarse that sums are exact: float64[u]."""
        return _size_bytes(kernels) * (np.rint(self._octaves(kernels) * PARTS_OF_OCTAVE) / PARTS_OF_OCTAVE)

    def _octaves(self, kernels: Kernels) -> Floats:
        """float64[n] of one table."""
        total: Floats = self.outside(kernels).sum(axis=1)
        return total

    def outside(self, kernels: Kernels) -> Floats:
        """Octaves by column: float64[n, columns of the kernels]."""
        octaves = np.zeros(kernels.values.shape)
        known = self.columns.get(kernels.type, ())
        words = {column.name for column in catalogue_columns(kernels.type) if is_text(column)}
        for at, name in enumerate(kernels.columns):
            if name not in known:
                continue
            place = known.index(name)
            low, high = int(self.low[kernels.type][place]), int(self.high[kernels.type][place])
            values = kernels.values[:, at]
            if name in words:
                octaves[:, at] = np.where((low >> values) & 1, 0.0, UNSEEN_WORD)
            else:
                octaves[:, at] = _octaves(values, low, high)
        return octaves

    def findings(self, kernels: Kernels, row: int) -> tuple[str, ...]:
        """What of one configuration lies outside, for people: ``cout=2048 (16 to 960)``."""
        found = np.flatnonzero(self.outside(kernels)[row])
        return tuple(self._finding(kernels, row, int(at)) for at in found)

    def _finding(self, kernels: Kernels, row: int, at: int) -> str:
        name, value = kernels.columns[at], int(kernels.values[row, at])
        column = next((each for each in catalogue_columns(kernels.type) if each.name == name), None)
        if column is not None and is_text(column):
            return f"{name}={column.choices[value]} (never seen)"
        place = self.columns[kernels.type].index(name)
        return f"{name}={value} ({self.low[kernels.type][place]} to {self.high[kernels.type][place]})"


def _tables(batch: Batch) -> Iterable[Kernels]:
    if isinstance(batch, Kernels):
        return (batch,)
    return (*(entries.kernels for entries in batch.by_type.values()), totals(batch))


def totals(lists: KernelLists) -> Kernels:
    """Totals of whole models, as if they were the columns of a kernel type; work in thousands of FLOPs. For the same
    lists the same again."""
    if TOTALS_OF not in lists.made:
        lists.made[TOTALS_OF] = _totals(raw_sums(lists), len(lists))
    found: Kernels = lists.made[TOTALS_OF]
    return found


def _totals(raw: Mapping[str, Column], count: int) -> Kernels:
    flops = in_order(each for name, each in raw.items() if name.endswith("_flops"))
    weights = in_order(each for name, each in raw.items() if name.endswith("_weight_bytes"))
    made = (flops / 1e3, in_order(model_bytes(raw)), weights / BYTES_PER_ELEMENT, raw[KERNELS])
    table = np.empty((count, len(made)), dtype=np.int64)
    for at, each in enumerate(made):
        table[:, at] = np.minimum(each, _LARGEST_TOTAL)
    return Kernels(TOTALS_OF, _TOTALS, table)


def model_bytes(raw: Mapping[str, Column]) -> Iterable[Column]:
    """What adds up to the bytes of all kernels' inputs, outputs and weights, of raw sums."""
    return (each for name, each in raw.items() if name.endswith(("_activation_bytes", "_weight_bytes")))


def _size_bytes(kernels: Kernels) -> Floats:
    found = quantities(kernels)
    return np.ones(len(kernels)) if found is None else found.total_bytes


def _bounds(kernels: Kernels) -> tuple[Ints, Ints]:
    low, high = kernels.values.min(axis=0), kernels.values.max(axis=0)
    words = {column.name for column in catalogue_columns(kernels.type) if is_text(column)}
    for at, name in enumerate(kernels.columns):
        if name in words:
            seen = np.bitwise_or.reduce(np.left_shift(1, kernels.values[:, at]))
            low[at] = high[at] = seen
    return low, high


def _octaves(values: Ints, low: int, high: int) -> Floats:
    """Zero and negative sizes count as one."""
    if ((values >= low) & (values <= high)).all():
        return np.zeros(len(values))
    sizes = log2(np.maximum(values, 1).astype(np.float64))
    above, below = sizes - log2(float(max(high, 1))), log2(float(max(low, 1))) - sizes
    octaves: Floats = np.maximum(np.maximum(above, below), 0.0)
    return octaves
