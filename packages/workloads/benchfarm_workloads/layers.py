"""Networks as chains and branches of catalogue kernels: what models, search spaces and carriers are made of.

A network is a list of layers in the order of execution, each one kernel of the catalogue fed by earlier
layers or by the network's input. Costs, kernel lists and ONNX files all come from this one list. Networks on
images are sketched here, networks on sequences in ``sequence_layers``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from benchfarm_core.workloads import Cost
from benchfarm_workloads.columns import Config, Scalar, integer
from benchfarm_workloads.costs import BYTES_PER_ELEMENT
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.tensors import Dims, Tensors

LAYERS_KEPT: Final = 5_000
"""Checked layers and their costs that are remembered: architectures of one space share most of theirs."""

INPUT: Final = "x"
"""The name of the network's first input, mostly its only one: an image batch x 3 x hw x hw, or a sequence
batch x seq x dim."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One kernel in a network. ``sources`` are names of earlier layers' outputs, or ``INPUT``."""

    name: str
    type: str
    config: Config
    sources: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The layer's name, or ``name/0``, ``name/1``, ... where the kernel has several outputs."""
        return kernel_type(self.type).output_names(self.name, self.config)

    @property
    def tensors(self) -> Tensors:
        """The dimensions of inputs and outputs."""
        return kernel_type(self.type).tensor_rule(self.config)


@dataclass(frozen=True, slots=True)
class Network:
    """Layers in the order of execution; the last one has one output, the network's.

    ``input_shape`` is n x c x h x w for images, n x seq x dim for sequences; ``side_inputs`` are further inputs.
    """

    name: str
    input_shape: Dims
    layers: tuple[Layer, ...]
    side_inputs: tuple[tuple[str, Dims], ...] = ()

    @property
    def inputs(self) -> tuple[tuple[str, Dims], ...]:
        """All inputs by name."""
        return ((INPUT, self.input_shape), *self.side_inputs)

    def cost(self) -> Cost:
        """FLOPs and parameters of all layers; bytes of the network's own inputs and output and all weights."""
        costs = [_cost(layer.type, tuple(layer.config.items())) for layer in self.layers]
        return Cost(
            flops=sum(cost.flops for cost in costs),
            parameters=sum(cost.parameters for cost in costs),
            input_bytes=BYTES_PER_ELEMENT * sum(math.prod(dims) for _, dims in self.inputs),
            output_bytes=costs[-1].output_bytes,
            weight_bytes=sum(cost.weight_bytes for cost in costs),
        )

    def shapes(self) -> dict[str, Dims]:
        """The dimensions of the inputs and of every layer's outputs, by name."""
        shapes = dict(self.inputs)
        for layer in self.layers:
            # an activation takes tokens and features too, and hands on what it takes
            made = (shapes[layer.sources[0]],) if layer.type == "act" else layer.tensors.outputs
            shapes.update(zip(layer.outputs, made, strict=True))
        return shapes


@dataclass(frozen=True, slots=True)
class Feature:
    """What a layer hands on: its name, and its channels and size for the next one."""

    source: str
    channels: int
    hw: int


def append_layer(
    layers: list[Layer], type_name: str, config: Mapping[str, Scalar], *sources: str
) -> tuple[tuple[str, Dims], ...]:
    """Adds a kernel behind those that are there; returns the names and dimensions of its outputs.

    Raises:
        InvalidRequest: the catalogue does not take the configuration.
    """
    columns, made = _checked(type_name, tuple(config.items()))
    layer = Layer(f"l{len(layers)}", type_name, dict(columns), sources)
    layers.append(layer)
    return ((layer.name, made[0]),) if len(made) == 1 else tuple(zip(layer.outputs, made, strict=True))


@lru_cache(LAYERS_KEPT)
def _checked(
    type_name: str, columns: tuple[tuple[str, Scalar], ...]
) -> tuple[tuple[tuple[str, Scalar], ...], tuple[Dims, ...]]:
    """The canonical columns of a layer, and the dimensions of its outputs."""
    kind = kernel_type(type_name)
    config = kind.validate(dict(columns))
    return tuple(config.items()), kind.tensor_rule(config).outputs


