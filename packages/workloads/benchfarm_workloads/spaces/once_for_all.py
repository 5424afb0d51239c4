"""Once-for-All (Cai et al. 2020, arXiv 1908.09791): networks like MobileNetV3 and like ResNet-50D."""

from collections.abc import Iterator
from functools import lru_cache, reduce
from typing import Final

from benchfarm_workloads.layers import Feature, Sketch
from benchfarm_workloads.mobile_models import eights
from benchfarm_workloads.spaces.blocks import Block, Place, Plan, Stages, image_entry, place, strided
from benchfarm_workloads.spaces.genes import Known, blocks_of, integer, integers, number, numbers, per_block
from benchfarm_workloads.spaces.inverted import Inverted
from benchfarm_workloads.spaces.space import Space

CLASSES: Final = 1000
RESOLUTIONS: Final = range(128, 225, 4)
"""The elastic resolution of the paper."""
STAGES: Final = Stages("hw", "depth", ("kernel", "expand"))
"""Of mobile networks of one width."""

_PAPER: Final = "Once-for-All, Cai et al., ICLR 2020, arXiv 1908.09791"

_V3_STAGES: Final = (
    (24, 2, "relu", False),
    (40, 2, "relu", True),
    (80, 2, "hswish", False),
    (112, 1, "hswish", True),
    (160, 2, "hswish", True),
)
"""Output channels, first stride, activation, squeeze and excitation of each stage."""

_RESNET_STAGES: Final = ((256, 2, 1), (512, 2, 2), (1024, 4, 2), (2048, 2, 2))
"""Output channels at full width, blocks at the least, first stride of each stage."""
_STEM: Final = 64
"""Channels of the stem at full width."""


_V3_STEM: Final = 16
_HEAD: Final = 99
"""The stage of what stands behind the last one."""


def _v3_blocks(genes: Known) -> list[Block]:
    """A block's genes are its window and its expansion; the first and the last have none."""
    hw = integer(genes, "hw")
    stem, head = _v3_ends(hw)
    places: list[Place] = []
    for stage, depth in enumerate(integers(genes, "depth")):
        places += _v3_places(hw, stage, depth)
    blocks = zip(places, integers(genes, "kernel"), integers(genes, "expand"), strict=True)
    return [stem, *blocks, head]


@lru_cache(1000)
def _v3_ends(hw: int) -> tuple[Block, Block]:
    """The first block and the last, for images of height ``hw``."""
    return (place(-1, False, 3, hw),), (place(_HEAD, False, _V3_STAGES[-1][0], _v3_hw(hw, len(_V3_STAGES))),)


@lru_cache(1000)
def _v3_places(hw: int, stage: int, depth: int) -> tuple[Place, ...]:
    """Those of a stage, for images of height ``hw``."""
    cin = _V3_STAGES[stage - 1][0] if stage else _V3_STEM
    first = place(stage, False, cin, _v3_hw(hw, stage))
    return (first, *(place(stage, True, _V3_STAGES[stage][0], _v3_hw(hw, stage + 1)) for _ in range(depth - 1)))


def _v3_hw(hw: int, stage: int) -> int:
    """The height in front of a stage."""
    return reduce(strided, [2, *(stride for _, stride, *_ in _V3_STAGES[:stage])], hw)


