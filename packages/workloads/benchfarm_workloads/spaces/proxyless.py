"""ProxylessNAS (Cai et al. 2019, arXiv 1812.00332): networks like MobileNetV2 whose blocks differ or are absent."""

import random
from functools import lru_cache, reduce
from typing import Final

from benchfarm_core.architectures import GeneValues
from benchfarm_workloads.layers import Feature, Sketch
from benchfarm_workloads.spaces.blocks import Block, Place, Plan, image_entry, place, strided
from benchfarm_workloads.spaces.genes import Gene, Known, blocks_of, integer, integers, number, numbers, per_block
from benchfarm_workloads.spaces.inverted import Inverted
from benchfarm_workloads.spaces.once_for_all import CLASSES, RESOLUTIONS, STAGES
from benchfarm_workloads.spaces.space import Space, uniform

_STAGES: Final = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2), (320, 1))
"""Output channels and first stride of each stage; the last has one block."""

_OPERATIONS: Final = 7
"""What a block that may be absent is chosen from: three windows, each with two expansions, or nothing."""


_STEM: Final = 16
"""Channels in front of the first stage."""
_HEAD: Final = 99
"""The stage of what stands behind the last one."""


def _blocks(genes: Known) -> list[Block]:
    """A block's genes are its window and its expansion; the first and the last have none."""
    hw = integer(genes, "hw")
    places: list[Place] = []
    for stage, depth in enumerate((*integers(genes, "depth"), 1)):
        places += _places(hw, stage, depth)
    blocks = zip(places, integers(genes, "kernel"), integers(genes, "expand"), strict=True)
    return [(place(-1, False, 3, hw),), *blocks, (place(_HEAD, False, _STAGES[-1][0], _hw(hw, len(_STAGES))),)]


@lru_cache(1000)
def _places(hw: int, stage: int, depth: int) -> tuple[Place, ...]:
    """Those of a stage, for images of height ``hw``."""
    first = place(stage, False, _STAGES[stage - 1][0] if stage else _STEM, _hw(hw, stage))
    return (first, *(place(stage, True, _STAGES[stage][0], _hw(hw, stage + 1)) for _ in range(depth - 1)))


def _hw(hw: int, stage: int) -> int:
    """The height in front of a stage."""
    return reduce(strided, [2, *(stride for _, stride in _STAGES[:stage])], hw)


def _append(sketch: Sketch, x: Feature, block: Block) -> Feature:
    at, *own = block
    if at.stage < 0:
        x = sketch.conv(x, 32, 3, s=2, act="relu6")
        return Inverted(32, _STEM, 3, 1, "relu6").append(sketch, x)
    if at.stage == _HEAD:
        return sketch.fc(sketch.global_avgpool(sketch.conv(x, 1280, 1, act="relu6")), CLASSES)
    cout, stride = _STAGES[at.stage]
    k, expansion = own
    return Inverted(x.channels * expansion, cout, k, 1 if at.is_later else stride, "relu6").append(sketch, x)


def _drawing(rng: random.Random, gene: Gene, known: Known) -> GeneValues:
    """As the paper's candidates are: nothing is one of seven for each block but a stage's first."""
    if gene.name != "depth":
        return uniform(rng, gene, known)
    return tuple(1 + sum(rng.randrange(_OPERATIONS) > 0 for _ in range(3)) for _ in gene.places(known))


PROXYLESSNAS: Final = Space(
    name="proxylessnas",
    version=1,
    title="ProxylessNAS",
    paper="ProxylessNAS, Cai et al., ICLR 2019, arXiv 1812.00332, and its repository (ImageNet)",
    kept=(
        "six stages of 24 to 320 channels, 4 blocks each and one in the last; for each block a window of 3, 5 or 7"
        " pixels and expansion 3 or 6; all blocks but a stage's first may be absent; no squeeze and excitation; ReLU6"
    ),
    read=(
        "an absent block computes nothing, so that only their number counts: `depth`; resolutions are those of"
        " Once-for-All, where the paper has 224 alone; batch normalisation is folded"
    ),
    left="the widths of published networks, which differ: that for phones has 32 channels in the first stage",
    genes=(
        number("hw", "pixels", "height and width of the image", RESOLUTIONS),
        numbers("depth", "blocks", "blocks of each stage but the last, which has one", [(1, 2, 3, 4)] * 5),
        per_block(
            "kernel", "pixels", "depthwise window of each block", (3, 5, 7), blocks_of("depth", more=1),
            "for each block of `depth` and the last",
        ),
        per_block(
            "expand", "", "how many times wider each block is inside", (3, 6), blocks_of("depth", more=1),
            "for each block of `depth` and the last",
        ),
    ),
    plan=Plan(_blocks, image_entry("proxylessnas"), _append, STAGES),
    drawing=_drawing,
    drawn_as=(
        "each block but a stage's first is there in six of seven draws, as among the paper's seven candidates; all else"
        " uniformly"
    ),
)  # fmt: skip
