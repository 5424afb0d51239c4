"""Blocks of thousands of architectures as numbers, worked out by arrays instead of block by block.

Only for spaces that say how (`Stages`). What a block is follows from the space's own blocks: of one architecture for
each value of the gene that all blocks follow from.
"""

from collections.abc import Mapping
from math import prod
from typing import Final, NamedTuple

import numpy as np

from benchfarm_core.architecture_columns import ArchitectureColumns, GeneColumn
from benchfarm_core.architectures import GeneValues
from benchfarm_predictor.kernels import Ints
from benchfarm_workloads.spaces.blocks import Block, Place, Stages
from benchfarm_workloads.spaces.genes import integers
from benchfarm_workloads.spaces.space import Space

_ENDS: Final = 2
"""The first block and the last."""


class _Frame(NamedTuple):
    """Of one value of the gene that all blocks follow from: the first block, the last, and by stage the place of its
    first block and that of all others."""

    first: Block
    last: Block
    places: list[Place]
    stages: int


class StagedBlocks:
    """Each block of a space as a code: where its stages stand, its place among them, and its own genes."""

    def __init__(self, space: Space, stages: Stages) -> None:
        self._space, self._stages = space, stages
        genes = {gene.name: gene for gene in space.genes}
        [scales] = genes[stages.scale].places({})
        self._scales = scales
        self._own = {name: sorted(genes[name].alike or ()) for name in stages.own}
        self._frames = [self._frame(scale) for scale in scales]
        self._combinations = prod(map(len, self._own.values()))
        self._width = len(self._frames[0].places) * self._combinations + _ENDS

    def __len__(self) -> int:
        """How many codes there are; not all of them are blocks."""
        return len(self._scales) * self._width

    def codes(self, architectures: ArchitectureColumns) -> tuple[Ints, Ints]:
        """Of canonical genes the codes of all blocks, those of one architecture behind those of the one before, and
        where each begins: int64[blocks], int64[n]."""
        genes, count = architectures.genes, len(architectures)
        scale = np.searchsorted(self._scales, _values(genes[self._stages.scale])) * self._width
        depths = _values(genes[self._stages.depth]).reshape(count, -1)
        single = np.ones((count, self._frames[0].stages - depths.shape[1]), dtype=np.int64)
        depths = np.hstack([depths, single])
        between = depths.sum(axis=1)
        starts = np.cumsum(between + _ENDS) - (between + _ENDS)
        ends = starts + between + 1
        found = np.empty(int(between.sum()) + _ENDS * count, dtype=np.int64)
        is_between = np.ones(len(found), dtype=bool)
        is_between[starts] = is_between[ends] = False
        found[is_between] = self._between(genes, depths) + np.repeat(scale, between)
        found[starts] = scale + self._width - 2
        found[ends] = scale + self._width - 1
        return found, starts

    def block(self, code: int) -> Block:
        """What a code that ``codes`` gave stands for."""
        at, code = divmod(code, self._width)
        frame = self._frames[at]
        if code >= self._width - _ENDS:
            return frame.last if code == self._width - 1 else frame.first
        own: list[int] = []
        for choices in reversed(self._own.values()):
            code, chosen = divmod(code, len(choices))
            own.insert(0, choices[chosen])
        return (frame.places[code], *own)

    def _between(self, genes: Mapping[str, GeneColumn], depths: Ints) -> Ints:
        """Codes of the blocks between the first and the last within their scale; ``depths``: int64[n, stages]."""
        count, stages = depths.shape
        each = depths.ravel()
        code = np.repeat(np.tile(np.arange(stages) * 2, count), each) + 1
        code[np.cumsum(each) - each] -= 1  # a stage's first
        for name, choices in self._own.items():
            code = code * len(choices) + np.searchsorted(choices, _values(genes[name]))
        return code

    def _frame(self, scale: int) -> _Frame:
        """Of an architecture with all blocks that a stage may have."""
        genes: dict[str, GeneValues] = {}
        for gene in self._space.genes:
            places = gene.places(genes)
            most = tuple(map(max, places))
            genes[gene.name] = scale if gene.name == self._stages.scale else most
        first, *between, last = self._space.plan.blocks(genes)
        depths = integers(genes, self._stages.depth)
        single = len(between) - sum(depths)
        places_: list[Place] = []
        at = 0
        for depth in (*depths, *[1] * single):
            places_ += [between[at][0], between[at + depth - 1][0]]
            at += depth
        return _Frame(first, last, places_, len(depths) + single)


def _values(column: GeneColumn) -> Ints:
    """All values of a gene: int64."""
    return np.frombuffer(column.flat, dtype=np.intc).astype(np.int64)