def _v3_append(sketch: Sketch, x: Feature, block: Block) -> Feature:
    at, *own = block
    if at.stage < 0:
        x = sketch.conv(x, _V3_STEM, 3, s=2, act="hswish")
        return Inverted(_V3_STEM, _V3_STEM, 3, 1, "relu").append(sketch, x)
    if at.stage == _HEAD:
        x = sketch.global_avgpool(sketch.conv(x, 960, 1, act="hswish"))
        return sketch.fc(sketch.conv(x, 1280, 1, act="hswish"), CLASSES)
    cout, stride, act, squeezes = _V3_STAGES[at.stage]
    k, expansion = own
    mid = x.channels * expansion
    squeezed = eights(mid // 4) if squeezes else 0
    return Inverted(mid, cout, k, 1 if at.is_later else stride, act, squeezed).append(sketch, x)


OFA_MOBILENET_V3: Final = Space(
    name="ofa_mobilenet_v3",
    version=1,
    title="Once-for-All, MobileNetV3",
    paper=_PAPER,
    kept=(
        "stages, widths (1.0), activations, squeeze and excitation and head of `ofa_mbv3_d234_e346_k357_w1.0`; depth"
        " 2 to 4 of each stage, window 3, 5 or 7 and expansion 3, 4 or 6 of each block; the 25 resolutions"
    ),
    read="batch normalisation is folded; lists have a place for each block that there is, not that there might be",
    left="the supernet of width 1.2",
    genes=(
        number("hw", "pixels", "height and width of the image", RESOLUTIONS),
        numbers("depth", "blocks", "blocks of each stage", [(2, 3, 4)] * 5),
        per_block(
            "kernel", "pixels", "depthwise window of each block", (3, 5, 7), blocks_of("depth"),
            "for each block of `depth`",
        ),
        per_block(
            "expand", "", "how many times wider each block is inside", (3, 4, 6), blocks_of("depth"),
            "for each block of `depth`",
        ),
    ),
    plan=Plan(_v3_blocks, image_entry("ofa_mobilenet_v3"), _v3_append, STAGES),
)  # fmt: skip


def _resnet_blocks(genes: Known) -> Iterator[Block]:
    """A block's genes are its channels and its expansion; those of the first block are all that the stem has."""
    hw = integer(genes, "hw")
    stem, first, *widths = integers(genes, "width")
    yield place(-1, False, 3, hw), stem, first, bool(integer(genes, "stem_block"))
    cin, hw = eights(_STEM * first / 100), strided(strided(hw, 2), 2)
    expansions = iter(integers(genes, "expand"))
    stages = zip(_RESNET_STAGES, integers(genes, "depth"), widths, strict=True)
    for stage, ((channels, least, stride), more, width) in enumerate(stages):
        cout = eights(channels * width / 100)
        for index in range(least + more):
            yield place(stage, index > 0, cin, hw), cout, next(expansions)
            cin, hw = cout, strided(hw, stride if index == 0 else 1)
    yield (place(_HEAD, False, cin, hw),)


def _resnet_append(sketch: Sketch, x: Feature, block: Block) -> Feature:
    at, *own = block
    if at.stage < 0:
        stem, first, wide = own
        return _stem(sketch, x, stem, first, wide=wide)
    if at.stage == _HEAD:
        return sketch.fc(sketch.global_avgpool(x), CLASSES)
    cout, expand = own
    return _bottleneck(sketch, x, expand, cout, 1 if at.is_later else _RESNET_STAGES[at.stage][2], int(at.is_later))


def _stem(sketch: Sketch, x: Feature, stem: int, first: int, *, wide: bool) -> Feature:
    """Two or three small windows in place of one of 7 x 7, then a pool."""
    inner = eights(eights(_STEM * stem / 100) // 2)
    x = sketch.conv(x, inner, 3, s=2, act="relu")
    if wide:
        x = sketch.add(x, sketch.conv(x, inner, 3, act="relu"))
    return sketch.maxpool(sketch.conv(x, eights(_STEM * first / 100), 3, act="relu"), 3, s=2)


def _bottleneck(sketch: Sketch, x: Feature, expand: int, cout: int, s: int, index: int) -> Feature:
    """Narrowed, a window, widened again; the first of a stage projects its input, pooled where the block halves."""
    inner = eights(round(cout * expand / 100))
    y = sketch.conv(x, inner, 1, act="relu")
    y = sketch.conv(sketch.conv(y, inner, 3, s=s, act="relu"), cout, 1)
    if index > 0:
        return sketch.add(y, x, act="relu")
    pooled = sketch.avgpool(x, s, s=s) if s > 1 else x
    return sketch.add(y, sketch.conv(pooled, cout, 1), act="relu")


def _bottlenecks(known: Known) -> int:
    return sum(least for _, least, _ in _RESNET_STAGES) + sum(integers(known, "depth"))


_WIDTHS: Final = (65, 80, 100)

OFA_RESNET: Final = Space(
    name="ofa_resnet",
    version=1,
    title="Once-for-All, ResNet-50D",
    paper=f"{_PAPER}, and its repository (`ofa_resnet50`)",
    kept=(
        "stages, deep stem and bottlenecks of `ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0`; 0 to 2 further"
        " blocks of each stage, the stem's own block or none, expansion of each block, width of the stem's two parts"
        " and of each stage"
    ),
    read=(
        "expansion and width are percents; resolutions are multiples of 32, so that the pools of the shortcuts,"
        " which take 2 x 2 pixels, leave none out; batch normalisation is folded; `expand` has a place for each block"
        " that there is"
    ),
    left="other resolutions of the supernet",
    genes=(
        number("hw", "pixels", "height and width of the image", range(128, 225, 32)),
        number("stem_block", "blocks", "whether the stem has a block of its own", (0, 1)),
        numbers("depth", "blocks", "blocks of each stage beyond 2, 2, 4 and 2", [(0, 1, 2)] * 4),
        per_block(
            "expand", "percent", "inner channels of each block, of its outputs", (20, 25, 35), _bottlenecks,
            "for each of 10 blocks and those of `depth`",
        ),
        numbers("width", "percent", "channels of the stem's first part, its last and each stage", [_WIDTHS] * 6),
    ),
    plan=Plan(_resnet_blocks, image_entry("ofa_resnet"), _resnet_append),
)  # fmt: skip
