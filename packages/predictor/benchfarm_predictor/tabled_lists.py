"""Whole models of which only sums over their kernels are known: what a table of a search space tells of architectures.

The sums are those that predictors take from kernel lists (`sums.py`, `composition.py`, `trained_range.py`). All of them
are whole numbers, or multiples of a power of two, so that they are exact in whatever order they were added up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.elementary import Column
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Rows

KERNELS: Final = "kernels"
OUTSIDE_BYTES: Final = "outside_bytes"
"""Bytes of each kernel times its octaves outside the trained range."""


@dataclass(frozen=True, eq=False)
class TabledLists(KernelLists):
    """n kernel lists without kernels. ``totals``: the sums by name; those that are 0 everywhere may be missing."""

    totals: Mapping[str, Column] = field(default_factory=dict)

    @property
    def kernel_counts(self) -> Floats:
        """As ``KernelLists`` says."""
        return self.total(KERNELS)

    def total(self, name: str) -> Floats:
        """One sum: float64[n]."""
        return np.broadcast_to(np.asarray(self.totals.get(name, 0.0), dtype=np.float64), (self.size,))

    def take(self, rows: Rows) -> "TabledLists":
        """As ``KernelLists`` says."""
        count = len(np.arange(self.size)[rows])
        some = {name: each if isinstance(each, float) else each[rows] for name, each in self.totals.items()}
        return TabledLists(count, {}, totals=some)


def tabled(lists: KernelLists) -> TabledLists:
    """The lists as those of a table. Raises InvalidRequest, ``predictor_file_foreign``, for lists of kernels: a model
    that a table holds answers from its table alone."""
    if not isinstance(lists, TabledLists):
        raise InvalidRequest("the model is part of a table and knows no kernels", code="predictor_file_foreign")
    return lists
