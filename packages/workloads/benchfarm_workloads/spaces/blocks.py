"""Networks of a search space as blocks in a row, so that what a block comes to is found once for all that hold it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from benchfarm_core.workloads import Cost
from benchfarm_workloads.layers import INPUT, Feature, Layer, Network, Sketch
from benchfarm_workloads.sequence_layers import SequenceSketch, Tokens
from benchfarm_workloads.spaces.genes import Known

BLOCKS_KEPT: Final = 20_000
"""Blocks whose costs are remembered: a hundred thousand architectures of one space are made of fewer."""


class Place(NamedTuple):
    """Where blocks of a space stand: their stage (-1: before the first), whether they are behind its first one, and
    their input: channels and height of an image, size and number of tokens."""

    stage: int
    is_later: bool
    channels: int
    hw: int


Block = tuple[Any, ...]
"""A `Place` and the block's own genes: all that its layers follow from."""


class Stages(NamedTuple):
    """How the blocks of a space can be told from its genes without looking at them one by one.

    scale: the gene of one integer from which the first and the last block follow, and, with their stage and whether
    they are its first, the places of all others. depth: how many blocks each stage has; stages behind those have one.
    own: genes with a value for each block between the first and the last, as blocks have them behind their place. The
    space has no other genes; a test holds it to its blocks.
    """

    scale: str
    depth: str
    own: tuple[str, ...]


class _Sketching(Protocol):
    layers: list[Layer]

    def finish(self) -> Network: ...


S = TypeVar("S", bound=_Sketching)
X = TypeVar("X")


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Generic[S, X]):
    """How networks are put together: each block is fed by the one before it alone.

    blocks: those of canonical genes, in order. enter: an empty sketch that begins with a block, and its input. append:
    the block's layers. stages: where blocks stand in stages that are all alike.
    """

    blocks: Callable[[Known], Iterable[Block]]
    enter: Callable[[Block], tuple[S, X]]
    append: Callable[[S, X, Block], X]
    stages: Stages | None = None

    def network(self, genes: Known) -> Network:
        """All layers."""
        first, *others = self.blocks(genes)
        sketch, x = self.enter(first)
        for block in (first, *others):
            x = self.append(sketch, x, block)
        return sketch.finish()

    def cost(self, genes: Known) -> Cost:
        """What ``network`` costs, without laying it out: work and weights of its blocks, the input of the first and
        the output of the last."""
        costs = [_block_cost(self, block) for block in self.blocks(genes)]
        return Cost(
            flops=sum([one.flops for one in costs]),
            parameters=sum([one.parameters for one in costs]),
            input_bytes=costs[0].input_bytes,
            output_bytes=costs[-1].output_bytes,
            weight_bytes=sum([one.weight_bytes for one in costs]),
        )

    def layers(self, block: Block) -> list[Layer]:
        """The layers of one block, fed by the network's input instead of the block before."""
        sketch, x = self.enter(block)
        self.append(sketch, x, block)
        return sketch.layers


@lru_cache(BLOCKS_KEPT)
def _block_cost(plan: Plan[Any, Any], block: Block) -> Cost:
    """Of one block alone; a network's thousands of layers are those of few blocks."""
    sketch, x = plan.enter(block)
    plan.append(sketch, x, block)
    found: Network = sketch.finish()
    return found.cost()


@lru_cache(10_000)
def place(stage: int, is_later: bool, channels: int, hw: int) -> Place:
    """The same object for the same place: blocks are compared thousands of times."""
    return Place(stage, is_later, channels, hw)


def image_entry(name: str) -> Callable[[Block], tuple[Sketch, Feature]]:
    """For spaces on images."""

    def enter(block: Block) -> tuple[Sketch, Feature]:
        at: Place = block[0]
        return Sketch(name, 1, at.hw), Feature(INPUT, at.channels, at.hw)

    return enter


def token_entry(name: str) -> Callable[[Block], tuple[SequenceSketch, Tokens]]:
    """For spaces on sequences."""

    def enter(block: Block) -> tuple[SequenceSketch, Tokens]:
        at: Place = block[0]
        return SequenceSketch(name, (1, at.hw, at.channels)), Tokens(INPUT, at.hw, at.channels)

    return enter


def strided(hw: int, s: int) -> int:
    """The height behind a window of stride s that is padded as all windows here are."""
    return -(-hw // s)
