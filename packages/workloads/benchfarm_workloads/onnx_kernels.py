"""ONNX graphs of catalogue kernels. Batch normalisation is written folded: a convolution with a bias."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_core.values import digest
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_workloads.columns import Config, Scalar, integer, text
from benchfarm_workloads.costs import output_hw, padding
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.onnx_graphs import Attribute, OnnxGraph


@dataclass(frozen=True, slots=True)
class Site:
    """Where a kernel goes: the graph, the name of its output, its configuration, and what feeds it."""

    graph: OnnxGraph
    name: str
    config: Mapping[str, Scalar]
    sources: Sequence[str]

    def size(self, column: str) -> int:
        """An integer column."""
        return integer(self.config, column)

    def inner(self, part: str) -> str:
        """The name of an inner value or weight."""
        return f"{self.name}/{part}"


def build_kernel(type_name: str, config: Mapping[str, object]) -> tuple[bytes, tuple[InputSpec, ...]]:
    """The one-kernel ONNX file and its inputs; the same bytes for the same configuration.

    Raises:
        InvalidRequest: unknown type or configuration out of range.
    """
    kind = kernel_type(type_name)
    canonical = kind.validate(config)
    graph = OnnxGraph(kind.name, seed=int(digest([kind.name, canonical], length=16), 16))
    inputs = kernel_inputs(kind.name, canonical)
    sources = [graph.input(spec.name, spec.shape) for spec in inputs]
    graph.output(emit_kernel(graph, "y", kind.name, canonical, sources), output_shape(kind.name, canonical))
    return graph.to_bytes(), inputs


def emit_kernel(
    graph: OnnxGraph, name: str, type_name: str, config: Mapping[str, Scalar], sources: Sequence[str]
) -> str:
    """Adds a kernel to a graph; its output is called ``name``, inner values and weights ``name/...``."""
    return _EMITTERS[type_name](Site(graph, name, config, sources))


def kernel_inputs(type_name: str, config: Config) -> tuple[InputSpec, ...]:
    """The inputs of a one-kernel graph, filled with seeded normal numbers."""
    shapes = _input_shapes(type_name, config)
    return tuple(
        InputSpec(name=f"x{index}", dtype="float32", shape=shape, fill=NormalFill(seed=index))
        for index, shape in enumerate(shapes)
    )


def output_shape(type_name: str, config: Mapping[str, Scalar]) -> tuple[int, ...]:
    """The output's shape, n x c x h x w (n x c for ``fc``)."""
    batch = integer(config, "batch")
    if type_name == "fc":
        return (batch, integer(config, "cout"))
    hw = integer(config, "hw")
    if type_name == "concat":
        return (batch, sum(_concat_channels(config)), hw, hw)
    channels = integer(config, "cout" if type_name == "conv-bn-act" else "cin")
    if type_name == "global-avgpool":
        return (batch, channels, 1, 1)
    out = output_hw(hw, integer(config, "k"), integer(config, "s")) if "k" in config else hw
    return (batch, channels, out, out)


def _input_shapes(type_name: str, config: Config) -> list[tuple[int, ...]]:
    batch = integer(config, "batch")
    if type_name == "fc":
        return [(batch, integer(config, "cin"))]
    hw = integer(config, "hw")
    if type_name == "concat":
        return [(batch, channels, hw, hw) for channels in _concat_channels(config)]
    image = (batch, integer(config, "cin"), hw, hw)
    return [image, image] if type_name == "add-act" else [image]


def _concat_channels(config: Mapping[str, Scalar]) -> list[int]:
    counts = [integer(config, column) for column in ("cin1", "cin2", "cin3", "cin4")]
    return [count for count in counts if count > 0]


def _activation(graph: OnnxGraph, name: str, act: str, source: str) -> str:
    """An activation of the catalogue other than ``none``."""
    if act == "relu6":
        bounds = [graph.constant(f"{name}/low", 0.0), graph.constant(f"{name}/high", 6.0)]
        return graph.node("Clip", [source, *bounds], name)
    if act == "swish":
        return graph.node("Mul", [source, graph.node("Sigmoid", [source], f"{name}/sigmoid")], name)
    if act == "hsigmoid":
        return graph.node("HardSigmoid", [source], name, alpha=1 / 6, beta=0.5)
    return graph.node({"relu": "Relu", "hswish": "HardSwish", "sigmoid": "Sigmoid"}[act], [source], name)


