"""Work, traffic and shapes of many kernels at once: the arithmetic of ``benchfarm_workloads.costs`` on columns.

A test holds both to the same numbers. Everything is float64[n]; integers stay exact up to 2^53.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from benchfarm_predictor.kernels import Floats, Kernels, catalogue_columns
from benchfarm_workloads.costs import ACTIVATION_FLOPS, BYTES_PER_ELEMENT


@dataclass(frozen=True, eq=False)
class Quantities:
    """Of n kernels, float64[n] each.

    Attributes:
        flops, parameters: by the conventions of ``costs``.
        inputs, outputs: elements of all inputs and of all outputs.
        rows, width, depth: the kernel as a matrix product, rows x depth times depth x width: output positions, output
            channels, terms of one dot product. Depth is 1 where nothing is summed over channels or windows.
        side: height and width of the output, or its tokens.
    """

    flops: Floats
    parameters: Floats
    inputs: Floats
    outputs: Floats
    rows: Floats
    width: Floats
    depth: Floats
    side: Floats

    @property
    def input_bytes(self) -> Floats:
        """Of all inputs."""
        return BYTES_PER_ELEMENT * self.inputs

    @property
    def output_bytes(self) -> Floats:
        """Of all outputs."""
        return BYTES_PER_ELEMENT * self.outputs

    @property
    def weight_bytes(self) -> Floats:
        """Of weights and biases."""
        return BYTES_PER_ELEMENT * self.parameters

    @property
    def total_bytes(self) -> Floats:
        """Inputs, outputs and weights, each once."""
        return self.input_bytes + self.output_bytes + self.weight_bytes


def quantities(kernels: Kernels) -> Quantities | None:
    """The quantities of kernels of a catalogue type; None of a foreign type: its costs are not known.

    For the same kernels the same arrays again, read-only.
    """
    if not kernels.is_known:
        return None
    found = kernels.made.get(Quantities)
    if not isinstance(found, Quantities):
        found = _RULES[kernels.type](_Columns(kernels))
        for each in fields(found):
            getattr(found, each.name).flags.writeable = False
        kernels.made[Quantities] = found
    return found


class _Columns(dict[str, Floats]):
    """The columns by name, and the FLOPs that a word stands for."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__({name: kernels.column(name) for name in kernels.columns})
        self.choices = {column.name: column.choices for column in catalogue_columns(kernels.type)}

    def word_is(self, name: str, word: str) -> Floats:
        """1 where a text column holds the word, else 0."""
        flags: Floats = (self[name] == self.choices[name].index(word)).astype(np.float64)
        return flags

    def activation(self, name: str) -> Floats:
        """FLOPs per element of the activation in a text column."""
        flops = np.array([ACTIVATION_FLOPS[str(choice)] for choice in self.choices[name]], dtype=np.float64)
        return flops[self[name].astype(np.int64)]


