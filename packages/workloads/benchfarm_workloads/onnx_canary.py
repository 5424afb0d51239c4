"""The MobileNet-like canary: cache- and bandwidth-bound work, small enough to run between two blocks."""

from typing import Final

from benchfarm_core.workloads import InputSpec
from benchfarm_workloads.layers import Feature, Network, Sketch
from benchfarm_workloads.onnx_models import build_network, network_inputs

CANARY_SEED: Final = 20_240_901
"""Golden times are of this very file: a changed network or seed makes them wrong, and with them what they normalise."""

_BLOCKS: Final = ((24, 2), (40, 2), (40, 1), (80, 2))
"""Output channels and stride of each inverted residual block."""


def build_canary() -> bytes:
    """The canary's ONNX file; the same bytes on every machine."""
    return build_network(canary_network(), seed=CANARY_SEED, branch_gain=1.0)


def canary_inputs() -> tuple[InputSpec, ...]:
    """The canary's one input."""
    return network_inputs(canary_network())


def canary_network() -> Network:
    """Four inverted residual blocks on a 96 x 96 image: about 21 MFLOPs, 0.35 ms on one desktop core."""
    sketch = Sketch("canary", batch=1, hw=96)
    x = sketch.conv(sketch.image(), 16, 3, s=2, act="relu6")
    for cout, stride in _BLOCKS:
        x = _block(sketch, x, cout, stride)
    sketch.fc(sketch.global_avgpool(x), 64)
    return sketch.finish()


def _block(sketch: Sketch, x: Feature, cout: int, s: int) -> Feature:
    inner = sketch.conv(x, 4 * x.channels, 1, act="relu6")
    inner = sketch.conv(sketch.dwconv(inner, 3, s=s, act="relu6"), cout, 1)
    return sketch.add(x, inner) if s == 1 and x.channels == cout else inner
