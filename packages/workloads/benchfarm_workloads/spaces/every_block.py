"""All blocks that the architectures of a search space are made of, without laying out every architecture.

A block follows from genes of its own and from the channels and the height that the block before hands on. So every
combination of single genes is looked at, and of lists those in which all places are alike; of widths, of which two
neighbours decide a block, those in which even and odd places are. Tests hold drawn architectures to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_workloads.spaces.blocks import Block, Place
from benchfarm_workloads.spaces.genes import Choices, Gene, Known
from benchfarm_workloads.spaces.space import Space

MAX_BLOCKS: Final = 10_000
"""To lay one out and to find its kernels takes a tenth of a millisecond."""
_WIDTH: Final = "width"
_DEPTH: Final = "depth"

Only = Mapping[str, Sequence[int]]
"""By gene the values that it may have, in every place; of other genes all."""
Met = Mapping[str, set[int]]
"""By restricted gene all values that it had in some place: what is wanted of it and not among them is nowhere."""


def every_block(space: Space, only: Only) -> tuple[list[Block], int]:
    """The different blocks in order of first appearance, and the largest number of blocks of one architecture.

    Raises:
        InvalidRequest: ``architecture_out_of_range`` for a gene that the space does not have, or of which nothing is
            left, and for a value that it has in none of its places.
        TooLarge: above ``MAX_BLOCKS``.
    """
    names = [gene.name for gene in space.genes]
    for name in only:
        if name not in names:
            raise _refusal(space, name, f"there is no gene {name[:40]!r}; genes are {', '.join(names)}")
    found: dict[Block, None] = {}
    met: dict[str, set[int]] = {name: set() for name in only}
    most = 0
    for genes in _patterns(space, only, met, {}):
        blocks = [*space.plan.blocks(genes)]
        most = max(most, len(blocks))
        found |= dict.fromkeys(blocks)
        if len(found) > MAX_BLOCKS:
            detail = f"{space.name} has more than the {MAX_BLOCKS} blocks of one table: name fewer values of its genes"
            raise TooLarge(f"{detail}, such as genes={{'hw': [224]}}", field="genes")
    for gene in space.genes:
        strange = [value for value in only.get(gene.name, ()) if value not in met[gene.name]]
        if strange:
            raise _refusal(space, gene.name, f"{gene.name}={strange[0]!s:.40} is nowhere; it must be {gene.allowed}")
    return list(found), most


def flat(block: Block) -> tuple[int, ...]:
    """The numbers that a block follows from: its place, then its own genes."""
    at: Place = block[0]
    return (at.stage, int(at.is_later), at.channels, at.hw, *map(int, block[1:]))


def _patterns(space: Space, only: Only, met: Met, known: dict[str, int | tuple[int, ...]]) -> Iterator[Known]:
    """Genes, of which the first ones are known."""
    if len(known) == len(space.genes):
        yield known
        return
    gene = space.genes[len(known)]
    for values in _values(gene, _left(space, gene, known, only, met)):
        yield from _patterns(space, only, met, {**known, gene.name: values})


def _left(space: Space, gene: Gene, known: Known, only: Only, met: Met) -> list[Choices]:
    """The choices of each place that may be."""
    places = [tuple(each) for each in gene.places(known)]
    if gene.name in only:
        wanted = frozenset(only[gene.name])
        met[gene.name].update(*places)
        places = [tuple(value for value in choices if value in wanted) for choices in places]
    if not all(places):
        raise _refusal(space, gene.name, f"of {gene.name} nothing is left; it must be {gene.allowed}")
    return places


def _values(gene: Gene, places: Sequence[Choices]) -> Iterator[int | tuple[int, ...]]:
    if not gene.is_list:
        yield from places[0]
        return
    if gene.name == _DEPTH:  # later blocks of a stage are alike
        yield tuple(max(choices) for choices in places)
        return
    count = max(map(len, places), default=1)
    for even in range(count):
        for odd in range(count) if gene.name == _WIDTH else (even,):
            yield tuple(choices[(odd if at % 2 else even) % len(choices)] for at, choices in enumerate(places))


def _refusal(space: Space, gene: str, detail: str) -> InvalidRequest:
    code = "architecture_out_of_range"
    return InvalidRequest(f"space {space.name}: {detail}", code=code, field=f"genes.{gene[:40]}")
