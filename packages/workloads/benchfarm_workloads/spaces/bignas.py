"""BigNAS (Yu et al. 2020, arXiv 2003.11142): networks like EfficientNet, with shortcuts between stages too."""

from typing import Final

from benchfarm_workloads.layers import Feature, Network, Sketch
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


def _layout(genes: Known) -> Network:
    sketch = Sketch(BIGNAS.name, 1, integer(genes, "hw"))
    stem, *widths, head = integers(genes, "width")
    kernels = (3,) * _FIXED_KERNELS + integers(genes, "kernel")
    x = sketch.conv(sketch.image(), stem, 3, s=2, act="swish")
    stages = zip(_STAGES, widths, integers(genes, "depth"), kernels, strict=True)
    for (expansion, stride, *_), cout, depth, k in stages:
        for index in range(depth):
            x = _block(sketch, x, expansion, cout, k, stride if index == 0 else 1)
    x = sketch.conv(x, head, 1, act="swish")
    sketch.fc(sketch.global_avgpool(x), CLASSES)
    return sketch.finish()


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
    layout=_layout,
)  # fmt: skip
