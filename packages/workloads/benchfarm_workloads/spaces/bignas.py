"""BigNAS (Yu et al. 2020, arXiv 2003.11142): networks like EfficientNet, with shortcuts between stages too."""

from collections.abc import Iterator
from typing import Final

from benchfarm_workloads.layers import Feature, Sketch
from benchfarm_workloads.spaces.blocks import Block, Plan, image_entry, place, strided
from benchfarm_workloads.spaces.genes import Known, integer, integers, number, numbers
from benchfarm_workloads.spaces.inverted import Inverted
from benchfarm_workloads.spaces.once_for_all import CLASSES
from benchfarm_workloads.spaces.space import Space

_STAGES: Final = (
    (1, 1, (16, 24), (1, 2), (3,)),
    (6, 2, (24, 32), (2, 3), (3,)),
    (6, 2, (40, 48), (2, 3), (3, 5)),
    (6, 2, (80, 88), (2, 3, 4), (3, 5)),
    (6, 1, (112, 120, 128), (2, 3, 4, 5, 6), (3, 5)),
    (6, 2, (192, 200, 208, 216), (2, 3, 4, 5, 6), (3, 5)),
    (6, 1, (320, 352), (1, 2), (3, 5)),
)
"""Expansion, first stride, channels, blocks, windows of each stage."""

_SEARCHED_KERNELS: Final = tuple(windows for *_, windows in _STAGES if len(windows) > 1)
_FIXED_KERNELS: Final = len(_STAGES) - len(_SEARCHED_KERNELS)


_HEAD: Final = len(_STAGES)
"""The stage of what stands behind the last one."""


def _blocks(genes: Known) -> Iterator[Block]:
    """A block's genes are its channels and its window, of the first and the last the channels alone."""
    cin, hw = 3, integer(genes, "hw")
    stem, *widths, head = integers(genes, "width")
    kernels = (3,) * _FIXED_KERNELS + integers(genes, "kernel")
    yield place(-1, False, cin, hw), stem
    cin, hw = stem, strided(hw, 2)
    stages = zip(_STAGES, widths, integers(genes, "depth"), kernels, strict=True)
    for stage, ((_, stride, *_), cout, depth, k) in enumerate(stages):
        for index in range(depth):
            yield place(stage, index > 0, cin, hw), cout, k
            cin, hw = cout, strided(hw, stride if index == 0 else 1)
    yield place(_HEAD, False, cin, hw), head


def _append(sketch: Sketch, x: Feature, block: Block) -> Feature:
    at, cout, *own = block
    if at.stage < 0:
        return sketch.conv(x, cout, 3, s=2, act="swish")
    if at.stage == _HEAD:
        return sketch.fc(sketch.global_avgpool(sketch.conv(x, cout, 1, act="swish")), CLASSES)
    expansion, stride, *_ = _STAGES[at.stage]
    [k] = own
    return _block(sketch, x, expansion, cout, k, 1 if at.is_later else stride)


def _block(sketch: Sketch, x: Feature, expansion: int, cout: int, k: int, s: int) -> Feature:
    """Squeezes to a quarter of its input; the shortcut is pooled and projected where sizes differ."""
    squeezed = max(1, x.channels // 4)
    y = Inverted(x.channels * expansion, cout, k, s, "swish", squeezed, "sigmoid").inner(sketch, x)
    shortcut = sketch.avgpool(x, s, s=s) if s > 1 else x
    if shortcut.channels != cout:
        shortcut = sketch.conv(shortcut, cout, 1)
    return sketch.add(y, shortcut)


BIGNAS: Final = Space(
    name="bignas",
    version=1,
    title="BigNAS",
    paper="BigNAS, Yu et al., ECCV 2020, arXiv 2003.11142, table of the search space",
    kept=(
        "resolutions 192, 224, 288 and 320; channels, number of blocks and window of each of seven stages, channels"
        " of stem and head; expansion 1, then 6; swish; shortcuts between stages by 2 x 2 mean pools and 1 x 1"
        " convolutions"
    ),
    read=(
        "no code of the paper was published: ranges were compared with a re-implementation; channels in steps of 8,"
        " of stage 7 and the head the two ends alone; every block of a stage has the stage's window; squeeze and"
        " excitation in all blocks, as wide as EfficientNet's, with a ReLU inside; batch normalisation is folded"
    ),
    left="nothing that we know of",
    genes=(
        number("hw", "pixels", "height and width of the image", (192, 224, 288, 320)),
        numbers(
            "width", "channels", "channels of the stem, each stage and the head",
            [(32, 40), *(widths for _, _, widths, _, _ in _STAGES), (1280, 1408)],
        ),
        numbers("depth", "blocks", "blocks of each stage", [depths for *_, depths, _ in _STAGES]),
        numbers("kernel", "pixels", "depthwise window of stages 3 to 7; 3 in the first two", _SEARCHED_KERNELS),
    ),
    plan=Plan(_blocks, image_entry("bignas"), _append),
)  # fmt: skip
