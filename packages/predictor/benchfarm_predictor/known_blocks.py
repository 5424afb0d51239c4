"""Blocks of search spaces that questions have met: their kernels as columns, and what versions say of them, kept.

A search asks for architectures of one space again and again, which are made of the same few thousand blocks. What a
predictor takes from an architecture are sums over its kernels; those of a block are worked out when a version is first
asked for it, and only added up from then on. They are added exactly, as in the tables of `space_tables.py`; a
kernel's own number may differ in its last digits with the kernels that are predicted beside it.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, Final
from weakref import ReferenceType, ref

import numpy as np

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_predictor.kernel_lists import Blocks, CountedKernel, Entries, KernelLists
from benchfarm_predictor.kernels import Ints
from benchfarm_predictor.staged_blocks import StagedBlocks
from benchfarm_workloads.network_kernels import NetworkKernels, Part
from benchfarm_workloads.spaces.blocks import Block
from benchfarm_workloads.spaces.space import Space

BLOCK_BYTES: Final = 600
"""What a known block takes in memory with its columns, beside the kernels that `NetworkKernels` remembers; a test holds
blocks to it."""
KEPT_BYTES: Final = 400
"""What an entry takes beside its numbers."""
_GROWTH: Final = 8
"""Columns are made anew when there is one new block for so many old ones: over many small questions each block is laid
out a dozen times."""

_NEW: Final = -1
"""Stands for a block that nobody asked for yet."""

KernelsOf = Callable[[Part], Sequence[CountedKernel]]
_What = tuple[object, ...]


class KeptSums:
    """What was worked out of blocks, within a bound; the least recently used goes first. Any thread may ask.

    Who is asked for again is known by a weak reference: what a version said goes before long when the version has gone.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._kept: OrderedDict[_What, tuple[Any, int]] = OrderedDict()
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """About what is kept takes."""
        return self._held_bytes

    def of(self, blocks: object, follows_from: object, name: str, make: Callable[[], Any]) -> Any:
        """What was made of these blocks before, or what ``make`` makes; two that miss the same at once both make it."""
        what = (ref(blocks), ref(follows_from), name)
        with self._lock:
            if what in self._kept:
                self._kept.move_to_end(what)
                return self._kept[what][0]
        made = make()
        size_bytes = KEPT_BYTES + _size_bytes(made)
        with self._lock:
            if what not in self._kept and size_bytes <= self._limit_bytes:
                self._kept[what] = made, size_bytes
                self._held_bytes += size_bytes
            while self._held_bytes > self._limit_bytes:
                _, (_, gone_bytes) = self._kept.popitem(last=False)
                self._held_bytes -= gone_bytes
        return made


def _size_bytes(made: Any) -> int:
    """Of an array, or of several by name."""
    return sum(map(_size_bytes, made.values())) if isinstance(made, Mapping) else int(np.asarray(made).nbytes)


@dataclass(frozen=True, eq=False)
class _Columns:
    """The first ``count`` blocks as columns."""

    count: int
    lists: KernelLists
    kept: KeptSums

    def for_a_question(self) -> KernelLists:
        """The same columns; features that a question has made of them go with it, what is summed up stays."""
        by_type = {
            name: Entries(replace(each.kernels, matrices={}, made={}), partial(_columns, each))
            for name, each in self.lists.by_type.items()
        }
        return KernelLists(self.lists.size, by_type, keep=partial(self.kept.of, self))


def _columns(entries: Entries) -> tuple[Ints, Ints, Ints]:
    return entries.owner, entries.kernel, entries.count


