"""Two operators in a row as a network, and each of them alone on what it is given in the pair.

Operators on images get 1 x cin x hw x hw, those on tokens as many numbers as 4 x (hw/2)^2 x cin, those on features as
64 x n: an engine's call costs some microseconds, and next to that what an operator takes must be long.
For the same reason convolutions have windows of one pixel: a long first operator would hide a short second one.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isqrt
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.operator_pairs import FIRST_LAYER, PAIR_MODEL, PAIR_PARTS, SECOND_LAYER
from benchfarm_workloads.columns import Column, Config, Rule, Scalar, integer, text
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.layers import INPUT, Layer, Network
from benchfarm_workloads.tensors import Dims

_ROWS: Final = 64
_SEQUENCES: Final = 4
_ACTS: Final = {"Relu": "relu", "Clip": "relu6", "HardSwish": "hswish", "Sigmoid": "sigmoid", "Swish": "swish"}
_SIDES: Final = {FIRST_LAYER: "r0", SECOND_LAYER: "r1"}
"""The other input of a layer that takes two."""

Kernel = tuple[str, Config]
KernelOn = Callable[[Dims], Kernel]
"""The catalogue's kernel of a family on a tensor of given dimensions."""


def _image(type_name: str, **columns: Scalar) -> KernelOn:
    def on(dims: Dims) -> Kernel:
        batch, cin, hw, _ = dims
        wider: Config = {name: cin if value == "cin" else value for name, value in columns.items()}
        return type_name, {"hw": hw, "cin": cin, "batch": batch, **wider}

    return on


def _concat(dims: Dims) -> Kernel:
    batch, cin, hw, _ = dims
    return "concat", {"hw": hw, "cin1": cin, "cin2": cin, "batch": batch}