def _with_activation(site: Site, op: str, inputs: Sequence[str], **attributes: Attribute) -> str:
    """An operator followed by the activation of the ``act`` column."""
    act = text(site.config, "act")
    if act == "none":
        return site.graph.node(op, inputs, site.name, **attributes)
    linear = site.graph.node(op, inputs, site.inner("linear"), **attributes)
    return _activation(site.graph, site.name, act, linear)


def _conv(site: Site) -> str:
    return _windowed_conv(site, outputs=site.size("cout"), group_inputs=site.size("cin"), groups=1)


def _dwconv(site: Site) -> str:
    return _windowed_conv(site, outputs=site.size("cin"), group_inputs=1, groups=site.size("cin"))


def _windowed_conv(site: Site, *, outputs: int, group_inputs: int, groups: int) -> str:
    k = site.size("k")
    fan_in = group_inputs * k * k
    weight = site.graph.weight(site.inner("weight"), (outputs, group_inputs, k, k), fan_in=fan_in)
    bias = site.graph.bias(site.inner("bias"), outputs)
    return _with_activation(site, "Conv", [site.sources[0], weight, bias], group=groups, **_window(site))


def _window(site: Site) -> dict[str, list[int]]:
    k, s = site.size("k"), site.size("s")
    return {"kernel_shape": [k, k], "strides": [s, s], "pads": [padding(k)] * 4}


def _fc(site: Site) -> str:
    cin, cout = site.size("cin"), site.size("cout")
    weight = site.graph.weight(site.inner("weight"), (cout, cin), fan_in=cin)
    bias = site.graph.bias(site.inner("bias"), cout)
    return _with_activation(site, "Gemm", [site.sources[0], weight, bias], transB=1)


def _maxpool(site: Site) -> str:
    return site.graph.node("MaxPool", site.sources, site.name, **_window(site))


def _avgpool(site: Site) -> str:
    return site.graph.node("AveragePool", site.sources, site.name, count_include_pad=0, **_window(site))


def _global_avgpool(site: Site) -> str:
    return site.graph.node("GlobalAveragePool", site.sources, site.name)


def _add(site: Site) -> str:
    return _with_activation(site, "Add", site.sources)


def _se(site: Site) -> str:
    cin, cmid, graph = site.size("cin"), site.size("cmid"), site.graph
    pooled = graph.node("GlobalAveragePool", site.sources, site.inner("pool"))
    reduced = graph.node("Relu", [_pointwise(site, "reduce", pooled, cin, cmid)], site.inner("relu"))
    expanded = _pointwise(site, "expand", reduced, cmid, cin)
    gate = _activation(graph, site.inner("gate"), text(site.config, "gate"), expanded)
    return graph.node("Mul", [site.sources[0], gate], site.name)


def _pointwise(site: Site, part: str, source: str, cin: int, cout: int) -> str:
    weight = site.graph.weight(site.inner(f"{part}/weight"), (cout, cin, 1, 1), fan_in=cin)
    bias = site.graph.bias(site.inner(f"{part}/bias"), cout)
    return site.graph.node("Conv", [source, weight, bias], site.inner(part))


def _act(site: Site) -> str:
    return _activation(site.graph, site.name, text(site.config, "act"), site.sources[0])


def _concat(site: Site) -> str:
    return site.graph.node("Concat", site.sources, site.name, axis=1)


_EMITTERS: Final[dict[str, Callable[[Site], str]]] = {
    "conv-bn-act": _conv,
    "dwconv-bn-act": _dwconv,
    "fc": _fc,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "global-avgpool": _global_avgpool,
    "add-act": _add,
    "se": _se,
    "act": _act,
    "concat": _concat,
}
"""One writer per kernel type, from a site to the output's name."""