@dataclass(eq=False)
class KnownBlocks:
    """The blocks of one space by the rules of one engine, numbered as they were met. Any thread may ask.

    Attributes:
        kernels_of: what counts as the kernels of a block.
    """

    space: Space
    kernels_of: KernelsOf
    kept: KeptSums
    _lock: Lock = field(default_factory=Lock, repr=False)
    _numbers: dict[Block, int] = field(default_factory=dict, repr=False)
    _lists: list[Sequence[CountedKernel]] = field(default_factory=list, repr=False)
    _laid_out: _Columns | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        stages = self.space.plan.stages
        self._staged = None if stages is None else StagedBlocks(self.space, stages)
        self._by_code = np.full(0 if self._staged is None else len(self._staged), _NEW)

    def __len__(self) -> int:
        return len(self._lists)

    def lists(self, kernels: NetworkKernels, architectures: ArchitectureColumns) -> KernelLists:
        """The kernel lists of architectures whose genes are canonical; ``kernels``: those of the engine's rules."""
        if self._staged is None:
            return KernelLists.joined(self._blocks(*self._met(kernels, architectures)))
        return KernelLists.joined(self._blocks(*self._decoded(kernels, self._staged, architectures)))

    def _decoded(
        self, kernels: NetworkKernels, staged: StagedBlocks, architectures: ArchitectureColumns
    ) -> tuple[Ints, Ints]:
        """The numbers of all blocks, and where those of each architecture begin."""
        codes, starts = staged.codes(architectures)
        found = self._by_code[codes]
        is_new = found == _NEW
        if is_new.any():
            new, first_met = np.unique(codes[is_new], return_index=True)
            for code in new[np.argsort(first_met)].tolist():
                self._by_code[code] = self._number(kernels, staged.block(code))
            found = self._by_code[codes]
        return found, starts

    def _met(self, kernels: NetworkKernels, architectures: ArchitectureColumns) -> tuple[Ints, Ints]:
        """The same, block by block."""
        block, starts = array("q"), array("q")
        for genes in architectures.each():
            starts.append(len(block))
            blocks = self.space.plan.blocks(genes)
            if not isinstance(blocks, list):
                blocks = [*blocks]
            try:
                block.extend(map(self._numbers.__getitem__, blocks))
            except KeyError:
                del block[starts[-1] :]
                block.extend([self._number(kernels, each) for each in blocks])
        return np.frombuffer(block, dtype=np.int64), np.frombuffer(starts, dtype=np.int64)

    def _number(self, kernels: NetworkKernels, block: Block) -> int:
        known = self._numbers.get(block)
        if known is not None:
            return known
        found = self.kernels_of(kernels.block(self.space, block))
        with self._lock:
            if block not in self._numbers:  # else another thread has learnt it meanwhile
                self._lists.append(found)
                self._numbers[block] = len(self._lists) - 1
            return self._numbers[block]

    def _blocks(self, numbers: Ints, starts: Ints) -> Blocks:
        """Few new blocks among many known ones are laid out for the question alone, with all that it holds."""
        laid_out = self._laid_out
        if laid_out is None or (len(numbers) and numbers.max() >= laid_out.count):
            used, own = np.unique(numbers, return_inverse=True)
            count, before = len(self._lists), 0 if laid_out is None else laid_out.count
            if _GROWTH * (count - before) < before and 2 * len(used) < count:
                return Blocks(KernelLists.of([self._lists[at] for at in used.tolist()]), own.astype(np.int64), starts)
            laid_out = self._lay_out(count)
        return Blocks(laid_out.for_a_question(), numbers, starts)

    def _lay_out(self, count: int) -> _Columns:
        made = _Columns(count, KernelLists.of(self._lists[:count]), self.kept)
        with self._lock:
            if self._laid_out is None or self._laid_out.count < count:
                self._laid_out = made
        return made


class RememberedBlocks:
    """`KnownBlocks` by space and rules, all together about within a bound. Any thread may ask."""

    def __init__(self, limit_bytes: int, kernels_of: KernelsOf, kept: KeptSums) -> None:
        self._limit_bytes = limit_bytes
        self._kernels_of = kernels_of
        self._kept_sums = kept
        self._lock = Lock()
        self._kept: OrderedDict[tuple[ReferenceType[NetworkKernels], int, str, int], KnownBlocks] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """About what is remembered takes, what is kept of it included."""
        return self._blocks_bytes(None) + self._kept_sums.held_bytes

    def of(self, space: Space, kernels: NetworkKernels) -> KnownBlocks:
        """Those of a space by the rules of ``kernels``.

        Where all together are above the bound others are forgotten, the least recently asked for first, and then these;
        with them go those whose kernels were forgotten.
        """
        key = (ref(kernels), kernels.times_forgotten, space.name, space.version)
        with self._lock:
            self._forget_alone()
            found = self._kept.pop(key, None)
            while self._kept and self._blocks_bytes(found) > self._limit_bytes:
                self._kept.popitem(last=False)
            if found is None or self._blocks_bytes(found) > self._limit_bytes:
                found = KnownBlocks(space, self._kernels_of, self._kept_sums)
            self._kept[key] = found
            return found

    def _forget_alone(self) -> None:
        """Blocks whose kernels nobody else remembers any more, which `BLOCK_BYTES` does not count."""
        for key in [*self._kept]:
            kernels = key[0]()
            if kernels is None or kernels.times_forgotten != key[1]:
                del self._kept[key]

    def _blocks_bytes(self, beside: KnownBlocks | None) -> int:
        return BLOCK_BYTES * (sum(map(len, self._kept.values())) + (0 if beside is None else len(beside)))
