"""Random architectures of three families of networks: what the sum of kernels is held against beside known models.

The families follow the search spaces of Once-for-All (MobileNetV3 and ResNet) and ProxylessNAS (MobileNetV2).
"""

import random
from collections.abc import Callable, Mapping
from typing import Final

from benchfarm_workloads.layers import Feature, Network, Sketch

CLASSES: Final = 1000
RESOLUTIONS: Final = range(128, 225, 16)
RESNET_RESOLUTIONS: Final = range(128, 193, 16)


def draw_architectures(count: int, seed: int) -> dict[str, Network]:
    """`count` networks of each family; the same for the same seed on every machine."""
    return {
        f"{family}-{number}": draw(random.Random(f"{family}/{seed}/{number}"))
        for family, draw in FAMILIES.items()
        for number in range(count)
    }


def _mobile_v3(rng: random.Random) -> Network:
    """Widths 16-160, 2 to 4 blocks a stage, windows 3, 5 and 7, expansions 3, 4 and 6."""
    sketch = Sketch("mobile_v3", 1, rng.choice(RESOLUTIONS))
    x = sketch.conv(sketch.image(), 16, 3, s=2, act="hswish")
    x = _inverted(sketch, x, 1, 16, 3, s=1, act="relu", squeezed=False)
    stages = ((24, 2, "relu", False), (40, 2, "relu", True), (80, 2, "hswish", False))
    for cout, stride, act, squeezed in (*stages, (112, 1, "hswish", True), (160, 2, "hswish", True)):
        for index in range(rng.randint(2, 4)):
            s = stride if index == 0 else 1
            expansion, k = rng.choice((3, 4, 6)), rng.choice((3, 5, 7))
            x = _inverted(sketch, x, expansion, cout, k, s=s, act=act, squeezed=squeezed)
    x = sketch.conv(x, 960, 1, act="hswish")
    x = sketch.conv(sketch.global_avgpool(x), 1280, 1, act="hswish")
    sketch.fc(x, CLASSES)
    return sketch.finish()


def _mobile_v2(rng: random.Random) -> Network:
    """Widths 24-416, relu6, no squeezing, expansions 3 and 6."""
    sketch = Sketch("mobile_v2", 1, rng.choice(RESOLUTIONS))
    x = sketch.conv(sketch.image(), 40, 3, s=2, act="relu6")
    x = _inverted(sketch, x, 1, 24, 3, s=1, act="relu6", squeezed=False)
    for cout, stride in ((32, 2), (56, 2), (104, 2), (128, 1), (248, 2)):
        for index in range(rng.randint(2, 4)):
            expansion, k, s = rng.choice((3, 6)), rng.choice((3, 5, 7)), stride if index == 0 else 1
            x = _inverted(sketch, x, expansion, cout, k, s=s, act="relu6", squeezed=False)
    x = _inverted(sketch, x, rng.choice((3, 6)), 416, rng.choice((3, 5, 7)), s=1, act="relu6", squeezed=False)
    x = sketch.conv(x, 1664, 1, act="relu6")
    sketch.fc(sketch.global_avgpool(x), CLASSES)
    return sketch.finish()


def _inverted(
    sketch: Sketch, x: Feature, expansion: int, cout: int, k: int, *, s: int, act: str, squeezed: bool
) -> Feature:
    inner = sketch.conv(x, x.channels * expansion, 1, act=act) if expansion > 1 else x
    inner = sketch.dwconv(inner, k, s=s, act=act)
    if squeezed:
        inner = sketch.se(inner, max(8, inner.channels // 32 * 8), gate="hsigmoid")
    inner = sketch.conv(inner, cout, 1)
    return sketch.add(x, inner) if s == 1 and x.channels == cout else inner


def _resnet(rng: random.Random) -> Network:
    """Bottlenecks in four stages, 2 to 4 (6 in the third) each; whole widths scaled by 0.65, 0.8 or 1."""
    sketch = Sketch("resnet", 1, rng.choice(RESNET_RESOLUTIONS))
    width = rng.choice((0.65, 0.8, 1.0))
    x = sketch.conv(sketch.image(), _eights(32 * width), 3, s=2, act="relu")
    x = sketch.conv(x, _eights(64 * width), 3, act="relu")
    x = sketch.maxpool(x, 3, s=2)
    for cout, blocks, stride in ((256, 2, 1), (512, 2, 2), (1024, 4, 2), (2048, 2, 2)):
        for index in range(blocks + rng.randint(0, 2)):
            inner = _eights(cout * width * rng.choice((0.2, 0.25, 0.35)))
            x = _bottleneck(sketch, x, inner, _eights(cout * width), stride if index == 0 else 1)
    sketch.fc(sketch.global_avgpool(x), CLASSES)
    return sketch.finish()


def _bottleneck(sketch: Sketch, x: Feature, inner: int, cout: int, s: int) -> Feature:
    y = sketch.conv(x, inner, 1, act="relu")
    y = sketch.conv(sketch.conv(y, inner, 3, s=s, act="relu"), cout, 1)
    shortcut = x if s == 1 and x.channels == cout else sketch.conv(x, cout, 1, s=s)
    return sketch.add(y, shortcut, act="relu")


def _eights(channels: float) -> int:
    return max(8, round(channels / 8) * 8)


FAMILIES: Final[Mapping[str, Callable[[random.Random], Network]]] = {
    "mobile_v3": _mobile_v3,
    "mobile_v2": _mobile_v2,
    "resnet": _resnet,
}
