"""Kernel lists: models and architectures as counted kernels, many at once, each different kernel held once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.kernels import Floats, Ints, Kernels
from benchfarm_workloads.columns import Scalar

CountedKernel = tuple[str, Mapping[str, Scalar], int]
"""Kernel type, configuration, how often."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The kernels of one type in n lists. ``owner``, ``kernel`` and ``count`` are int64 of one length: list ``owner[i]``
    holds the kernel ``kernels[kernel[i]]`` ``count[i]`` times."""

    kernels: Kernels
    owner: Ints
    kernel: Ints
    count: Ints


@dataclass(frozen=True, eq=False)
class KernelLists:
    """n kernel lists. ``by_type`` has each kernel type that occurs, in order of first appearance."""

    size: int
    by_type: Mapping[str, Entries]
    matrices: dict[object, Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lists: Iterable[Iterable[CountedKernel]]) -> "KernelLists":
        """From lists of (kernel type, configuration, count).

        Raises:
            InvalidRequest: ``kernel_out_of_range`` as ``Kernels.of_configs`` says, or for a count below 1.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return self.size

    def sums(self, values: Callable[[Kernels], Floats]) -> Floats:
        """float64[n]: per list the sum of count x value; ``values`` gives float64[u] for the different kernels of a type."""
        total = np.zeros(self.size)
        for entries in self.by_type.values():
            each = values(entries.kernels)[entries.kernel] * entries.count
            total += np.bincount(entries.owner, weights=each, minlength=self.size)
        return total

    def take(self, rows: Ints | npt.NDArray[np.bool_] | slice) -> "KernelLists":
        """Some of the lists, in that order."""
        raise NotImplementedError
