"""A model's kernels by the names of the catalogue: kernel type and configuration, or the reason why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.operators import (
    ACTIVATION_FAMILIES,
    CONVOLUTIONS,
    FREE,
    GraphIndex,
    Operator,
    is_hard_sigmoid,
)
from benchfarm_workloads.tensors import Dims
from benchfarm_workloads.verdicts import GraphNode
from benchfarm_workloads.windows import why_other_window

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


class _Other(_Unlike):
    """It has the sizes of a kernel of the catalogue, and computes something else."""


def recognised(chain: Sequence[Operator], index: GraphIndex | None) -> tuple[Part, ...]:
    """The parts of one fused kernel, in order: each head with the activation that the catalogue has with it."""
    parts: list[Part] = []
    at = 0
    while at < len(chain):
        act = _act_of(chain[at + 1], index) if at + 1 < len(chain) else None
        width = 2 if act is not None and act in _WITH_ACT.get(chain[at].family, ()) else 1
        part = _part(tuple(chain[at : at + width]), act if width == 2 else None, index)
        if width == 2 and part.config is None:  # a kernel type without activations, and one on its own behind it
            alone = _part((chain[at],), None, index)
            part = part if alone.config is None else alone
        parts.append(part)
        at += len(part.operators)
    return tuple(parts)


def _act_of(operator: Operator, index: GraphIndex | None) -> str | None:
    """The catalogue's name of an activation; of other limits and forms it has none."""
    act = _ACTS.get(operator.family)
    if act is None or operator.layer is not None or index is None:
        return act
    node = operator.nodes[-1]
    if act == "relu6":
        return act if _limits(node, index) == (0, 6) else None
    is_exact = node.attributes.get("approximate", "none") == "none"  # of a Gelu
    return act if is_exact and node.attributes.get("alpha", 1) == 1 else None  # of a Swish


def _limits(node: GraphNode, index: GraphIndex) -> tuple[object, object]:
    """Those of a Clip: inputs, in old files attributes; None where they are not stored in the model."""
    given = dict(zip(("min", "max"), node.inputs[1:], strict=False))
    low, high = (index.number(given[key]) if key in given else node.attributes.get(key) for key in ("min", "max"))
    return low, high


def _part(operators: tuple[Operator, ...], act: str | None, index: GraphIndex | None) -> Part:
    head = operators[0]
    if head.family in FREE and not _draws(head, index):
        return Part(None, None, operators, "it computes nothing", is_free=True)
    type_name: str | None = None
    try:
        if head.layer is not None:
            return Part(*_of_layer(operators, act), operators)
        assert index is not None  # only layers come without a graph
        type_name, config = _of_nodes(head, act, index)
        return Part(type_name, _checked(type_name, config, head, operators[-1], index), operators)
    except _Other as error:
        return Part(None, None, operators, str(error))
    except _Unlike as error:
        return Part(type_name, None, operators, str(error))
    except InvalidRequest as error:
        return Part(type_name, None, operators, error.detail)
    except (IndexError, ValueError):
        return Part(type_name, None, operators, "it has other inputs than the catalogue's kernel")


def _draws(head: Operator, index: GraphIndex | None) -> bool:
    """Whether a Dropout may be one of training, which leaves numbers out."""
    told = [name for node in head.nodes if node.op == "Dropout" for name in node.inputs[2:3] if name]
    return index is not None and any(index.number(name) != 0 for name in told)


def _of_layer(operators: Sequence[Operator], act: str | None) -> tuple[str, Config]:
    """A layer with the activation that is fused to it, or its activation where that is apart."""
    head = operators[0]
    layer = head.layer
    assert layer is not None
    if head.inputs != layer.sources:
        return _activation(str(layer.config["act"]), layer.tensors.outputs[0])
    if act is not None and "act" not in layer.config:
        raise _Unlike("the catalogue's kernel ends with no activation")
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
    why = why_other_window(type_name, canonical, head.nodes[0])
    if why is not None:
        raise _Other(why)
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
    act_alone, rule = _act_of(head, index), _RULES.get(head.family)
    if act_alone is None and rule is None:
        other = " with these limits, or in this form" if head.family in _ACTS else ""
        raise _Unlike(f"the catalogue has no kernel type for {head.family}{other}")
    if not head.inputs:
        raise _Unlike("it reads stored numbers alone")
    for name in (head.inputs[0], *head.outputs):
        if index.dtype(name) not in (None, "float32"):
            raise _Unlike(f"its numbers are {index.dtype(name)}, those of the catalogue's kernels float32")
    if act_alone is not None or rule is None:
        return _activation(str(act_alone), _dims(index, head.outputs[0]))
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


