"""A model's kernels by the names of the catalogue: kernel type and configuration, or the reason why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.operators import ACTIVATION_FAMILIES, CONVOLUTIONS, FREE, GraphIndex, Operator
from benchfarm_workloads.tensors import Dims
from benchfarm_workloads.verdicts import GraphNode

_ACTS: Final = {family: act for act, family in ACTIVATION_FAMILIES.items()}
_WITH_ACT: Final = {
    **dict.fromkeys((*CONVOLUTIONS, "ConvTranspose", "Gemm", "Add"), frozenset(_ACTS.values()) - {"gelu"}),
    "Linear": frozenset({"relu", "gelu"}),
}
"""The activations that the catalogue's kernel of a family can end with."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a fused kernel that the catalogue knows, or does not.

    ``type`` is None for an unknown operator. ``config`` is None where sizes are unknown or outside the catalogue;
    ``reason`` says what is missing of the two. ``is_free``: it computes nothing.
    """

    type: str | None
    config: Config | None
    operators: tuple[Operator, ...]
    reason: str = ""
    is_free: bool = False


class _Unlike(Exception):
    """The catalogue has nothing like it; the text says why."""


def recognised(chain: Sequence[Operator], index: GraphIndex | None) -> tuple[Part, ...]:
    """The parts of one fused kernel, in order: each head with the activation that the catalogue has with it."""
    parts: list[Part] = []
    at = 0
    while at < len(chain):
        act = _ACTS.get(chain[at + 1].family) if at + 1 < len(chain) else None
        width = 2 if act is not None and act in _WITH_ACT.get(chain[at].family, ()) else 1
        parts.append(_part(tuple(chain[at : at + width]), act if width == 2 else None, index))
        at += width
    return tuple(parts)


def _part(operators: tuple[Operator, ...], act: str | None, index: GraphIndex | None) -> Part:
    head = operators[0]
    if head.family in FREE:
        return Part(None, None, operators, "it computes nothing", is_free=True)
    type_name: str | None = None
    try:
        if head.layer is not None:
            return Part(*_of_layer(operators, act), operators)
        assert index is not None  # only layers come without a graph
        type_name, config = _of_nodes(head, act, index)
        return Part(type_name, _checked(type_name, config, head, operators[-1], index), operators)
    except _Unlike as error:
        return Part(type_name, None, operators, str(error))
    except InvalidRequest as error:
        return Part(type_name, None, operators, error.detail)
    except (IndexError, ValueError):
        return Part(type_name, None, operators, "it has other inputs than the catalogue's kernel")


def _of_layer(operators: Sequence[Operator], act: str | None) -> tuple[str, Config]:
    """A layer with the activation that is fused to it, or its activation where that is apart."""
    head = operators[0]
    layer = head.layer
    assert layer is not None
    if head.inputs != layer.sources:
        return _activation(str(layer.config["act"]), layer.tensors.outputs[0])
    if layer.type == "act" or "act" not in layer.config:
        return layer.type, layer.config
    return layer.type, kernel_type(layer.type).validate({**layer.config, "act": act or "none"})


def _activation(act: str, dims: Dims) -> tuple[str, Config]:
    """An activation on its own."""
    if act == "gelu":
        batch, seq, dim = _rank(dims, 3)
        return "gelu", kernel_type("gelu").validate({"seq": seq, "dim": dim, "batch": batch})
    batch, channels, *_ = sizes = _rank((*dims, 1, 1) if len(dims) == 2 else dims, 4)
    config = {"hw": _square(sizes), "cin": channels, "act": act, "batch": batch}
    return "act", kernel_type("act").validate(config)


def _checked(type_name: str, config: Mapping[str, Scalar], head: Operator, last: Operator, index: GraphIndex) -> Config:
    """The canonical configuration, if its tensors are those of the graph."""
    kind = kernel_type(type_name)
    canonical = kind.validate(config)
    tensors = kind.tensor_rule(canonical)
    made = tuple(_dims(index, name) for name in last.outputs)
    if made != tensors.outputs:
        raise _Unlike(f"its output is {_text(made[0])}, that of the catalogue's kernel {_text(tensors.outputs[0])}")
    if _dims(index, head.inputs[0]) != tensors.inputs[0]:
        raise _Unlike(f"its input is {_text(_dims(index, head.inputs[0]))}, not {_text(tensors.inputs[0])}")
    return canonical


def _text(dims: Dims) -> str:
    return "x".join(map(str, dims)) or "a number"


def _dims(index: GraphIndex, value: str) -> Dims:
    shape = index.shape(value)
    if shape is None:
        raise _Unlike("the size of a tensor is not known")
    return shape


def _rank(dims: Dims, rank: int) -> Dims:
    if len(dims) != rank:
        raise _Unlike(f"a tensor of {len(dims)} dimensions, the catalogue's has {rank}")
    return dims


def _square(dims: Dims) -> int:
    if dims[2] != dims[3]:
        raise _Unlike(f"images of {dims[2]} x {dims[3]} pixels, the catalogue's are square")
    return dims[2]


def _of_nodes(head: Operator, act: str | None, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.family in _ACTS:
        return _activation(_ACTS[head.family], _dims(index, head.outputs[0]))
    rule = _RULES.get(head.family)
    if rule is None:
        raise _Unlike(f"the catalogue has no kernel type for {head.family}")
    if not head.inputs:
        raise _Unlike("it reads stored numbers alone")
    type_name, config = rule(head, index)
    return type_name, config | ({"act": act} if act is not None else {})


def _image(head: Operator, index: GraphIndex) -> dict[str, Scalar]:
    dims = _rank(_dims(index, head.inputs[0]), 4)
    return {"hw": _square(dims), "cin": dims[1], "batch": dims[0]}


def _tokens(head: Operator, index: GraphIndex) -> dict[str, Scalar]:
    batch, seq, dim = _rank(_dims(index, head.inputs[0]), 3)
    return {"seq": seq, "dim": dim, "batch": batch}


def _attribute_pair(node: GraphNode, name: str, default: int) -> int:
    """One number of an attribute that is the same for height and width."""
    found = node.attributes.get(name, default)
    values = found if isinstance(found, tuple) else (found,)
    if len(set(values)) != 1 or not isinstance(values[0], int):
        raise _Unlike(f"{name} differs between height and width")
    return values[0]


def _window(node: GraphNode, k: int | None = None) -> dict[str, Scalar]:
    if _attribute_pair(node, "dilations", 1) != 1:
        raise _Unlike("a dilated window")
    size = _attribute_pair(node, "kernel_shape", 0) if k is None else k
    return {"k": size, "s": _attribute_pair(node, "strides", 1)}


def _conv(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    node = head.nodes[0]
    weight = _rank(_dims(index, node.inputs[1]), 4)
    config = _image(head, index) | _window(node, _square(weight))
    if head.family == "DepthwiseConv" and weight[0] == config["cin"]:
        return "dwconv-bn-act", config
    if head.family == "ConvTranspose":
        return "deconv-bn-act", config | {"cout": weight[1]}
    if head.family == "Conv":
        return "conv-bn-act", config | {"cout": weight[0]}
    return "group-conv", config | {"cout": weight[0], "groups": _attribute_pair(node, "group", 1)}


def _gemm(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    batch, cin = _rank(_dims(index, head.inputs[0]), 2)
    return "fc", {"cin": cin, "cout": _dims(index, head.outputs[0])[-1], "batch": batch}


def _linear(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if len(_dims(index, head.inputs[0])) == 2:
        return _gemm(head, index)
    tokens = _tokens(head, index)
    cout = _dims(index, head.outputs[0])[-1]
    return "linear", {"seq": tokens["seq"], "cin": tokens["dim"], "cout": cout, "batch": tokens["batch"]}


def _matmul(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    left, right = (_dims(index, name) for name in head.nodes[0].inputs)
    batch, m, k = _rank(left, 3)
    form = "weight" if index.is_weight(head.nodes[0].inputs[1]) else "input"
    return "matmul", {"m": m, "k": k, "n": right[-1], "form": form, "batch": batch}


def _add(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    dims = {_dims(index, name) for name in head.inputs}
    if len(dims) > 1:
        raise _Unlike("a sum of tensors of different sizes")
    [only] = dims
    if len(head.inputs) == 1:
        weights = [_dims(index, name) for name in head.nodes[0].inputs if name not in head.inputs]
        if len(only) != 3 or not weights or weights[0][-2:] != only[-2:]:
            raise _Unlike("a sum with a stored tensor that is no vector for each position")
        return "pos-embed", _tokens(head, index)
    return ("add-act", _image(head, index)) if len(only) != 3 else ("token-add", _tokens(head, index))


def _mul(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    sizes = sorted((_rank(_dims(index, name), 4) for name in head.nodes[0].inputs), reverse=True)
    config = _image(head, index) | {"cin": sizes[0][1], "hw": _square(sizes[0])}
    return "mul", config | {"form": "image" if sizes[0] == sizes[1] else "channel"}


def _concat(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    sizes = [_rank(_dims(index, name), 4) for name in head.nodes[0].inputs]
    if head.nodes[0].attributes.get("axis") not in (1, -3) or len(sizes) > 4:
        raise _Unlike("it joins more than four tensors, or not their channels")
    channels: dict[str, Scalar] = {f"cin{number}": dims[1] for number, dims in enumerate(sizes, start=1)}
    return "concat", {"hw": _square(sizes[0]), "batch": sizes[0][0], **channels}


def _split(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.nodes[0].attributes.get("axis", 0) not in (1, -3):
        raise _Unlike("it does not cut the channels")
    return "split", _image(head, index) | {"parts": len(head.outputs)}


def _resize(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    config = _image(head, index)
    out = _square(_rank(_dims(index, head.outputs[0]), 4))
    modes = {"nearest": "nearest", "linear": "bilinear"}
    mode = modes.get(str(head.nodes[0].attributes.get("mode", "nearest")))
    hw = int(config["hw"])
    if mode is None or hw == 0 or out % hw:
        raise _Unlike("it is no whole number of times as large, or interpolates otherwise")
    return "resize", config | {"scale": out // hw, "mode": mode}


def _shuffle(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    return "channel-shuffle", _image(head, index) | {"groups": _dims(index, head.nodes[0].outputs[0])[1]}


def _squeeze_excite(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    gate = "hsigmoid" if "HardSigmoid" in head.ops else "sigmoid"
    return "se", _image(head, index) | {"cmid": _dims(index, head.nodes[1].outputs[0])[1], "gate": gate}


def _attention(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    batch, seq, _ = _rank(_dims(index, head.inputs[0]), 3)
    split = next(node for node in head.nodes if node.op == "Reshape")
    *_, heads, head_dim = _rank(_dims(index, split.outputs[0]), 4)
    return "attention", {"seq": seq, "heads": heads, "head_dim": head_dim, "batch": batch}


def _layernorm(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.nodes[0].attributes.get("axis", -1) not in (-1, 2):
        raise _Unlike("it normalises more than one axis")
    return "layernorm", _tokens(head, index)


def _softmax(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.nodes[0].attributes.get("axis", -1) not in (-1, 2):
        raise _Unlike("it runs over another axis than the last one")
    return "softmax", _tokens(head, index)


def _reduce_mean(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.nodes[0].attributes.get("axes") not in ((1,), (-2,)):
        raise _Unlike("it takes the mean over other axes than the tokens")
    return "reduce-mean", _tokens(head, index)


def _patch_embed(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    dim, *_, k = _rank(_dims(index, head.nodes[0].inputs[1]), 4)
    return "patch-embed", _image(head, index) | {"dim": dim, "k": k}


def _pool(type_name: str) -> "_Rule":
    return lambda head, index: (type_name, _image(head, index) | _window(head.nodes[0]))


_Rule = Callable[[Operator, GraphIndex], tuple[str, dict[str, Scalar]]]
_RULES: Final[Mapping[str, _Rule]] = {
    **dict.fromkeys((*CONVOLUTIONS, "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "Linear": _linear,
    "MatMul": _matmul,
    "Add": _add,
    "Mul": _mul,
    "Concat": _concat,
    "Split": _split,
    "Resize": _resize,
    "MaxPool": _pool("maxpool"),
    "AveragePool": _pool("avgpool"),
    "GlobalAveragePool": lambda head, index: ("global-avgpool", _image(head, index)),
    "SqueezeExcite": _squeeze_excite,
    "ChannelShuffle": _shuffle,
    "Attention": _attention,
    "LayerNormalization": _layernorm,
    "Softmax": _softmax,
    "ReduceMean": _reduce_mean,
    "PatchEmbed": _patch_embed,
}
