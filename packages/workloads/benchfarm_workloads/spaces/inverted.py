"""The block of mobile networks: channels widened, a depthwise window, squeeze and excitation, channels narrowed."""

from dataclasses import dataclass

from benchfarm_workloads.layers import Feature, Sketch


@dataclass(frozen=True, slots=True)
class Inverted:
    """One inverted residual block (MobileNetV2: Sandler et al. 2018, arXiv 1801.04381).

    mid: channels between the two 1x1 convolutions; where it equals the input's, the first is left out. squeezed:
    channels of squeeze and excitation, 0 for none. gate: its last activation.
    """

    mid: int
    cout: int
    k: int
    s: int
    act: str
    squeezed: int = 0
    gate: str = "hsigmoid"

    def inner(self, sketch: Sketch, x: Feature) -> Feature:
        """The block without its shortcut."""
        y = sketch.conv(x, self.mid, 1, act=self.act) if self.mid != x.channels else x
        y = sketch.dwconv(y, self.k, s=self.s, act=self.act)
        if self.squeezed:
            y = sketch.se(y, self.squeezed, gate=self.gate)
        return sketch.conv(y, self.cout, 1)

    def append(self, sketch: Sketch, x: Feature) -> Feature:
        """The block with a shortcut where the sizes let it: its input is added."""
        y = self.inner(sketch, x)
        return sketch.add(x, y) if self.s == 1 and x.channels == self.cout else y
