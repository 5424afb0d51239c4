"""The kernel types on images, batch x channels x hw x hw. Windows are square and padded as ``tensors.padding`` says."""

from collections.abc import Mapping
from typing import Final

from benchfarm_workloads import costs, tensors
from benchfarm_workloads.columns import Column, Rule, Scalar, Shape, integer
from benchfarm_workloads.kernel_types import KernelType

ACTIVATIONS: Final = ("relu", "relu6", "hswish", "sigmoid", "swish")


def _channels(name: str, meaning: str, low: int = 1, high: int = 8192, default: int | None = None) -> Column:
    return Column(name, "channels", meaning, low=low, high=high, default=default)


def _act(choices: tuple[str, ...], default: str | None = None) -> Column:
    return Column("act", "", "activation", choices=choices, default=default)


def _window_fits(config: Mapping[str, Scalar]) -> bool:
    return integer(config, "k") <= 2 * integer(config, "hw") - 1


def _divides(part: str, whole: str, *, least: int = 1) -> Rule:
    """``whole`` must be a multiple of ``part``, at least ``least`` times as large."""
    bound = f" and at most {whole}/{least}" if least > 1 else ""
    return Rule(
        part,
        lambda c: integer(c, whole) % integer(c, part) == 0 and integer(c, whole) >= least * integer(c, part),
        f"{part} must divide {whole}{bound}",
    )


_HW = Column("hw", "pixels", "height and width of the input", low=1, high=512)
_CIN = _channels("cin", "input channels")
_COUT = _channels("cout", "output channels")
_K = Column("k", "pixels", "height and width of the window", choices=(1, 3, 5, 7, 9, 11))
_POOL_K = Column("k", "pixels", "height and width of the window", choices=(2, 3, 5, 7))
_DECONV_K = Column("k", "pixels", "height and width of the window", choices=(1, 2, 3, 4, 5, 6, 7, 8))
_S = Column("s", "pixels", "stride", low=1, high=4, default=1)
_UP = Column("s", "", "how many times longer each side becomes", low=1, high=4, default=2)
_BATCH = Column("batch", "images", "inputs in one run", low=1, high=64, default=1)
_ANY_ACT = _act(("none", *ACTIVATIONS), default="none")
_WINDOW = Rule("k", _window_fits, "k must be at most 2*hw-1; the rest of the window would never meet data")
_SQUEEZED = Rule("cmid", lambda c: integer(c, "cmid") <= integer(c, "cin"), "cmid must be at most cin")
_NO_GAP = Rule("cin4", lambda c: c["cin4"] == 0 or c["cin3"] != 0, "cin4 needs cin3; 0 means absent")
_EVEN_RIM = Rule(
    "k",
    lambda c: integer(c, "k") >= integer(c, "s") and (integer(c, "k") - integer(c, "s")) % 2 == 0,
    "k must be s, s+2, s+4, ...: the same rim is then cut off on every side, and each side becomes s times as long",
)


def _type(
    name: str,
    summary: str,
    tensor_rule: tensors.TensorRule,
    work_rule: costs.WorkRule,
    columns: tuple[Column, ...],
    *rules: Rule,
) -> KernelType:
    shape = Shape(f"kernel {name}", (*columns, _BATCH), rules, "kernel_out_of_range")
    return KernelType(name, summary, shape, tensor_rule, work_rule)


IMAGE_KERNELS: Final = (
    _type(
        "conv-bn-act",
        "convolution with folded batch normalisation, then an activation",
        tensors.conv,
        costs.conv,
        (_HW, _CIN, _COUT, _K, _S, _ANY_ACT),
        _WINDOW,
    ),
    _type(
        "dwconv-bn-act",
        "depthwise convolution with folded batch normalisation, then an activation",
        tensors.same_channels,
        costs.dwconv,
        (_HW, _CIN, _K, _S, _ANY_ACT),
        _WINDOW,
    ),
    _type(
        "fc",
        "fully connected layer with bias, then an activation",
        tensors.fc,
        costs.fc,
        (
            _channels("cin", "input features", high=32768),
            _channels("cout", "output features", high=32768),
            _ANY_ACT,
        ),
    ),
    _type("maxpool", "maximum over a window", tensors.same_channels, costs.maxpool, (_HW, _CIN, _POOL_K, _S), _WINDOW),
    _type(
        "avgpool",
        "mean over a window, padding not counted",
        tensors.same_channels,
        costs.avgpool,
        (_HW, _CIN, _POOL_K, _S),
        _WINDOW,
    ),
    _type("global-avgpool", "mean over each whole map", tensors.global_pool, costs.mean, (_HW, _CIN)),
    _type(
        "add-act",
        "sum of two equal tensors, then an activation",
        tensors.two_images,
        costs.add_act,
        (_HW, _CIN, _ANY_ACT),
    ),
    _type(
        "se",
        "squeeze and excitation: global pool, reduce (relu), expand (gate), scale",
        tensors.image,
        costs.se,
        (
            _HW,
            _CIN,
            _channels("cmid", "channels between the two layers"),
            Column("gate", "", "activation of the scale", choices=("hsigmoid", "sigmoid"), default="hsigmoid"),
        ),
        _SQUEEZED,
    ),
    _type("act", "an activation on its own", tensors.image, costs.act, (_HW, _CIN, _act(ACTIVATIONS))),
    _type(
        "concat",
        "two to four tensors joined along the channels",
        tensors.concat,
        costs.movement,
        (
            _HW,
            _channels("cin1", "channels of the first tensor"),
            _channels("cin2", "channels of the second tensor"),
            _channels("cin3", "channels of the third tensor, 0 = absent", low=0, default=0),
            _channels("cin4", "channels of the fourth tensor, 0 = absent", low=0, default=0),
        ),
        _NO_GAP,
    ),
    _type(
        "group-conv",
        "convolution in groups with folded batch normalisation, then an activation",
        tensors.conv,
        costs.group_conv,
        (_HW, _CIN, _COUT, _K, _S, Column("groups", "", "groups of channels", low=2, high=1024), _ANY_ACT),
        _WINDOW,
        _divides("groups", "cin", least=2),
        _divides("groups", "cout"),
    ),
    _type(
        "deconv-bn-act",
        "transposed convolution with folded batch normalisation, then an activation",
        tensors.deconv,
        costs.deconv,
        (_HW, _CIN, _COUT, _DECONV_K, _UP, _ANY_ACT),
        _EVEN_RIM,
    ),
    _type(
        "mul",
        "product of an image with another, or with one number for each channel",
        tensors.mul,
        costs.elementwise,
        (_HW, _CIN, Column("form", "", "what it is multiplied with", choices=("image", "channel"), default="image")),
    ),
    _type(
        "split",
        "one tensor cut into equal parts along the channels",
        tensors.split,
        costs.movement,
        (_HW, _CIN, Column("parts", "", "number of outputs", low=2, high=4)),
        _divides("parts", "cin"),
    ),
    _type(
        "channel-shuffle",
        "channels dealt out anew: of each group the first, of each the second, ...",
        tensors.image,
        costs.movement,
        (_HW, _CIN, Column("groups", "", "groups of channels", low=2, high=64)),
        _divides("groups", "cin", least=2),
    ),
    _type(
        "resize",
        "image made larger, half-pixel centres where it is interpolated",
        tensors.resize,
        costs.resize,
        (
            _HW,
            _CIN,
            Column("scale", "", "how many times longer each side becomes", low=2, high=4, default=2),
            Column("mode", "", "what lies between pixels", choices=("nearest", "bilinear"), default="nearest"),
        ),
    ),
)
