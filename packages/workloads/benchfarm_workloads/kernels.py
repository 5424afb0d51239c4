"""The kernel catalogue: every kernel type with its columns, ranges, rules and exact costs.

Windows are square and padded as ``costs.padding`` says. A change of a type's meaning needs a new
``CATALOGUE_VERSION``, because workloads are named by it; a new type or a wider range does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Cost, KernelWorkload
from benchfarm_workloads import costs
from benchfarm_workloads.columns import Column, Config, Rule, Scalar, Shape, integer

CATALOGUE_VERSION: Final = 1

MAX_KERNEL_BYTES: Final = 512 * 1024 * 1024
"""Inputs, outputs and weights together: a board with 1 GB of memory can still hold it."""

MAX_KERNEL_WEIGHT_BYTES: Final = 120 * 1024 * 1024
"""An agent builds the file itself and holds the weights four times for that: below 600 MiB in all."""

MAX_KERNEL_FLOPS: Final = 50_000_000_000
"""One run stays within seconds on a slow core."""

ACTIVATIONS: Final = ("relu", "relu6", "hswish", "sigmoid", "swish")


@dataclass(frozen=True, slots=True)
class KernelType:
    """One kernel type. ``columns`` keep their order everywhere: labels, CSV, features."""

    name: str
    summary: str
    shape: Shape
    cost_rule: costs.CostRule

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return self.shape.columns

    def validate(self, config: Mapping[str, object]) -> Config:
        """The canonical configuration: all columns in order, defaults filled in.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` with the column, its value and what is allowed.
        """
        canonical = self.shape.canonical(config)
        cost = self.cost_rule(canonical)
        if cost.total_bytes > MAX_KERNEL_BYTES:
            raise self._above("total_bytes", cost.total_bytes, MAX_KERNEL_BYTES)
        if cost.flops > MAX_KERNEL_FLOPS:
            raise self._above("flops", cost.flops, MAX_KERNEL_FLOPS)
        if cost.weight_bytes > MAX_KERNEL_WEIGHT_BYTES:
            raise self._above("weight_bytes", cost.weight_bytes, MAX_KERNEL_WEIGHT_BYTES)
        return canonical

    def cost(self, config: Mapping[str, object]) -> Cost:
        """FLOPs, parameters and bytes of a valid configuration, by the conventions of ``costs``."""
        return self.cost_rule(self.validate(config))

    def workload(self, config: Mapping[str, object]) -> KernelWorkload:
        """The canonical workload of a configuration."""
        return KernelWorkload(catalogue_version=CATALOGUE_VERSION, type=self.name, config=self.validate(config))

    def _above(self, quantity: str, value: int, limit: int) -> InvalidRequest:
        first = self.columns[0].name
        return self.shape.refusal(first, f"{quantity}={value} is above {limit}; take smaller sizes")


def kernel_types() -> tuple[KernelType, ...]:
    """All kernel types of this catalogue version, in catalogue order."""
    return tuple(_CATALOGUE.values())


def kernel_type(name: str) -> KernelType:
    """The kernel type of that name.

    Raises:
        InvalidRequest: ``kernel_unknown``.
    """
    if name not in _CATALOGUE:
        known = ", ".join(_CATALOGUE)
        raise InvalidRequest(f"no kernel type {name[:40]!r}; there are {known}", code="kernel_unknown", field="type")
    return _CATALOGUE[name]


def _channels(name: str, meaning: str, low: int = 1, high: int = 8192, default: int | None = None) -> Column:
    return Column(name, "channels", meaning, low=low, high=high, default=default)


def _act(choices: tuple[str, ...], default: str | None = None) -> Column:
    return Column("act", "", "activation", choices=choices, default=default)


def _window_fits(config: Mapping[str, Scalar]) -> bool:
    return integer(config, "k") <= 2 * integer(config, "hw") - 1


_HW = Column("hw", "pixels", "height and width of the input", low=1, high=512)
_CIN = _channels("cin", "input channels")
_K = Column("k", "pixels", "height and width of the window", choices=(1, 3, 5, 7, 9, 11))
_POOL_K = Column("k", "pixels", "height and width of the window", choices=(2, 3, 5, 7))
_S = Column("s", "pixels", "stride", low=1, high=4, default=1)
_BATCH = Column("batch", "images", "inputs in one run", low=1, high=64, default=1)
_ANY_ACT = _act(("none", *ACTIVATIONS), default="none")
_WINDOW = Rule("k", _window_fits, "k must be at most 2*hw-1; the rest of the window would never meet data")
_SQUEEZED = Rule("cmid", lambda c: integer(c, "cmid") <= integer(c, "cin"), "cmid must be at most cin")
_NO_GAP = Rule("cin4", lambda c: c["cin4"] == 0 or c["cin3"] != 0, "cin4 needs cin3; 0 means absent")


def _type(name: str, summary: str, cost: costs.CostRule, columns: tuple[Column, ...], *rules: Rule) -> KernelType:
    return KernelType(name, summary, Shape(f"kernel {name}", columns, rules, "kernel_out_of_range"), cost)


_CATALOGUE: Final[dict[str, KernelType]] = {
    kind.name: kind
    for kind in (
        _type(
            "conv-bn-act",
            "convolution with folded batch normalisation, then an activation",
            costs.conv_cost,
            (_HW, _CIN, _channels("cout", "output channels"), _K, _S, _ANY_ACT, _BATCH),
            _WINDOW,
        ),
        _type(
            "dwconv-bn-act",
            "depthwise convolution with folded batch normalisation, then an activation",
            costs.dwconv_cost,
            (_HW, _CIN, _K, _S, _ANY_ACT, _BATCH),
            _WINDOW,
        ),
        _type(
            "fc",
            "fully connected layer with bias, then an activation",
            costs.fc_cost,
            (
                _channels("cin", "input features", high=32768),
                _channels("cout", "output features", high=32768),
                _ANY_ACT,
                _BATCH,
            ),
        ),
        _type("maxpool", "maximum over a window", costs.maxpool_cost, (_HW, _CIN, _POOL_K, _S, _BATCH), _WINDOW),
        _type(
            "avgpool",
            "mean over a window, padding not counted",
            costs.avgpool_cost,
            (_HW, _CIN, _POOL_K, _S, _BATCH),
            _WINDOW,
        ),
        _type("global-avgpool", "mean over each whole map", costs.global_avgpool_cost, (_HW, _CIN, _BATCH)),
        _type(
            "add-act",
            "sum of two equal tensors, then an activation",
            costs.add_act_cost,
            (_HW, _CIN, _ANY_ACT, _BATCH),
        ),
        _type(
            "se",
            "squeeze and excitation: global pool, reduce (relu), expand (gate), scale",
            costs.se_cost,
            (
                _HW,
                _CIN,
                _channels("cmid", "channels between the two layers"),
                Column("gate", "", "activation of the scale", choices=("hsigmoid", "sigmoid"), default="hsigmoid"),
                _BATCH,
            ),
            _SQUEEZED,
        ),
        _type("act", "an activation on its own", costs.act_cost, (_HW, _CIN, _act(ACTIVATIONS), _BATCH)),
        _type(
            "concat",
            "two to four tensors joined along the channels",
            costs.concat_cost,
            (
                _HW,
                _channels("cin1", "channels of the first tensor"),
                _channels("cin2", "channels of the second tensor"),
                _channels("cin3", "channels of the third tensor, 0 = absent", low=0, default=0),
                _channels("cin4", "channels of the fourth tensor, 0 = absent", low=0, default=0),
                _BATCH,
            ),
            _NO_GAP,
        ),
    )
}
