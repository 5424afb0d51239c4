"""Networks as chains and branches of catalogue kernels: what models, search spaces and carriers are made of.

A network is a list of layers in the order of execution, each one kernel of the catalogue fed by earlier
layers or by the network's input. Costs, kernel lists and ONNX files all come from this one list.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from benchfarm_core.workloads import Cost
from benchfarm_workloads.columns import Config, Scalar, integer
from benchfarm_workloads.costs import output_hw
from benchfarm_workloads.kernels import kernel_type

INPUT: Final = "x"
"""The name of the network's only input, an image batch x 3 x hw x hw."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One kernel in a network. ``sources`` are names of earlier layers, or ``INPUT``."""

    name: str
    type: str
    config: Config
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """Layers in the order of execution; the last one is the output. ``input_shape`` is n x c x h x w."""

    name: str
    input_shape: tuple[int, int, int, int]
    layers: tuple[Layer, ...]

    def cost(self) -> Cost:
        """FLOPs and parameters of all layers; bytes of the network's own input and output and all weights."""
        costs = [kernel_type(layer.type).cost(layer.config) for layer in self.layers]
        return Cost(
            flops=sum(cost.flops for cost in costs),
            parameters=sum(cost.parameters for cost in costs),
            input_bytes=4 * _product(self.input_shape),
            output_bytes=costs[-1].output_bytes,
            weight_bytes=sum(cost.weight_bytes for cost in costs),
        )


@dataclass(frozen=True, slots=True)
class Feature:
    """What a layer hands on: its name, and its channels and size for the next one."""

    source: str
    channels: int
    hw: int


@dataclass(slots=True)
class Sketch:
    """Builds a network layer by layer; every configuration is validated by the catalogue."""

    name: str
    batch: int
    hw: int
    layers: list[Layer] = field(default_factory=list)

    def image(self) -> Feature:
        """The input image with three channels."""
        return Feature(INPUT, 3, self.hw)

    def conv(self, x: Feature, cout: int, k: int, *, s: int = 1, act: str = "none") -> Feature:
        """A convolution with folded normalisation and activation."""
        config: Config = {"hw": x.hw, "cin": x.channels, "cout": cout, "k": k, "s": s, "act": act}
        return Feature(self._append("conv-bn-act", config, x), cout, output_hw(x.hw, k, s))

    def dwconv(self, x: Feature, k: int, *, s: int = 1, act: str = "none") -> Feature:
        """A depthwise convolution with folded normalisation and activation."""
        config: Config = {"hw": x.hw, "cin": x.channels, "k": k, "s": s, "act": act}
        return Feature(self._append("dwconv-bn-act", config, x), x.channels, output_hw(x.hw, k, s))

    def maxpool(self, x: Feature, k: int, *, s: int) -> Feature:
        """The maximum over windows."""
        config: Config = {"hw": x.hw, "cin": x.channels, "k": k, "s": s}
        return Feature(self._append("maxpool", config, x), x.channels, output_hw(x.hw, k, s))

    def add(self, x: Feature, y: Feature, *, act: str = "none") -> Feature:
        """The sum of two equal features."""
        config: Config = {"hw": x.hw, "cin": x.channels, "act": act}
        return Feature(self._append("add-act", config, x, y), x.channels, x.hw)

    def global_avgpool(self, x: Feature) -> Feature:
        """The mean of each channel."""
        return Feature(self._append("global-avgpool", {"hw": x.hw, "cin": x.channels}, x), x.channels, 1)

    def fc(self, x: Feature, cout: int) -> Feature:
        """A fully connected layer on a pooled feature."""
        return Feature(self._append("fc", {"cin": x.channels, "cout": cout}, x), cout, 1)

    def finish(self) -> Network:
        """The network; its output is the last layer."""
        return Network(self.name, (self.batch, 3, self.hw, self.hw), tuple(self.layers))

    def _append(self, type_name: str, config: Mapping[str, Scalar], *inputs: Feature) -> str:
        canonical = kernel_type(type_name).validate({**config, "batch": self.batch})
        name = f"l{len(self.layers)}"
        self.layers.append(Layer(name, type_name, canonical, tuple(x.source for x in inputs)))
        return name


def image_columns(config: Mapping[str, Scalar]) -> tuple[int, int]:
    """The ``batch`` and ``hw`` of a model's configuration."""
    return integer(config, "batch"), integer(config, "hw")


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
