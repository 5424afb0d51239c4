"""Where a kernel is written, and the activations that any kernel may end with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchfarm_workloads.columns import Scalar, integer, text
from benchfarm_workloads.onnx_graphs import Attribute, OnnxGraph
from benchfarm_workloads.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Site:
    """Where a kernel goes: the graph, its name, its configuration with the tensors, what feeds it and what it makes."""

    graph: OnnxGraph
    name: str
    config: Mapping[str, Scalar]
    tensors: Tensors
    sources: Sequence[str]
    outputs: tuple[str, ...]

    def size(self, column: str) -> int:
        """An integer column."""
        return integer(self.config, column)

    def inner(self, part: str) -> str:
        """The name of an inner value or weight."""
        return f"{self.name}/{part}"


Emitter = Callable[[Site], object]
"""Writes one kernel; the last operator makes the site's outputs."""


def activation(graph: OnnxGraph, name: str, act: str, source: str) -> str:
    """An activation of the catalogue other than ``none``."""
    if act == "gelu":
        return gelu(graph, name, source)
    if act == "relu6":
        bounds = [graph.constant(f"{name}/low", 0.0), graph.constant(f"{name}/high", 6.0)]
        return graph.node("Clip", [source, *bounds], name)
    if act == "swish":
        return graph.node("Mul", [source, graph.node("Sigmoid", [source], f"{name}/sigmoid")], name)
    if act == "hsigmoid":
        return graph.node("HardSigmoid", [source], name, alpha=1 / 6, beta=0.5)
    return graph.node({"relu": "Relu", "hswish": "HardSwish", "sigmoid": "Sigmoid"}[act], [source], name)


def gelu(graph: OnnxGraph, name: str, source: str) -> str:
    """x / sqrt(2), erf, + 1, * x, * 0.5: opset 17 has no Gelu, and this order is the one that engines fuse to it."""
    scaled = graph.node("Div", [source, graph.constant(f"{name}/root", 2**0.5)], f"{name}/scaled")
    erf = graph.node("Erf", [scaled], f"{name}/erf")
    shifted = graph.node("Add", [erf, graph.constant(f"{name}/one", 1.0)], f"{name}/shifted")
    product = graph.node("Mul", [source, shifted], f"{name}/product")
    return graph.node("Mul", [product, graph.constant(f"{name}/half", 0.5)], name)


def with_activation(site: Site, op: str, inputs: Sequence[str], **attributes: Attribute) -> str:
    """An operator followed by the activation of the ``act`` column."""
    act = text(site.config, "act")
    if act == "none":
        return site.graph.node(op, inputs, site.name, **attributes)
    linear = site.graph.node(op, inputs, site.inner("linear"), **attributes)
    return activation(site.graph, site.name, act, linear)
