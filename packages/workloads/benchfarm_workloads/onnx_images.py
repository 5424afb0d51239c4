"""ONNX writers of the kernel types on images. Batch normalisation is written folded: a convolution with a bias."""

from collections.abc import Mapping
from typing import Final

from benchfarm_workloads.columns import text
from benchfarm_workloads.onnx_graphs import Attribute
from benchfarm_workloads.onnx_sites import Emitter, Site, activation, with_activation
from benchfarm_workloads.tensors import padding


def _conv(site: Site) -> None:
    _windowed_conv(site, outputs=site.size("cout"), group_inputs=site.size("cin"), groups=1)


def _group_conv(site: Site) -> None:
    groups = site.size("groups")
    _windowed_conv(site, outputs=site.size("cout"), group_inputs=site.size("cin") // groups, groups=groups)


def _dwconv(site: Site) -> None:
    _windowed_conv(site, outputs=site.size("cin"), group_inputs=1, groups=site.size("cin"))


def _windowed_conv(site: Site, *, outputs: int, group_inputs: int, groups: int) -> None:
    k = site.size("k")
    fan_in = group_inputs * k * k
    weight = site.graph.weight(site.inner("weight"), (outputs, group_inputs, k, k), fan_in=fan_in)
    bias = site.graph.bias(site.inner("bias"), outputs)
    with_activation(site, "Conv", [site.sources[0], weight, bias], group=groups, **_window(site))


def _window(site: Site) -> dict[str, list[int]]:
    k, s = site.size("k"), site.size("s")
    return {"kernel_shape": [k, k], "strides": [s, s], "pads": [padding(k)] * 4}


def _deconv(site: Site) -> None:
    cin, cout, k, s = (site.size(column) for column in ("cin", "cout", "k", "s"))
    # each output element is the sum of about (k / s) squared elements of every input map
    fan_in = max(1, cin * k * k // (s * s))
    weight = site.graph.weight(site.inner("weight"), (cin, cout, k, k), fan_in=fan_in)
    bias = site.graph.bias(site.inner("bias"), cout)
    window = {"kernel_shape": [k, k], "strides": [s, s], "pads": [(k - s) // 2] * 4}
    with_activation(site, "ConvTranspose", [site.sources[0], weight, bias], group=1, **window)


def _fc(site: Site) -> None:
    cin, cout = site.size("cin"), site.size("cout")
    weight = site.graph.weight(site.inner("weight"), (cout, cin), fan_in=cin)
    bias = site.graph.bias(site.inner("bias"), cout)
    with_activation(site, "Gemm", [site.sources[0], weight, bias], transB=1)


def _maxpool(site: Site) -> None:
    site.graph.node("MaxPool", site.sources, site.name, **_window(site))


def _avgpool(site: Site) -> None:
    site.graph.node("AveragePool", site.sources, site.name, count_include_pad=0, **_window(site))


def _global_avgpool(site: Site) -> None:
    site.graph.node("GlobalAveragePool", site.sources, site.name)


def _add(site: Site) -> None:
    with_activation(site, "Add", site.sources)


def _se(site: Site) -> None:
    cin, cmid, graph = site.size("cin"), site.size("cmid"), site.graph
    pooled = graph.node("GlobalAveragePool", site.sources, site.inner("pool"))
    reduced = graph.node("Relu", [_pointwise(site, "reduce", pooled, cin, cmid)], site.inner("relu"))
    expanded = _pointwise(site, "expand", reduced, cmid, cin)
    gate = activation(graph, site.inner("gate"), text(site.config, "gate"), expanded)
    graph.node("Mul", [site.sources[0], gate], site.name)


def _pointwise(site: Site, part: str, source: str, cin: int, cout: int) -> str:
    weight = site.graph.weight(site.inner(f"{part}/weight"), (cout, cin, 1, 1), fan_in=cin)
    bias = site.graph.bias(site.inner(f"{part}/bias"), cout)
    return site.graph.node("Conv", [source, weight, bias], site.inner(part))


def _act(site: Site) -> None:
    activation(site.graph, site.name, text(site.config, "act"), site.sources[0])


def _concat(site: Site) -> None:
    site.graph.node("Concat", site.sources, site.name, axis=1)


def _mul(site: Site) -> None:
    site.graph.node("Mul", site.sources, site.name)


def _split(site: Site) -> None:
    sizes = site.graph.integers(site.inner("sizes"), [dims[1] for dims in site.tensors.outputs])
    site.graph.many_outputs("Split", [*site.sources, sizes], site.name, site.outputs, axis=1)


def _channel_shuffle(site: Site) -> None:
    [dims] = site.tensors.inputs
    batch, channels, hw, _ = dims
    groups, graph = site.size("groups"), site.graph
    split_dims = graph.integers(site.inner("groups"), [batch, groups, channels // groups, hw, hw])
    grouped = graph.node("Reshape", [site.sources[0], split_dims], site.inner("grouped"))
    dealt = graph.node("Transpose", [grouped], site.inner("dealt"), perm=[0, 2, 1, 3, 4])
    graph.node("Reshape", [dealt, graph.integers(site.inner("dims"), dims)], site.name)


_RESIZE: Final[Mapping[str, dict[str, Attribute]]] = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}


def _resize(site: Site) -> None:
    sizes = site.graph.integers(site.inner("sizes"), site.tensors.outputs[0])
    # the empty names are a region and scales, which sizes replace
    inputs = [site.sources[0], "", "", sizes]
    site.graph.node("Resize", inputs, site.name, **_RESIZE[text(site.config, "mode")])


IMAGE_EMITTERS: Final[dict[str, Emitter]] = {
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
    "group-conv": _group_conv,
    "deconv-bn-act": _deconv,
    "mul": _mul,
    "split": _split,
    "channel-shuffle": _channel_shuffle,
    "resize": _resize,
}
"""One writer per kernel type."""
