"""Kernel lists: models and architectures as counted kernels, many at once, each different kernel held once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Floats, Ints, Kernels, Rows
from benchfarm_workloads.columns import Scalar

CountedKernel = tuple[str, Mapping[str, Scalar], int]
"""Kernel type, configuration, how often."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The kernels of one type in n lists: list ``owner[i]`` holds ``kernels[kernel[i]]`` ``count[i]`` times.

    ``owner``, ``kernel`` and ``count``: int64 of one length.
    """

    kernels: Kernels
    owner: Ints
    kernel: Ints
    count: Ints


@dataclass(frozen=True, eq=False)
class KernelLists:
    """n kernel lists. ``by_type`` has each kernel type that occurs, in order of first appearance.

    ``matrices``: feature matrices made so far, by what made them.
    """

    size: int
    by_type: Mapping[str, Entries]
    matrices: dict[object, Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lists: Iterable[Iterable[CountedKernel]]) -> "KernelLists":
        """From lists of (kernel type, configuration, count).

        Raises:
            InvalidRequest: ``kernel_out_of_range`` as ``Kernels.of_configs`` says, or for a count below 1.
        """
        collected: dict[str, _Collected] = {}
        size = 0
        for owner, kernels in enumerate(lists):
            size = owner + 1
            for type_name, config, count in kernels:
                of_type = collected.get(type_name)
                if of_type is None:
                    of_type = collected[type_name] = _Collected()
                of_type.owner.append(owner)
                of_type.kernel.append(of_type.place(config))
                of_type.count.append(count)
        return cls(size, {name: each.entries(name) for name, each in collected.items()})

    def __len__(self) -> int:
        return self.size

    @property
    def kernel_counts(self) -> Floats:
        """How many kernels each list holds: float64[n]."""
        return self.sums(lambda kernels: np.ones(len(kernels)))

    def sums(self, values: Callable[[Kernels], Floats]) -> Floats:
        """float64[n]: per list the sum of count x value; ``values`` gives float64[u] for one type's u kernels."""
        total = np.zeros(self.size)
        for entries in self.by_type.values():
            total += self.sums_of(entries, values(entries.kernels))
        return total

    def sums_of(self, entries: Entries, values: Floats) -> Floats:
        """The same for one type: float64[u] to float64[n]."""
        weights = values[entries.kernel] * entries.count
        return np.bincount(entries.owner, weights=weights, minlength=self.size).astype(np.float64)

    def maxima_of(self, entries: Entries, values: Floats) -> Floats:
        """Per list the largest value among its kernels of one type, 0 where it has none: float64[u] to float64[n]."""
        largest = np.zeros(self.size)
        np.maximum.at(largest, entries.owner, values[entries.kernel])
        return largest

    def take(self, rows: Rows) -> "KernelLists":
        """Some of the lists, in that order; a list may come twice."""
        chosen = np.arange(self.size)[rows]
        taken = {name: _taken(entries, chosen) for name, entries in self.by_type.items()}
        return KernelLists(len(chosen), {name: entries for name, entries in taken.items() if len(entries.owner)})


@dataclass(slots=True)
class _Collected:
    """One type's kernels while lists are read; equal configurations are one.

    ``objects``: places by the identity of the configurations that are kept, and so are nobody else's meanwhile: many
    lists hold the very same ones, and to compare all their columns takes most of the time.
    """

    places: dict[tuple[Scalar, ...], int] = field(default_factory=dict)
    objects: dict[int, int] = field(default_factory=dict)
    configs: list[Mapping[str, Scalar]] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    kernel: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)

    def place(self, config: Mapping[str, Scalar]) -> int:
        place = self.objects.get(id(config))
        if place is not None:
            return place
        # names, then values: two configurations are one key only if they are equal
        key = (*config, *config.values())
        place = self.places.setdefault(key, len(self.configs))
        if place == len(self.configs):
            self.configs.append(config)
            self.objects[id(config)] = place
        return place

    def entries(self, type_name: str) -> Entries:
        if min(self.count) < 1:
            detail = f"a kernel {type_name[:40]} occurs {min(self.count)} times"
            raise InvalidRequest(detail, code="kernel_out_of_range", field="count")
        kernels = Kernels.of_configs(type_name, self.configs)
        owner, kernel, count = (np.array(each, dtype=np.int64) for each in (self.owner, self.kernel, self.count))
        return Entries(kernels, owner, kernel, count)


def _taken(entries: Entries, chosen: Ints) -> Entries:
    """The entries of the chosen lists, and only the kernels that they hold."""
    order = np.argsort(entries.owner, kind="stable")
    owners = entries.owner[order]
    first, last = np.searchsorted(owners, chosen, "left"), np.searchsorted(owners, chosen, "right")
    lengths = last - first
    ends = np.cumsum(lengths)
    offsets = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    at = order[np.repeat(first, lengths) + offsets]
    used, kernel = np.unique(entries.kernel[at], return_inverse=True)
    owner = np.repeat(np.arange(len(chosen)), lengths)
    return Entries(entries.kernels.take(used), owner, kernel.astype(np.int64), entries.count[at])
