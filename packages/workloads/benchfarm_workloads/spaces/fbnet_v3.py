"""FBNetV3 (Dai et al. 2021, arXiv 2006.02049): inverted residual blocks whose channels are no multiples of 8."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchfarm_workloads.layers import Feature, Sketch
from benchfarm_workloads.spaces.blocks import Block, Plan, image_entry, place, strided
from benchfarm_workloads.spaces.genes import Known, integer, integers, number, numbers
from benchfarm_workloads.spaces.inverted import Inverted
from benchfarm_workloads.spaces.once_for_all import CLASSES
from benchfarm_workloads.spaces.space import Space


@dataclass(frozen=True, slots=True)
class _Stage:
    """What may vary in a stage. first, rest: expansions of its first block and of the others."""

    widths: range
    depths: range
    stride: int
    squeezes: bool
    first: range
    rest: range


_ONE: Final = range(1, 2)
_SIX: Final = range(6, 7)
_FIRST: Final = range(4, 8)
_REST: Final = range(2, 6)
_STAGES: Final = (
    _Stage(range(16, 25, 2), range(1, 5), 1, False, _ONE, _ONE),
    _Stage(range(20, 33, 4), range(4, 8), 2, False, _FIRST, _REST),
    _Stage(range(24, 49, 4), range(4, 8), 2, True, _FIRST, _REST),
    _Stage(range(56, 85, 4), range(4, 9), 2, False, _FIRST, _REST),
    _Stage(range(96, 145, 4), range(6, 11), 1, True, _FIRST, _REST),
    _Stage(range(180, 225, 4), range(5, 10), 2, True, _FIRST, _REST),
    _Stage(range(180, 225, 4), _ONE, 1, True, _SIX, _ONE),
)
_SEARCHED: Final = _STAGES[1:-1]
"""Those whose expansions and number of blocks are searched, beside the first one's blocks."""

_HEAD_EXPANSION: Final = 6
_HEAD: Final = 1984


def _blocks(genes: Known) -> Iterator[Block]:
    """A block's genes are its channels, window and expansion, of the first the channels alone; the last has none."""
    cin, hw = 3, integer(genes, "hw")
    stem, *widths = integers(genes, "width")
    first, rest = ((1, *integers(genes, name), 6) for name in ("expand_first", "expand_rest"))
    yield place(-1, False, cin, hw), stem
    cin, hw = stem, strided(hw, 2)
    each = zip(_STAGES, widths, (*integers(genes, "depth"), 1), first, rest, integers(genes, "kernel_first"),
               (*integers(genes, "kernel_rest"), 3), strict=True)  # fmt: skip
    for at, (stage, cout, depth, e_first, e_rest, k_first, k_rest) in enumerate(each):
        for index in range(depth):
            k, expansion, s = (k_first, e_first, stage.stride) if index == 0 else (k_rest, e_rest, 1)
            yield place(at, index > 0, cin, hw), cout, k, expansion
            cin, hw = cout, strided(hw, s)
    yield (place(len(_STAGES), False, cin, hw),)


def _append(sketch: Sketch, x: Feature, block: Block) -> Feature:
    at, *own = block
    if at.stage < 0:
        [stem] = own
        return sketch.conv(x, stem, 3, s=2, act="hswish")
    if at.stage == len(_STAGES):
        x = sketch.conv(x, _eights(x.channels * _HEAD_EXPANSION), 1, act="hswish")
        return sketch.fc(sketch.conv(sketch.global_avgpool(x), _HEAD, 1, act="hswish"), CLASSES)
    stage = _STAGES[at.stage]
    cout, k, expansion = own
    mid = _eights(x.channels * expansion) if expansion > 1 else x.channels
    squeezed = _eights(mid // (4 * expansion)) if stage.squeezes else 0
    return Inverted(mid, cout, k, 1 if at.is_later else stage.stride, "hswish", squeezed).append(sketch, x)


def _eights(channels: int) -> int:
    """The nearest multiple of 8, but no more than a twentieth below: how published networks round inner channels."""
    rounded = max(8, math.floor(channels / 8 + 0.5) * 8)
    return rounded + 8 if rounded < 0.95 * channels else rounded


_WINDOWS: Final = (3, 5)

FBNET_V3: Final = Space(
    name="fbnet_v3",
    version=1,
    title="FBNetV3",
    paper="FBNetV3, Dai et al., CVPR 2021, arXiv 2006.02049, table of the search space",
    kept=(
        "resolutions 224 to 272 in steps of 8; channels of the stem and of seven stages in steps of 2 and 4, blocks,"
        " windows 3 or 5, expansions 4 to 7 of a stage's first block and 2 to 5 of the others; hard swish; the head"
        " behind the pool"
    ),
    read=(
        "the table's ranges stand in no code: of the published networks A, B and C lie in them, their channels"
        " rounded to multiples of 8, while D to G are wider in the last stage; a stage's first block and the others"
        " each have one window, as these have; inner channels are rounded to multiples of 8; squeeze and excitation"
        " with a ReLU inside, as wide as theirs; every window is padded on all sides, where some of them leave padding"
        " out; batch normalisation is folded"
    ),
    left="the training recipe, which the paper searches too",
    genes=(
        number("hw", "pixels", "height and width of the image", range(224, 273, 8)),
        numbers(
            "width", "channels", "channels of the stem and each stage",
            [range(16, 25, 2), *(stage.widths for stage in _STAGES)],
        ),
        numbers(
            "depth", "blocks", "blocks of each stage but the last, which has one",
            [stage.depths for stage in _STAGES[:-1]],
        ),
        numbers("kernel_first", "pixels", "depthwise window of each stage's first block", [_WINDOWS] * len(_STAGES)),
        numbers(
            "kernel_rest", "pixels", "depthwise window of the other blocks of each stage but the last",
            [_WINDOWS] * (len(_STAGES) - 1),
        ),
        numbers(
            "expand_first", "", "how many times wider the first block of stages 2 to 6 is inside",
            [stage.first for stage in _SEARCHED],
        ),
        numbers(
            "expand_rest", "", "how many times wider the other blocks of stages 2 to 6 are inside",
            [stage.rest for stage in _SEARCHED],
        ),
    ),
    plan=Plan(_blocks, image_entry("fbnet_v3"), _append),
)  # fmt: skip