def _squeeze_excite(dims: Dims) -> Kernel:
    return _image("se", cmid=max(1, dims[1] // 4))(dims)


def _tokens(type_name: str) -> KernelOn:
    return lambda dims: (type_name, {"batch": dims[0], "seq": dims[1], "dim": dims[2]})


def _linear(dims: Dims) -> Kernel:
    return "linear", {"batch": dims[0], "seq": dims[1], "cin": dims[2], "cout": dims[2]}


def _matmul(dims: Dims) -> Kernel:
    return "matmul", {"batch": dims[0], "m": dims[1], "k": dims[2], "n": dims[2]}


def _activation(act: str) -> KernelOn:
    """On anything: as many pixels as there are tokens, one for features."""

    def on(dims: Dims) -> Kernel:
        batch, channels = (dims[0], dims[2]) if len(dims) == 3 else dims[:2]
        hw = {2: 1, 3: isqrt(dims[1])}.get(len(dims), dims[-1])
        return "act", {"hw": hw, "cin": channels, "act": act, "batch": batch}

    return on


_ON_ANY: Final = {family: _activation(act) for family, act in _ACTS.items()}
_ON_IMAGES: Final[dict[str, KernelOn]] = {
    "Conv": _image("conv-bn-act", cout="cin", k=1),
    "DepthwiseConv": _image("dwconv-bn-act", k=3),
    "GroupConv": _image("group-conv", cout="cin", k=1, groups=2),
    "ConvTranspose": _image("deconv-bn-act", cout="cin", k=2, s=2),
    "Add": _image("add-act"),
    "Mul": _image("mul"),
    "Concat": _concat,
    "MaxPool": _image("maxpool", k=3),
    "AveragePool": _image("avgpool", k=3),
    "GlobalAveragePool": _image("global-avgpool"),
    "SqueezeExcite": _squeeze_excite,
    "ChannelShuffle": _image("channel-shuffle", groups=2),
    "Resize": _image("resize", scale=2),
}
_ON_TOKENS: Final[dict[str, KernelOn]] = {
    "Linear": _linear,
    "MatMul": _matmul,
    "Add": _tokens("token-add"),
    "Gelu": _tokens("gelu"),
    "LayerNormalization": _tokens("layernorm"),
    "Softmax": _tokens("softmax"),
    "ReduceMean": _tokens("reduce-mean"),
}
_ON: Final = {4: _ON_IMAGES | _ON_ANY, 3: _ON_TOKENS | _ON_ANY}
_FAMILIES: Final = (*dict.fromkeys([*_ON_IMAGES, *_ON_TOKENS, "Gemm", *_ON_ANY]),)


def operator_pair(config: Mapping[str, Scalar]) -> Network:
    """The pair's network, or that of one part. Raises InvalidRequest where the two do not go together."""
    network = _laid_out(config)
    if network is None:
        raise InvalidRequest(_RULE_TEXT, code="model_out_of_range", field="config.second")
    first, second = network.layers
    part = text(config, "part")
    if part == "both":
        return network
    shape = network.input_shape if part == "first" else network.shapes()[FIRST_LAYER]
    layer = first if part == "first" else replace(second, sources=(INPUT, *second.sources[1:]))
    sides = tuple(side for side in network.side_inputs if side[0] in layer.sources)
    return Network(PAIR_MODEL, shape, (layer,), sides)


def _laid_out(config: Mapping[str, Scalar]) -> Network | None:
    """On the first of images, tokens and features that both operators take."""
    hw, cin = integer(config, "hw"), integer(config, "cin")
    wide = hw * hw * cin // _ROWS
    sequences = (_SEQUENCES, (hw // 2) ** 2, cin)
    for shape in ((1, cin, hw, hw), sequences, (_ROWS, cin if config["first"] == "Gemm" else wide)):
        try:
            first = _layer(FIRST_LAYER, text(config, "first"), shape, INPUT, wide)
            made = _made(first, shape)
            second = _layer(SECOND_LAYER, text(config, "second"), made, FIRST_LAYER, cin)
        except (InvalidRequest, LookupError):
            continue
        dims = {FIRST_LAYER: shape, SECOND_LAYER: made}
        sides = [(layer.sources[1], dims[layer.name]) for layer in (first, second) if len(layer.sources) > 1]
        return Network(PAIR_MODEL, shape, (first, second), tuple(sides))
    return None


def _layer(name: str, family: str, dims: Dims, source: str, features: int) -> Layer:
    """A family's layer on a tensor; a fully connected one gives `features`. Raises InvalidRequest, LookupError."""
    if family == "Gemm":
        type_name, columns = _gemm(dims, features)
    else:
        type_name, columns = (_ON[len(dims)] if len(dims) > 2 else _ON_ANY)[family](dims)
    config = kernel_type(type_name).validate(columns)
    sources = (source, _SIDES[name])
    return Layer(name, type_name, config, sources[: len(kernel_type(type_name).tensor_rule(config).inputs)])


def _gemm(dims: Dims, features: int) -> Kernel:
    if dims[2:] not in ((), (1, 1)):
        raise LookupError("features or pooled images alone")
    return "fc", {"batch": dims[0], "cin": dims[1], "cout": features}


def _made(layer: Layer, shape: Dims) -> Dims:
    [made] = layer.tensors.outputs
    return shape if layer.type == "act" else made


_RULE_TEXT: Final = "the second operator cannot take what the first one gives, or not at these sizes"
PAIR_COLUMNS: Final = (
    Column("first", "", "family of the first operator", choices=_FAMILIES, default="Conv"),
    Column("second", "", "family of the second operator", choices=_FAMILIES, default="Relu"),
    Column("part", "", "one of the two alone, or both", choices=PAIR_PARTS, default="both"),
    Column("hw", "pixels", "height and width of the image; as many tokens as pixels", low=4, high=512, default=128),
    Column("cin", "channels", "channels of the image, size of a token", low=8, high=512, default=32),
    Column("seed", "", "seed of the weights", low=0, high=2**32 - 1, default=0),
)
PAIR_RULE: Final = Rule("second", lambda config: _laid_out(config) is not None, _RULE_TEXT)