@lru_cache(LAYERS_KEPT)
def _cost(type_name: str, columns: tuple[tuple[str, Scalar], ...]) -> Cost:
    return kernel_type(type_name).cost(dict(columns))


@dataclass(slots=True)
class Sketch:
    """Builds a network on an image layer by layer; every configuration is validated by the catalogue."""

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
        return self._one("conv-bn-act", config, x)

    def dwconv(self, x: Feature, k: int, *, s: int = 1, act: str = "none") -> Feature:
        """A depthwise convolution with folded normalisation and activation."""
        return self._one("dwconv-bn-act", {"hw": x.hw, "cin": x.channels, "k": k, "s": s, "act": act}, x)

    def maxpool(self, x: Feature, k: int, *, s: int) -> Feature:
        """The maximum over windows."""
        return self._one("maxpool", {"hw": x.hw, "cin": x.channels, "k": k, "s": s}, x)

    def avgpool(self, x: Feature, k: int, *, s: int) -> Feature:
        """The mean over windows."""
        return self._one("avgpool", {"hw": x.hw, "cin": x.channels, "k": k, "s": s}, x)

    def add(self, x: Feature, y: Feature, *, act: str = "none") -> Feature:
        """The sum of two equal features."""
        return self._one("add-act", {"hw": x.hw, "cin": x.channels, "act": act}, x, y)

    def mul(self, x: Feature, factors: Feature) -> Feature:
        """The product with an equal feature, or with a pooled one: one number for each channel."""
        form = "image" if factors.hw == x.hw else "channel"
        return self._one("mul", {"hw": x.hw, "cin": x.channels, "form": form}, x, factors)

    def se(self, x: Feature, cmid: int, *, gate: str) -> Feature:
        """Squeeze and excitation through ``cmid`` channels."""
        return self._one("se", {"hw": x.hw, "cin": x.channels, "cmid": cmid, "gate": gate}, x)

    def split(self, x: Feature, parts: int) -> tuple[Feature, ...]:
        """Equal parts of the channels."""
        return self._append("split", {"hw": x.hw, "cin": x.channels, "parts": parts}, x)

    def concat(self, *xs: Feature) -> Feature:
        """Two to four features joined along the channels."""
        channels = {f"cin{index}": x.channels for index, x in enumerate(xs, start=1)}
        return self._one("concat", {"hw": xs[0].hw, **channels}, *xs)

    def channel_shuffle(self, x: Feature, groups: int) -> Feature:
        """The channels of all groups dealt out in turn."""
        return self._one("channel-shuffle", {"hw": x.hw, "cin": x.channels, "groups": groups}, x)

    def global_avgpool(self, x: Feature) -> Feature:
        """The mean of each channel."""
        return self._one("global-avgpool", {"hw": x.hw, "cin": x.channels}, x)

    def fc(self, x: Feature, cout: int, *, act: str = "none") -> Feature:
        """A fully connected layer on a pooled feature."""
        return self._one("fc", {"cin": x.channels, "cout": cout, "act": act}, x)

    def finish(self) -> Network:
        """The network; its output is the last layer."""
        return Network(self.name, (self.batch, 3, self.hw, self.hw), tuple(self.layers))

    def _one(self, type_name: str, config: Mapping[str, Scalar], *inputs: Feature) -> Feature:
        [feature] = self._append(type_name, config, *inputs)
        return feature

    def _append(self, type_name: str, config: Mapping[str, Scalar], *inputs: Feature) -> tuple[Feature, ...]:
        made = append_layer(self.layers, type_name, {**config, "batch": self.batch}, *(x.source for x in inputs))
        return tuple(_feature(*each) for each in made)


def image_columns(config: Mapping[str, Scalar]) -> tuple[int, int]:
    """The ``batch`` and ``hw`` of a model's configuration."""
    return integer(config, "batch"), integer(config, "hw")


def _feature(name: str, dims: Dims) -> Feature:
    """Features of a fully connected layer count as one pixel."""
    return Feature(name, dims[1], dims[2] if len(dims) > 2 else 1)
