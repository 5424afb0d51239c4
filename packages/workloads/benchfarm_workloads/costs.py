"""Exact arithmetic and traffic of each kernel type.

Conventions, the same for every type:

- Tensors are float32, 4 bytes an element, batch included.
- A multiplication, an addition, a comparison, a division and an exponential each count as one FLOP.
- A dot product of n terms with its bias is 2n FLOPs: n products, n - 1 sums, one bias.
- Batch normalisation is folded into weights and bias, so it costs nothing of its own.
- A window that reaches into the padding counts as a full one.
- Parameters are weights and biases after folding.
- Input, output and weights are each counted once, however often an engine reads them.
"""

from collections.abc import Callable, Mapping
from typing import Final

from benchfarm_core.workloads import Cost
from benchfarm_workloads.columns import Scalar, integer, text

BYTES_PER_ELEMENT: Final = 4

ACTIVATION_FLOPS: Final[dict[str, int]] = {
    "none": 0,
    "relu": 1,  # one comparison
    "relu6": 2,  # two comparisons
    "hsigmoid": 4,  # multiply, add, two comparisons
    "hswish": 5,  # hsigmoid and one product
    "sigmoid": 4,  # negate, exponential, add, divide
    "swish": 5,  # sigmoid and one product
}
"""FLOPs per element of each activation."""

CostRule = Callable[[Mapping[str, Scalar]], Cost]


def padding(k: int) -> int:
    """Zeros on every side of a window of ``k`` pixels: "same" for odd k, none for k = 2."""
    return (k - 1) // 2


def output_hw(hw: int, k: int, s: int) -> int:
    """Height and width after a window of ``k`` pixels with stride ``s`` and its padding."""
    return (hw + 2 * padding(k) - k) // s + 1


def conv_cost(config: Mapping[str, Scalar]) -> Cost:
    """A convolution with folded normalisation, then an activation."""
    hw, cin, cout = integer(config, "hw"), integer(config, "cin"), integer(config, "cout")
    k, batch = integer(config, "k"), integer(config, "batch")
    outputs = batch * cout * output_hw(hw, k, integer(config, "s")) ** 2
    flops = outputs * (2 * k * k * cin + _act_flops(config))
    return _cost(flops, cout * cin * k * k + cout, batch * cin * hw * hw, outputs)


def dwconv_cost(config: Mapping[str, Scalar]) -> Cost:
    """A depthwise convolution with folded normalisation, then an activation."""
    hw, cin = integer(config, "hw"), integer(config, "cin")
    k, batch = integer(config, "k"), integer(config, "batch")
    outputs = batch * cin * output_hw(hw, k, integer(config, "s")) ** 2
    flops = outputs * (2 * k * k + _act_flops(config))
    return _cost(flops, cin * k * k + cin, batch * cin * hw * hw, outputs)


def fc_cost(config: Mapping[str, Scalar]) -> Cost:
    """A fully connected layer with bias, then an activation."""
    cin, cout, batch = integer(config, "cin"), integer(config, "cout"), integer(config, "batch")
    flops = batch * cout * (2 * cin + _act_flops(config))
    return _cost(flops, cout * cin + cout, batch * cin, batch * cout)


def maxpool_cost(config: Mapping[str, Scalar]) -> Cost:
    """k x k - 1 comparisons per output."""
    return _pool_cost(config, integer(config, "k") ** 2 - 1)


def avgpool_cost(config: Mapping[str, Scalar]) -> Cost:
    """k x k - 1 sums and one division per output."""
    return _pool_cost(config, integer(config, "k") ** 2)


def global_avgpool_cost(config: Mapping[str, Scalar]) -> Cost:
    """hw x hw - 1 sums and one division per channel."""
    maps = integer(config, "batch") * integer(config, "cin")
    area = integer(config, "hw") ** 2
    return _cost(maps * area, 0, maps * area, maps)


def add_act_cost(config: Mapping[str, Scalar]) -> Cost:
    """The sum of two tensors, then an activation."""
    elements = _elements(config, "cin")
    return _cost(elements * (1 + _act_flops(config)), 0, 2 * elements, elements)


def se_cost(config: Mapping[str, Scalar]) -> Cost:
    """Squeeze and excitation: global pool, reduce with ReLU, expand with gate, scale."""
    cin, cmid, batch = integer(config, "cin"), integer(config, "cmid"), integer(config, "batch")
    elements = _elements(config, "cin")
    reduce_flops = cmid * (2 * cin + ACTIVATION_FLOPS["relu"])
    expand_flops = cin * (2 * cmid + ACTIVATION_FLOPS[text(config, "gate")])
    flops = 2 * elements + batch * (reduce_flops + expand_flops)
    return _cost(flops, 2 * cin * cmid + cmid + cin, elements, elements)


def act_cost(config: Mapping[str, Scalar]) -> Cost:
    """An activation on its own."""
    elements = _elements(config, "cin")
    return _cost(elements * _act_flops(config), 0, elements, elements)


def concat_cost(config: Mapping[str, Scalar]) -> Cost:
    """Two to four tensors joined along the channels: traffic only, no FLOPs."""
    elements = sum(_elements(config, column) for column in ("cin1", "cin2", "cin3", "cin4"))
    return _cost(0, 0, elements, elements)


def _pool_cost(config: Mapping[str, Scalar], flops_per_output: int) -> Cost:
    hw = integer(config, "hw")
    maps = integer(config, "batch") * integer(config, "cin")
    outputs = maps * output_hw(hw, integer(config, "k"), integer(config, "s")) ** 2
    return _cost(outputs * flops_per_output, 0, maps * hw * hw, outputs)


def _elements(config: Mapping[str, Scalar], channels: str) -> int:
    return integer(config, "batch") * integer(config, channels) * integer(config, "hw") ** 2


def _act_flops(config: Mapping[str, Scalar]) -> int:
    return ACTIVATION_FLOPS[text(config, "act")]


def _cost(flops: int, parameters: int, inputs: int, outputs: int) -> Cost:
    """A cost from element counts."""
    return Cost(
        flops=flops,
        parameters=parameters,
        input_bytes=inputs * BYTES_PER_ELEMENT,
        output_bytes=outputs * BYTES_PER_ELEMENT,
        weight_bytes=parameters * BYTES_PER_ELEMENT,
    )
