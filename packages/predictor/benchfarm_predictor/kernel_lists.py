"""Kernel lists: models and architectures as counted kernels, many at once, each different kernel held once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Floats, Ints, Kernels, Rows
from benchfarm_workloads.columns import Scalar

CountedKernel = tuple[str, Mapping[str, Scalar], int]
"""Kernel type, configuration, how often."""


Columns = tuple[Ints, Ints, Ints]
B = TypeVar("B")
T = TypeVar("T")
Keep = Callable[[object, str, Callable[[], Any]], Any]
"""What was kept of kernel lists, by what it follows from and a name; else what the last argument makes."""
_NO_BLOCK: Final = -1
"""Stands for the empty block of a list that has none."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The kernels of one type in n lists: list ``owner[i]`` holds ``kernels[kernel[i]]`` ``count[i]`` times.

    ``owner``, ``kernel`` and ``count``: int64 of one length. ``columns`` makes these three when somebody asks for one.
    """

    kernels: Kernels
    columns: Callable[[], Columns]

    @property
    def owner(self) -> Ints:
        """The numbers of lists."""
        return self._made[0]

    @property
    def kernel(self) -> Ints:
        """Places in ``kernels``."""
        return self._made[1]

    @property
    def count(self) -> Ints:
        """How often, at least 1."""
        return self._made[2]

    @cached_property
    def _made(self) -> Columns:
        return self.columns()


@dataclass(frozen=True, eq=False)
class Blocks:
    """Kernel lists as blocks that many of them share: list i is ``lists[block[j]]`` for j from ``starts[i]`` on.

    Attributes:
        lists: the different blocks, each a kernel list.
        block: int64, numbers of blocks, those of one list behind those of the one before.
        starts: int64[n], ascending: each list has at least one block.
    """

    lists: "KernelLists"
    block: Ints
    starts: Ints

    @property
    def lengths(self) -> Ints:
        """int64[n]: how many blocks each list has."""
        return np.diff(self.starts, append=len(self.block))

    def added(self, of_block: Floats) -> Floats:
        """Sums over the blocks of each list: float64[blocks] to float64[n]."""
        found: Floats = np.add.reduceat(of_block[self.block], self.starts) if len(self.starts) else np.zeros(0)
        return found

    def largest(self, of_block: Floats) -> Floats:
        """The largest among the blocks of each list: float64[blocks] to float64[n]."""
        found: Floats = np.maximum.reduceat(of_block[self.block], self.starts) if len(self.starts) else np.zeros(0)
        return found

    def entries(self, type_name: str) -> Entries:
        """The kernels of one type in the lists themselves."""
        return Entries(self.lists.by_type[type_name].kernels, lambda: self._columns(type_name))

    def _columns(self, type_name: str) -> Columns:
        of_blocks = self.lists.by_type[type_name]
        order = np.argsort(of_blocks.owner, kind="stable")
        owners = of_blocks.owner[order]
        at, of_pair = _runs(owners, self.block)
        chosen = order[at]
        owner = np.repeat(np.arange(len(self.starts)), self.lengths)[of_pair]
        return owner, of_blocks.kernel[chosen], of_blocks.count[chosen]


@dataclass(frozen=True, eq=False)
class KernelLists:
    """n kernel lists. ``by_type`` has each kernel type that occurs, in order of first appearance.

    ``matrices``: feature matrices made so far, by what made them. ``blocks``: what the lists are made of, where they
    were made of blocks: sums are then worked out of each block once. ``made`` is as that of ``Kernels``. ``keep``: what
    keeps sums of these lists for others who ask for the same ones.
    """

    size: int
    by_type: Mapping[str, Entries]
    matrices: dict[object, Floats] = field(default_factory=dict, repr=False)
    blocks: Blocks | None = field(default=None, repr=False)
    made: dict[object, Any] = field(default_factory=dict, repr=False)
    keep: Keep | None = field(default=None, repr=False)

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

    @classmethod
    def of_blocks(cls, lists: Iterable[Sequence[B]], kernels: Callable[[B], Iterable[CountedKernel]]) -> "KernelLists":
        """From lists of blocks; ``kernels`` gives those of a block. Blocks that are one object are looked at once.

        Raises:
            InvalidRequest: as ``of``.
        """
        places: dict[int, int] = {}
        different: list[B] = []  # kept, so that no other has the identity of one
        block: list[int] = []
        starts: list[int] = []
        for blocks in lists:
            starts.append(len(block))
            try:
                block += map(places.__getitem__, map(id, blocks))
            except KeyError:
                del block[starts[-1] :]
                for each in blocks:
                    place = places.setdefault(id(each), len(different))
                    if place == len(different):
                        different.append(each)
                    block.append(place)
            if len(block) == starts[-1]:
                block.append(_NO_BLOCK)
        numbers, beginnings = (np.array(each, dtype=np.int64) for each in (block, starts))
        numbers[numbers == _NO_BLOCK] = len(different)
        return cls.joined(Blocks(cls.of([*map(kernels, different), ()]), numbers, beginnings))

    @classmethod
    def joined(cls, blocks: Blocks) -> "KernelLists":
        """The lists that are made of these blocks."""
        return cls(len(blocks.starts), {name: blocks.entries(name) for name in blocks.lists.by_type}, blocks=blocks)

    def __len__(self) -> int:
        return self.size

    @property
    def kernel_counts(self) -> Floats:
        """How many kernels each list holds: float64[n]."""
        return self.sums(_ones, _ones)

    def kept(self, follows_from: object, name: str, make: Callable[[], T]) -> T:
        """What ``make`` makes of these lists, or made of them before; nobody changes it.

        ``follows_from``, which can be referred to weakly, and ``name`` say what it is.
        """
        if self.keep is None:
            return make()
        found: T = self.keep(follows_from, name, make)
        return found

    def sums(self, values: Callable[[Kernels], Floats], follow_from: object = None, name: str = "") -> Floats:
        """float64[n]: per list the sum of count x value; ``values`` gives float64[u] for one type's u kernels.

        ``follow_from``: an object from which, and from ``name``, these follow alone: sums of blocks may be kept then.
        """
        if self.blocks is not None:
            return self.blocks.added(self.blocks.lists.sums(values, follow_from, name))
        if follow_from is not None:
            return self.kept(follow_from, name, lambda: self._summed(values))
        return self._summed(values)

    def _summed(self, values: Callable[[Kernels], Floats]) -> Floats:
        total = np.zeros(self.size)
        for entries in self.by_type.values():
            total += self.sums_of(entries, values(entries.kernels))
        return total

    def sums_of(self, entries: Entries, values: Floats) -> Floats:
        """The same for one type: float64[u] to float64[n]."""
        if self.blocks is not None:
            lists = self.blocks.lists
            return self.blocks.added(lists.sums_of(lists.by_type[entries.kernels.type], values))
        weights = values[entries.kernel] * entries.count
        return np.bincount(entries.owner, weights=weights, minlength=self.size).astype(np.float64)

    def maxima_of(self, entries: Entries, values: Floats) -> Floats:
        """Per list the largest value among its kernels of one type, 0 where it has none: float64[u] to float64[n]."""
        if self.blocks is not None:
            lists = self.blocks.lists
            return self.blocks.largest(lists.maxima_of(lists.by_type[entries.kernels.type], values))
        largest = np.zeros(self.size)
        np.maximum.at(largest, entries.owner, values[entries.kernel])
        return largest

    def take(self, rows: Rows) -> "KernelLists":
        """Some of the lists, in that order; a list may come twice."""
        chosen = np.arange(self.size)[rows]
        if self.blocks is not None and len(chosen):
            return KernelLists.joined(_some(self.blocks, chosen))
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
        return Entries(kernels, lambda: (owner, kernel, count))


def _ones(kernels: Kernels) -> Floats:
    return np.ones(len(kernels))


def _some(blocks: Blocks, chosen: Ints) -> Blocks:
    """The blocks of the chosen lists, and only the different ones that they hold, unless sums of all are kept."""
    ends = blocks.starts + blocks.lengths
    lengths = blocks.lengths[chosen]
    starts = np.cumsum(lengths) - lengths
    at = np.arange(int(lengths.sum())) + np.repeat(ends[chosen] - lengths - starts, lengths)
    if blocks.lists.keep is not None:
        return Blocks(blocks.lists, blocks.block[at], starts)
    used, block = np.unique(blocks.block[at], return_inverse=True)
    return Blocks(blocks.lists.take(used), block.astype(np.int64), starts)


def _runs(ascending: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """For each wanted value all places where it stands in ``ascending``; for each of these, which wanted one it is."""
    first, last = np.searchsorted(ascending, wanted, "left"), np.searchsorted(ascending, wanted, "right")
    lengths = last - first
    of_wanted = np.repeat(np.arange(len(wanted)), lengths)
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(first, lengths) + offsets, of_wanted


def _taken(entries: Entries, chosen: Ints) -> Entries:
    """The entries of the chosen lists, and only the kernels that they hold."""
    order = np.argsort(entries.owner, kind="stable")
    place, owner = _runs(entries.owner[order], chosen)
    at = order[place]
    used, kernel = np.unique(entries.kernel[at], return_inverse=True)
    count = entries.count[at]
    return Entries(entries.kernels.take(used), lambda: (owner, kernel.astype(np.int64), count))
