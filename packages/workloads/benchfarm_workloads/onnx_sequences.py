"""ONNX writers of the kernel types on sequences, in the forms that exporters write and engines know how to fuse."""

from typing import Final

from benchfarm_workloads.onnx_sites import Emitter, Site, gelu, with_activation
from benchfarm_workloads.sequence_kernels import LAYERNORM_EPSILON


def _linear(site: Site) -> None:
    cin, cout = site.size("cin"), site.size("cout")
    weight = site.graph.weight(site.inner("weight"), (cin, cout), fan_in=cin)
    product = site.graph.node("MatMul", [site.sources[0], weight], site.inner("matmul"))
    with_activation(site, "Add", [product, site.graph.bias(site.inner("bias"), cout)])


def _matmul(site: Site) -> None:
    k, n = site.size("k"), site.size("n")
    if site.config["form"] == "input":
        site.graph.node("MatMul", site.sources, site.name)
    else:
        weight = site.graph.weight(site.inner("weight"), (k, n), fan_in=k)
        site.graph.node("MatMul", [site.sources[0], weight], site.name)


def _attention(site: Site) -> None:
    graph, size = site.graph, site.size("head_dim")
    query = _heads(site, "query", site.sources[0], [0, 2, 1, 3])
    key = _heads(site, "key", site.sources[1], [0, 2, 3, 1])
    value = _heads(site, "value", site.sources[2], [0, 2, 1, 3])
    products = graph.node("MatMul", [query, key], site.inner("products"))
    scores = graph.node("Mul", [products, graph.constant(site.inner("scale"), size**-0.5)], site.inner("scores"))
    weights = graph.node("Softmax", [scores], site.inner("weights"), axis=-1)
    attended = graph.node("MatMul", [weights, value], site.inner("attended"))
    joined = graph.node("Transpose", [attended], site.inner("joined"), perm=[0, 2, 1, 3])
    graph.node("Reshape", [joined, graph.integers(site.inner("dims"), site.tensors.outputs[0])], site.name)


def _heads(site: Site, part: str, source: str, perm: list[int]) -> str:
    """batch x seq x (heads * head_dim) to batch x heads x seq x head_dim, or the last two the other way round."""
    batch, seq, _ = site.tensors.inputs[0]
    dims = site.graph.integers(site.inner(f"{part}/dims"), [batch, seq, site.size("heads"), site.size("head_dim")])
    split = site.graph.node("Reshape", [source, dims], site.inner(f"{part}/heads"))
    return site.graph.node("Transpose", [split], site.inner(part), perm=perm)


def _layernorm(site: Site) -> None:
    dim = site.size("dim")
    scale, bias = site.graph.scale(site.inner("weight"), dim), site.graph.bias(site.inner("bias"), dim)
    inputs = [site.sources[0], scale, bias]
    site.graph.node("LayerNormalization", inputs, site.name, axis=-1, epsilon=LAYERNORM_EPSILON)


def _gelu(site: Site) -> None:
    gelu(site.graph, site.name, site.sources[0])


def _softmax(site: Site) -> None:
    site.graph.node("Softmax", site.sources, site.name, axis=-1)


def _token_add(site: Site) -> None:
    site.graph.node("Add", site.sources, site.name)


def _pos_embed(site: Site) -> None:
    positions = site.graph.embedding(site.inner("weight"), (site.size("seq"), site.size("dim")))
    site.graph.node("Add", [site.sources[0], positions], site.name)


def _reduce_mean(site: Site) -> None:
    site.graph.node("ReduceMean", site.sources, site.name, axes=[1], keepdims=0)


def _patch_embed(site: Site) -> None:
    graph, cin, dim, k = site.graph, site.size("cin"), site.size("dim"), site.size("k")
    batch, seq, _ = site.tensors.outputs[0]
    weight = graph.weight(site.inner("weight"), (dim, cin, k, k), fan_in=cin * k * k)
    inputs = [site.sources[0], weight, graph.bias(site.inner("bias"), dim)]
    maps = graph.node("Conv", inputs, site.inner("maps"), kernel_shape=[k, k], strides=[k, k])
    flat = graph.node("Reshape", [maps, graph.integers(site.inner("dims"), [batch, dim, seq])], site.inner("flat"))
    graph.node("Transpose", [flat], site.name, perm=[0, 2, 1])


SEQUENCE_EMITTERS: Final[dict[str, Emitter]] = {
    "linear": _linear,
    "matmul": _matmul,
    "attention": _attention,
    "layernorm": _layernorm,
    "gelu": _gelu,
    "softmax": _softmax,
    "token-add": _token_add,
    "pos-embed": _pos_embed,
    "reduce-mean": _reduce_mean,
    "patch-embed": _patch_embed,
}
"""One writer per kernel type."""