def _window_hw(c: _Columns) -> Floats:
    pad = (c["k"] - 1) // 2
    return np.maximum((c["hw"] + 2 * pad - c["k"]) // np.maximum(c["s"], 1) + 1, 1)


def _image(c: _Columns) -> Floats:
    return c["batch"] * c["cin"] * c["hw"] ** 2


def _filters(c: _Columns, inputs: Floats, rows: Floats, width: Floats, terms: Floats, side: Floats) -> Quantities:
    """``width`` filters of ``terms`` weights and a bias each, at ``rows`` positions, then the activation."""
    outputs = rows * width
    flops = outputs * (2 * terms + c.activation("act"))
    return Quantities(flops, width * terms + width, inputs, outputs, rows, width, terms, side)


def _conv(c: _Columns) -> Quantities:
    out = _window_hw(c)
    return _filters(c, _image(c), c["batch"] * out**2, c["cout"], c["k"] ** 2 * c["cin"], out)


def _group_conv(c: _Columns) -> Quantities:
    out, of_group = _window_hw(c), c["cin"] // np.maximum(c["groups"], 1)
    return _filters(c, _image(c), c["batch"] * out**2, c["cout"], c["k"] ** 2 * of_group, out)


def _dwconv(c: _Columns) -> Quantities:
    out = _window_hw(c)
    return _filters(c, _image(c), c["batch"] * out**2, c["cin"], c["k"] ** 2, out)


def _deconv(c: _Columns) -> Quantities:
    side, window = c["hw"] * c["s"], c["k"] ** 2
    outputs = c["batch"] * c["cout"] * side**2
    flops = 2 * _image(c) * c["cout"] * window + outputs * c.activation("act")
    parameters = c["cin"] * c["cout"] * window + c["cout"]
    rows = c["batch"] * c["hw"] ** 2
    return Quantities(flops, parameters, _image(c), outputs, rows, c["cout"] * window, c["cin"], side)


def _fc(c: _Columns) -> Quantities:
    return _filters(c, c["batch"] * c["cin"], c["batch"], c["cout"], c["cin"], np.ones_like(c["batch"]))


def _linear(c: _Columns) -> Quantities:
    rows = c["batch"] * c["seq"]
    return _filters(c, rows * c["cin"], rows, c["cout"], c["cin"], c["seq"])


def _matmul(c: _Columns) -> Quantities:
    rows, weight = c["batch"] * c["m"], c.word_is("form", "weight")
    outputs = rows * c["n"]
    inputs = rows * c["k"] + (1 - weight) * c["batch"] * c["k"] * c["n"]
    return Quantities(2 * c["k"] * outputs, weight * c["k"] * c["n"], inputs, outputs, rows, c["n"], c["k"], c["m"])


def _attention(c: _Columns) -> Quantities:
    seq, size, heads = c["seq"], c["head_dim"], c["batch"] * c["heads"]
    scores = seq**2 * (2 * size + 1) + seq * _softmax_flops(seq)
    tokens = heads * seq * size
    flops = heads * (scores + 2 * seq**2 * size)
    return Quantities(flops, 0 * seq, 3 * tokens, tokens, heads * seq, seq, size, seq)


def _patch_embed(c: _Columns) -> Quantities:
    side = c["hw"] // np.maximum(c["k"], 1)
    rows, terms = c["batch"] * side**2, c["cin"] * c["k"] ** 2
    outputs = rows * c["dim"]
    return Quantities(2 * outputs * terms, c["dim"] * terms + c["dim"], _image(c), outputs, rows, c["dim"], terms, side)


def _pool(flops_of_window: Callable[[Floats], Floats]) -> "_Rule":
    def rule(c: _Columns) -> Quantities:
        out = _window_hw(c)
        rows = c["batch"] * out**2
        outputs = rows * c["cin"]
        flops = outputs * flops_of_window(c["k"] ** 2)
        return Quantities(flops, 0 * out, _image(c), outputs, rows, c["cin"], c["k"] ** 2, out)

    return rule


def _global_pool(c: _Columns) -> Quantities:
    outputs, one = c["batch"] * c["cin"], np.ones_like(c["hw"])
    return Quantities(_image(c), 0 * one, _image(c), outputs, c["batch"], c["cin"], c["hw"] ** 2, one)


def _reduce_mean(c: _Columns) -> Quantities:
    inputs, outputs, one = c["batch"] * c["seq"] * c["dim"], c["batch"] * c["dim"], np.ones_like(c["seq"])
    return Quantities(inputs, 0 * one, inputs, outputs, c["batch"], c["dim"], c["seq"], one)


def _se(c: _Columns) -> Quantities:
    image, cin, cmid = _image(c), c["cin"], c["cmid"]
    layers = cmid * (2 * cin + ACTIVATION_FLOPS["relu"]) + cin * (2 * cmid + c.activation("gate"))
    flops = 2 * image + c["batch"] * layers
    return _each(c, flops, 2 * cin * cmid + cmid + cin, image, image)


def _add_act(c: _Columns) -> Quantities:
    image = _image(c)
    return _each(c, image * (1 + c.activation("act")), 0 * image, 2 * image, image)


def _act(c: _Columns) -> Quantities:
    image = _image(c)
    return _each(c, image * c.activation("act"), 0 * image, image, image)


def _mul(c: _Columns) -> Quantities:
    image = _image(c)
    other = np.where(c.word_is("form", "image") > 0, image, c["batch"] * c["cin"])
    return _each(c, image, 0 * image, image + other, image)


def _move(c: _Columns) -> Quantities:
    image = _image(c)
    return _each(c, 0 * image, 0 * image, image, image)


def _concat(c: _Columns) -> Quantities:
    channels = c["cin1"] + c["cin2"] + c["cin3"] + c["cin4"]
    rows = c["batch"] * c["hw"] ** 2
    elements = rows * channels
    return Quantities(0 * rows, 0 * rows, elements, elements, rows, channels, np.ones_like(rows), c["hw"])


def _resize(c: _Columns) -> Quantities:
    side = c["hw"] * c["scale"]
    rows = c["batch"] * side**2
    outputs = rows * c["cin"]
    flops = outputs * 7 * c.word_is("mode", "bilinear")
    return Quantities(flops, 0 * rows, _image(c), outputs, rows, c["cin"], np.ones_like(rows), side)


def _each(c: _Columns, flops: Floats, parameters: Floats, inputs: Floats, outputs: Floats) -> Quantities:
    """Something for each element of an image."""
    rows = c["batch"] * c["hw"] ** 2
    return Quantities(flops, parameters, inputs, outputs, rows, c["cin"], np.ones_like(rows), c["hw"])


def _tokens(
    flops: Callable[[Floats, Floats], Floats],
    parameters: Callable[[Floats, Floats], Floats] = lambda seq, _: 0 * seq,
    inputs: int = 1,
) -> "_Rule":
    """Something for each token; the functions take seq and dim, ``flops`` those of one sequence."""

    def rule(c: _Columns) -> Quantities:
        seq, dim, batch = c["seq"], c["dim"], c["batch"]
        elements = batch * seq * dim
        return Quantities(
            batch * flops(seq, dim),
            parameters(seq, dim),
            inputs * elements,
            elements,
            batch * seq,
            dim,
            np.ones_like(seq),
            seq,
        )

    return rule


def _softmax_flops(n: Floats) -> Floats:
    return 5 * n - 2


_Rule = Callable[[_Columns], Quantities]
_RULES: Final[dict[str, _Rule]] = {
    "conv-bn-act": _conv,
    "dwconv-bn-act": _dwconv,
    "fc": _fc,
    "maxpool": _pool(lambda window: window - 1),
    "avgpool": _pool(lambda window: window),
    "global-avgpool": _global_pool,
    "add-act": _add_act,
    "se": _se,
    "act": _act,
    "concat": _concat,
    "group-conv": _group_conv,
    "deconv-bn-act": _deconv,
    "mul": _mul,
    "split": _move,
    "channel-shuffle": _move,
    "resize": _resize,
    "linear": _linear,
    "matmul": _matmul,
    "attention": _attention,
    "layernorm": _tokens(lambda seq, dim: seq * (7 * dim + 2), lambda _, dim: 2 * dim),
    "gelu": _tokens(lambda seq, dim: seq * dim * ACTIVATION_FLOPS["gelu"]),
    "softmax": _tokens(lambda seq, dim: seq * _softmax_flops(dim)),
    "token-add": _tokens(lambda seq, dim: seq * dim, inputs=2),
    "pos-embed": _tokens(lambda seq, dim: seq * dim, lambda seq, dim: seq * dim),
    "reduce-mean": _reduce_mean,
    "patch-embed": _patch_embed,
}