def _own(node: GraphNode, index: GraphIndex, *places: int) -> None:
    """Holds a layer's weight and bias to being its own: engines prepare those before a run."""
    for place in places:
        name = node.inputs[place] if place < len(node.inputs) else ""
        if name and not index.is_own(name):
            raise _Unlike("its weight or bias is an input or computed, those of the catalogue's kernel are stored")


def _conv(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    node = head.nodes[0]
    _own(node, index, 1, 2)
    weight = _rank(_dims(index, node.inputs[1]), 4)
    config = _image(head, index) | _window(node, _square(weight))
    if head.family == "DepthwiseConv" and weight[0] == config["cin"]:
        return "dwconv-bn-act", config
    if head.family == "ConvTranspose":
        if node.attributes.get("group", 1) != 1 or "output_shape" in node.attributes:
            raise _Unlike("a transposed convolution in groups, or to a size of its own")
        return "deconv-bn-act", config | {"cout": weight[1]}
    if head.family == "Conv":
        return "conv-bn-act", config | {"cout": weight[0]}
    return "group-conv", config | {"cout": weight[0], "groups": _attribute_pair(node, "group", 1)}


def _gemm(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    node = head.nodes[0]
    _own(node, index, 1, 2)
    factors = [node.attributes.get(name, plain) == plain for name, plain in (("transA", 0), ("alpha", 1), ("beta", 1))]
    if node.inputs[0] not in head.inputs or not all(factors):
        raise _Unlike("a product with factors, or of a matrix that is turned or stored")
    config = _dense(head, index)
    if any(name and _dims(index, name) not in ((config["cout"],), (1, config["cout"])) for name in node.inputs[2:]):
        raise _Unlike("its bias is no number for each feature")
    return "fc", config


def _dense(head: Operator, index: GraphIndex) -> dict[str, Scalar]:
    batch, cin = _rank(_dims(index, head.inputs[0]), 2)
    return {"cin": cin, "cout": _dims(index, head.outputs[0])[-1], "batch": batch}


def _linear(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    product, added = head.nodes
    cout = _rank(_dims(index, product.inputs[1]), 2)[-1]
    if not any(index.is_weight(name) and _dims(index, name) == (cout,) for name in added.inputs):
        raise _Unlike("its bias is no number for each feature")
    if len(_dims(index, head.inputs[0])) == 2:
        return "fc", _dense(head, index)
    tokens = _tokens(head, index)
    return "linear", {"seq": tokens["seq"], "cin": tokens["dim"], "cout": cout, "batch": tokens["batch"]}


def _matmul(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    first, second = head.nodes[0].inputs
    if first not in head.inputs:
        raise _Unlike("its left factor is stored")
    (batch, m, k), right = _rank(_dims(index, first), 3), _dims(index, second)
    form = "weight" if index.is_own(second) else "input"
    if right[:-1] != ((k,) if form == "weight" else (batch, k)):
        raise _Unlike(f"its right factor is {_text(right)}")
    return "matmul", {"m": m, "k": k, "n": right[-1], "form": form, "batch": batch}


def _add(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    dims = {_dims(index, name) for name in head.inputs}
    if len(dims) > 1:
        raise _Unlike("a sum of tensors of different sizes")
    [only] = dims
    if len(head.inputs) == 1:
        weights = [_dims(index, name) for name in head.nodes[0].inputs if name not in head.inputs]
        if len(only) != 3 or not weights or weights[0] not in (only[1:], (1, *only[1:])):
            raise _Unlike("a sum with a stored tensor that is no vector for each position")
        return "pos-embed", _tokens(head, index)
    return ("add-act", _image(head, index)) if len(only) != 3 else ("token-add", _tokens(head, index))


def _mul(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if len(head.inputs) != 2:
        raise _Unlike("a product with a stored tensor, or a square")
    larger, other = sorted((_rank(_dims(index, name), 4) for name in head.inputs), reverse=True)
    forms = {(*larger[:2], 1, 1): "channel", larger: "image"}
    if other not in forms:
        raise _Unlike(
            f"its factors are {_text(larger)} and {_text(other)}: neither two images nor one for each channel"
        )
    return "mul", _image(head, index) | {"cin": larger[1], "hw": _square(larger), "form": forms[other]}


def _concat(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    sizes = [_rank(_dims(index, name), 4) for name in head.nodes[0].inputs]
    if head.nodes[0].attributes.get("axis") not in (1, -3) or len(sizes) > 4:
        raise _Unlike("it joins more than four tensors, or not their channels")
    if len(head.inputs) != len(sizes):
        raise _Unlike("it joins a stored tensor, or one with itself")
    channels: dict[str, Scalar] = {f"cin{number}": dims[1] for number, dims in enumerate(sizes, start=1)}
    return "concat", {"hw": _square(sizes[0]), "batch": sizes[0][0], **channels}


def _split(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.nodes[0].attributes.get("axis", 0) not in (1, -3):
        raise _Unlike("it does not cut the channels")
    return "split", _image(head, index) | {"parts": len(head.outputs)}


def _resize(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    config = _image(head, index)
    out = _square(_rank(_dims(index, head.outputs[0]), 4))
    mode = _resize_mode(head.nodes[0])
    hw = int(config["hw"])
    if mode is None or hw == 0 or out % hw:
        raise _Unlike("it is no whole number of times as large, or interpolates otherwise")
    return "resize", config | {"scale": out // hw, "mode": mode}


_OLD_RESIZE_INPUTS: Final = 2
"""Before opset 11 a Resize had no coordinates to choose from, and no place for a region."""


def _resize_mode(node: GraphNode) -> str | None:
    """The catalogue's name of what lies between pixels; None for other coordinates or roundings than its own.

    Half-pixel centres in the manner of PyTorch differ for outputs of one pixel alone.
    """
    is_old = len(node.inputs) == _OLD_RESIZE_INPUTS
    before = ("asymmetric", "floor") if is_old else ("half_pixel", "round_prefer_floor")
    coordinates = node.attributes.get("coordinate_transformation_mode", before[0])
    mode, rounding = node.attributes.get("mode", "nearest"), node.attributes.get("nearest_mode", before[1])
    if node.attributes.get("antialias", 0) != 0:
        return None
    if mode == "nearest":
        return "nearest" if (coordinates, rounding) == ("asymmetric", "floor") else None
    return "bilinear" if mode == "linear" and coordinates in ("half_pixel", "pytorch_half_pixel") else None


def _shuffle(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    config, grouped = _image(head, index), _rank(_dims(index, head.nodes[0].outputs[0]), 5)
    batch, channels, *image = _dims(index, head.inputs[0])
    groups = grouped[1]
    if grouped != (batch, groups, channels // max(1, groups), *image):
        raise _Unlike(f"it deals out {_text(grouped)}")
    return "channel-shuffle", config | {"groups": groups}


def _squeeze_excite(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    _, reduced, _, expanded, gating, _ = head.nodes
    for node in (reduced, expanded):
        _own(node, index, 1, 2)
        if _rank(_dims(index, node.inputs[1]), 4)[2:] != (1, 1) or node.attributes.get("group", 1) != 1:
            raise _Unlike("its layers are no products of all channels")
    if gating.op == "HardSigmoid" and not is_hard_sigmoid(gating):
        raise _Unlike("a HardSigmoid of another slope")
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
    _own(head.nodes[0], index, 1, 2)
    return "layernorm", _tokens(head, index)


def _softmax(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    if head.nodes[0].attributes.get("axis", -1) not in (-1, 2):
        raise _Unlike("it runs over another axis than the last one")
    return "softmax", _tokens(head, index)


def _reduce_mean(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    node = head.nodes[0]
    axes = index.numbers(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get("axes")
    if axes not in ((1,), (-2,)):
        raise _Unlike("it takes the mean over other axes than the tokens")
    return "reduce-mean", _tokens(head, index)


def _patch_embed(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
    node = head.nodes[0]
    _own(node, index, 1, 2)
    weight = _rank(_dims(index, node.inputs[1]), 4)
    dim, k = weight[0], _square(weight)
    if _window(node, k)["s"] != k:
        raise _Unlike("its patches overlap, or leave pixels out")
    return "patch-embed", _image(head, index) | {"dim": dim, "k": k}


def _pool(type_name: str) -> "_Rule":
    def rule(head: Operator, index: GraphIndex) -> tuple[str, dict[str, Scalar]]:
        if any(head.outputs[1:]):
            raise _Unlike("it tells where each maximum lies, too")
        return type_name, _image(head, index) | _window(head.nodes[0])

    return rule


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
