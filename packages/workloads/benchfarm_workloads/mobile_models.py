"""Convolutional networks for small devices. Batch normalisation is folded; every window is padded on all sides."""

from collections.abc import Mapping
from typing import Final

from benchfarm_workloads.columns import Scalar, integer
from benchfarm_workloads.layers import Feature, Network, Sketch, image_columns

_MOBILENET_V2_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, repeats, first stride of each stage."""

_MOBILENET_V3_BLOCKS: Final = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hswish", 2),
    (3, 200, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1),
    (3, 480, 112, True, "hswish", 1),
    (3, 672, 112, True, "hswish", 1),
    (5, 672, 160, True, "hswish", 2),
    (5, 960, 160, True, "hswish", 1),
    (5, 960, 160, True, "hswish", 1),
)
"""Window, inner channels, output channels, squeeze and excitation, activation, stride of each block."""

_EFFICIENTNET_STAGES: Final = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
"""Expansion, window, output channels, repeats, first stride of each stage."""

_FIRES: Final = (
    (16, 64),
    (16, 64),
    None,
    (32, 128),
    (32, 128),
    None,
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)
"""Squeezed channels and those of each expansion; None is a pool."""

_SHUFFLENET_STAGES: Final = ((116, 4), (232, 8), (464, 4))
"""Output channels and units of each stage."""


def mobilenet_v2(config: Mapping[str, Scalar]) -> Network:
    """MobileNetV2 1.0: 17 inverted residual blocks, 3.5 M parameters at 1000 classes."""
    sketch = Sketch("mobilenet_v2", *image_columns(config))
    x = sketch.conv(sketch.image(), 32, 3, s=2, act="relu6")
    for expansion, cout, repeats, stride in _MOBILENET_V2_STAGES:
        for index in range(repeats):
            x = _inverted_residual(sketch, x, expansion, cout, stride if index == 0 else 1)
    x = sketch.conv(x, 1280, 1, act="relu6")
    sketch.fc(sketch.global_avgpool(x), integer(config, "classes"))
    return sketch.finish()


def _inverted_residual(sketch: Sketch, x: Feature, expansion: int, cout: int, s: int) -> Feature:
    inner = sketch.conv(x, x.channels * expansion, 1, act="relu6") if expansion > 1 else x
    inner = sketch.conv(sketch.dwconv(inner, 3, s=s, act="relu6"), cout, 1)
    return sketch.add(x, inner) if s == 1 and x.channels == cout else inner


def mobilenet_v3_large(config: Mapping[str, Scalar]) -> Network:
    """MobileNetV3-Large 1.0 (Howard et al. 2019, arXiv 1905.02244, table 1): 5.4 M parameters at 1000 classes."""
    sketch = Sketch("mobilenet_v3_large", *image_columns(config))
    x = sketch.conv(sketch.image(), 16, 3, s=2, act="hswish")
    for k, inner, cout, squeezes, act, stride in _MOBILENET_V3_BLOCKS:
        y = sketch.conv(x, inner, 1, act=act) if inner != x.channels else x
        y = sketch.dwconv(y, k, s=stride, act=act)
        if squeezes:
            y = sketch.se(y, eights(inner / 4), gate="hsigmoid")
        y = sketch.conv(y, cout, 1)
        x = sketch.add(x, y) if stride == 1 and x.channels == cout else y
    x = sketch.fc(sketch.global_avgpool(sketch.conv(x, 960, 1, act="hswish")), 1280, act="hswish")
    sketch.fc(x, integer(config, "classes"))
    return sketch.finish()


def eights(channels: float) -> int:
    """The nearest multiple of 8, but no more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def efficientnet_b0(config: Mapping[str, Scalar]) -> Network:
    """EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1): 5.3 M parameters at 1000 classes."""
    sketch = Sketch("efficientnet_b0", *image_columns(config))
    x = sketch.conv(sketch.image(), 32, 3, s=2, act="swish")
    for expansion, k, cout, repeats, stride in _EFFICIENTNET_STAGES:
        for index in range(repeats):
            x = _mbconv(sketch, x, expansion, k, cout, stride if index == 0 else 1)
    x = sketch.conv(x, 1280, 1, act="swish")
    sketch.fc(sketch.global_avgpool(x), integer(config, "classes"))
    return sketch.finish()


def _mbconv(sketch: Sketch, x: Feature, expansion: int, k: int, cout: int, s: int) -> Feature:
    """Squeezes to a quarter of the block's input, through swish: ``se`` has relu there, so it is written in parts."""
    y = sketch.conv(x, x.channels * expansion, 1, act="swish") if expansion > 1 else x
    y = sketch.dwconv(y, k, s=s, act="swish")
    squeezed = sketch.conv(sketch.global_avgpool(y), x.channels // 4, 1, act="swish")
    y = sketch.mul(y, sketch.conv(squeezed, y.channels, 1, act="sigmoid"))
    y = sketch.conv(y, cout, 1)
    return sketch.add(x, y) if s == 1 and x.channels == cout else y


def squeezenet(config: Mapping[str, Scalar]) -> Network:
    """SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360, and its repository): 1.24 M parameters at 1000 classes.

    The original leaves some windows without padding; here maps are up to a pixel larger, and FLOPs 12 % more.
    """
    sketch = Sketch("squeezenet", *image_columns(config))
    x = sketch.maxpool(sketch.conv(sketch.image(), 64, 3, s=2, act="relu"), 3, s=2)
    for fire in _FIRES:
        x = sketch.maxpool(x, 3, s=2) if fire is None else _fire(sketch, x, *fire)
    sketch.global_avgpool(sketch.conv(x, integer(config, "classes"), 1, act="relu"))
    return sketch.finish()


def _fire(sketch: Sketch, x: Feature, squeezed: int, expanded: int) -> Feature:
    narrow = sketch.conv(x, squeezed, 1, act="relu")
    wide = (sketch.conv(narrow, expanded, k, act="relu") for k in (1, 3))
    return sketch.concat(*wide)


def shufflenet_v2(config: Mapping[str, Scalar]) -> Network:
    """ShuffleNetV2 1.0 (Ma et al. 2018, arXiv 1807.11164, table 5): 2.3 M parameters at 1000 classes."""
    sketch = Sketch("shufflenet_v2", *image_columns(config))
    x = sketch.maxpool(sketch.conv(sketch.image(), 24, 3, s=2, act="relu"), 3, s=2)
    for channels, units in _SHUFFLENET_STAGES:
        x = _halving_unit(sketch, x, channels)
        for _ in range(units - 1):
            x = _shuffle_unit(sketch, x)
    x = sketch.conv(x, 1024, 1, act="relu")
    sketch.fc(sketch.global_avgpool(x), integer(config, "classes"))
    return sketch.finish()


def _halving_unit(sketch: Sketch, x: Feature, channels: int) -> Feature:
    """Both branches see all channels and halve the image."""
    left = sketch.conv(sketch.dwconv(x, 3, s=2), channels // 2, 1, act="relu")
    return sketch.channel_shuffle(sketch.concat(left, _branch(sketch, x, channels // 2, 2)), 2)


def _shuffle_unit(sketch: Sketch, x: Feature) -> Feature:
    """One half of the channels passes by."""
    left, right = sketch.split(x, 2)
    return sketch.channel_shuffle(sketch.concat(left, _branch(sketch, right, x.channels // 2, 1)), 2)


def _branch(sketch: Sketch, x: Feature, channels: int, s: int) -> Feature:
    inner = sketch.dwconv(sketch.conv(x, channels, 1, act="relu"), 3, s=s)
    return sketch.conv(inner, channels, 1, act="relu")
