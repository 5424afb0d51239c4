"""Exact arithmetic of each kernel type on images; ``sequence_costs`` holds those on sequences, by the same conventions.

- Tensors are float32, 4 bytes an element, batch included.
- A multiplication, an addition, a comparison, a division, an exponential, a root and an error function each
  count as one FLOP.
- A dot product of n terms with its bias is 2n FLOPs: n products, n - 1 sums, one bias. Without a bias it
  counts the same.
- Batch normalisation is folded into weights and bias, so it costs nothing of its own.
- A window that reaches into the padding counts as a full one; of a transposed convolution, one that reaches out.
- What is fixed by the configuration (the weights of an interpolation, a scale's root) is no work of a run.
- Moving data is no arithmetic: concat, split, channel shuffle and the nearest neighbour are 0 FLOPs.
- Parameters are weights and biases after folding.
- Input, output and weights are each counted once, however often an engine reads them.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from benchfarm_core.workloads import Cost
from benchfarm_workloads.columns import Scalar, integer, text
from benchfarm_workloads.tensors import Tensors

BYTES_PER_ELEMENT: Final = 4

ACTIVATION_FLOPS: Final[dict[str, int]] = {
    "none": 0,
    "relu": 1,  # one comparison
    "relu6": 2,  # two comparisons
    "hsigmoid": 4,  # multiply, add, two comparisons
    "hswish": 5,  # hsigmoid and one product
    "sigmoid": 4,  # negate, exponential, add, divide
    "swish": 5,  # sigmoid and one product
    "gelu": 5,  # divide, error function, add, two products
}
"""FLOPs per element of each activation."""


class Work(NamedTuple):
    """FLOPs of one run, and parameters."""

    flops: int
    parameters: int = 0


WorkRule = Callable[[Mapping[str, Scalar], Tensors], Work]
"""From a canonical configuration and its tensors to the work."""


def cost_of(work: Work, tensors: Tensors) -> Cost:
    """Work and traffic together."""
    return Cost(
        flops=work.flops,
        parameters=work.parameters,
        input_bytes=tensors.input_elements * BYTES_PER_ELEMENT,
        output_bytes=tensors.output_elements * BYTES_PER_ELEMENT,
        weight_bytes=work.parameters * BYTES_PER_ELEMENT,
    )


def conv(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A convolution with folded normalisation, then an activation."""
    return _filters(config, tensors, outputs=integer(config, "cout"), terms=_window(config) * integer(config, "cin"))


def group_conv(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A convolution in which each output sees the channels of its own group alone."""
    terms = _window(config) * (integer(config, "cin") // integer(config, "groups"))
    return _filters(config, tensors, outputs=integer(config, "cout"), terms=terms)


def dwconv(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A depthwise convolution with folded normalisation, then an activation."""
    return _filters(config, tensors, outputs=integer(config, "cin"), terms=_window(config))


def deconv(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A transposed convolution: each input element is spread over one window of each output map."""
    cin, cout = integer(config, "cin"), integer(config, "cout")
    spread = 2 * tensors.input_elements * cout * _window(config)
    return Work(spread + tensors.output_elements * act_flops(config), cin * cout * _window(config) + cout)


def fc(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A fully connected layer with bias, then an activation; of one feature vector or of each token."""
    return _filters(config, tensors, outputs=integer(config, "cout"), terms=integer(config, "cin"))


def maxpool(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """k x k - 1 comparisons per output."""
    return Work(tensors.output_elements * (_window(config) - 1))


def avgpool(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """k x k - 1 sums and one division per output."""
    return Work(tensors.output_elements * _window(config))


def mean(_: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """n - 1 sums and one division per output, n being the inputs that it is the mean of."""
    return Work(tensors.input_elements)


def add_act(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """The sum of two tensors, then an activation."""
    return Work(tensors.output_elements * (1 + act_flops(config)))


def elementwise(_: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """One FLOP per output."""
    return Work(tensors.output_elements)


def act(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """An activation on its own."""
    return Work(tensors.output_elements * act_flops(config))


def se(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """Squeeze and excitation: global pool, reduce with ReLU, expand with gate, scale."""
    cin, cmid, batch = integer(config, "cin"), integer(config, "cmid"), integer(config, "batch")
    reduce_flops = cmid * (2 * cin + ACTIVATION_FLOPS["relu"])
    expand_flops = cin * (2 * cmid + ACTIVATION_FLOPS[text(config, "gate")])
    flops = 2 * tensors.output_elements + batch * (reduce_flops + expand_flops)
    return Work(flops, 2 * cin * cmid + cmid + cin)


def resize(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """Bilinear: four products and three sums per output."""
    return Work(tensors.output_elements * (7 if text(config, "mode") == "bilinear" else 0))


def movement(_: Mapping[str, Scalar], __: Tensors) -> Work:
    """Traffic only."""
    return Work(0)


def act_flops(config: Mapping[str, Scalar]) -> int:
    """FLOPs per element of the configuration's activation."""
    return ACTIVATION_FLOPS[text(config, "act")]


def _filters(config: Mapping[str, Scalar], tensors: Tensors, *, outputs: int, terms: int) -> Work:
    """``outputs`` filters of ``terms`` weights and one bias each; every output element is one dot product."""
    return Work(tensors.output_elements * (2 * terms + act_flops(config)), outputs * terms + outputs)


def _window(config: Mapping[str, Scalar]) -> int:
    return integer(config, "k") ** 2
