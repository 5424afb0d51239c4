"""ProxylessNAS (Cai et al. 2019, arXiv 1812.00332): networks like MobileNetV2 whose blocks differ or are absent."""

import random
from typing import Final

from benchfarm_core.architectures import GeneValues
from benchfarm_workloads.layers import Network, Sketch
from benchfarm_workloads.spaces.genes import Gene, Known, blocks_of, integer, integers, number, numbers, per_block
from benchfarm_workloads.spaces.inverted import Inverted
from benchfarm_workloads.spaces.once_for_all import CLASSES, RESOLUTIONS
from benchfarm_workloads.spaces.space import Space, uniform

_STAGES: Final = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2), (320, 1))
"""Output channels and first stride of each stage; the last has one block."""

_OPERATIONS: Final = 7
"""What a block that may be absent is chosen from: three windows, each with two expansions, or nothing."""


def _layout(genes: Known) -> Network:
    sketch = Sketch(PROXYLESSNAS.name, 1, integer(genes, "hw"))
    x = sketch.conv(sketch.image(), 32, 3, s=2, act="relu6")
    x = Inverted(32, 16, 3, 1, "relu6").append(sketch, x)
    kernels, expansions = iter(integers(genes, "kernel")), iter(integers(genes, "expand"))
    for (cout, stride), depth in zip(_STAGES, (*integers(genes, "depth"), 1), strict=True):
        for index in range(depth):
            s = stride if index == 0 else 1
            x = Inverted(x.channels * next(expansions), cout, next(kernels), s, "relu6").append(sketch, x)
    x = sketch.conv(x, 1280, 1, act="relu6")
    sketch.fc(sketch.global_avgpool(x), CLASSES)
    return sketch.finish()


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
    layout=_layout,
    drawing=_drawing,
    drawn_as=(
        "each block but a stage's first is there in six of seven draws, as among the paper's seven candidates; all else"
        " uniformly"
    ),
)  # fmt: skip
