"""Rules of the operators that compute on single elements or along an axis."""

import math
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchfarm_engines.litert_fusion import clip_bounds, is_sixth
from benchfarm_engines.litert_layout import plain
from benchfarm_engines.litert_translation import Code, Rule, Site, Value
from benchfarm_engines.litert_writer import Quant

_SIGMOID_STEPS: Final = Quant((1 / 256,), -128)
"""The only ones that LiteRT's int8 sigmoid and softmax give."""
_TANH_STEPS: Final = Quant((1 / 128,), 0)
_RELU6_STEPS: Final = Quant((float(np.float32(6 / 255)),), -128)

_UNARY: Final[dict[str, tuple[int, Any]]] = {
    "Relu": (Code.RELU, None),
    "HardSwish": (Code.HARD_SWISH, schema.HardSwishOptionsT),
    "Abs": (Code.ABS, schema.AbsOptionsT),
    "Neg": (Code.NEG, schema.NegOptionsT),
    "Exp": (Code.EXP, schema.ExpOptionsT),
    "Log": (Code.LOG, None),
    "Sqrt": (Code.SQRT, None),
    "Floor": (Code.FLOOR, None),
    "Ceil": (Code.CEIL, None),
    "Sin": (Code.SIN, None),
    "Cos": (Code.COS, schema.CosOptionsT),
    "Elu": (Code.ELU, None),
}
_BINARY: Final[dict[str, tuple[int, Any]]] = {
    "Add": (Code.ADD, schema.AddOptionsT),
    "Sub": (Code.SUB, schema.SubOptionsT),
    "Mul": (Code.MUL, schema.MulOptionsT),
    "Div": (Code.DIV, schema.DivOptionsT),
}
_EXTREMES: Final = {"Max": Code.MAXIMUM, "Min": Code.MINIMUM}
_REDUCTIONS: Final = {
    "ReduceMean": Code.MEAN,
    "ReduceSum": Code.SUM,
    "ReduceMax": Code.REDUCE_MAX,
    "ReduceMin": Code.REDUCE_MIN,
}


def unary(site: Site) -> Value:
    """An operator that LiteRT has under its own name."""
    code, options = _UNARY[site.node.op]
    if site.node.op == "Elu" and site.attribute("alpha", 1.0) != 1:
        raise site.unsupported("another alpha than 1 is not written")
    x = site.input()
    return site.emit(code, [x], x.axes, options() if options else None)


def sigmoid(site: Site) -> Value:
    """Sigmoid."""
    x = site.input()
    return site.emit(Code.LOGISTIC, [x], x.axes, quant=_SIGMOID_STEPS)


def tanh(site: Site) -> Value:
    """Tanh."""
    x = site.input()
    return site.emit(Code.TANH, [x], x.axes, quant=_TANH_STEPS)


def gelu(site: Site) -> Value:
    """Gelu, by the error function or by tanh."""
    x = site.input()
    approximate = site.attribute("approximate", "none") == "tanh"
    return site.emit(Code.GELU, [x], x.axes, schema.GeluOptionsT(approximate=approximate))


def leaky_relu(site: Site) -> Value:
    """LeakyRelu."""
    x = site.input()
    return site.emit(Code.LEAKY_RELU, [x], x.axes, schema.LeakyReluOptionsT(alpha=site.attribute("alpha", 0.01)))


def prelu(site: Site) -> Value:
    """PRelu with constant slopes."""
    [x, slopes], axes = site.aligned([0, 1])
    return site.emit(Code.PRELU, [x, slopes], axes)


def clip(site: Site) -> Value:
    """Clip: an activation where LiteRT has it, else a minimum and a maximum."""
    low, high = clip_bounds(site.graph, site.node)
    if any(name and name not in site.graph.constants for name in site.node.inputs[1:3]):
        raise site.unsupported("bounds that depend on the data are not written")
    x = site.input()
    codes = {(0.0, 6.0): Code.RELU6, (-1.0, 1.0): Code.RELU_N1_TO_1, (0.0, math.inf): Code.RELU}
    if (low, high) in codes:
        return site.emit(codes[low, high], [x], x.axes)
    if math.isfinite(low):
        x = site.emit(Code.MAXIMUM, [x, site.number(low, x.quant)], x.axes, quant=x.quant)
    if math.isfinite(high):
        x = site.emit(Code.MINIMUM, [x, site.number(high, x.quant)], x.axes, quant=x.quant)
    return x


def hard_sigmoid(site: Site) -> Value:
    """HardSigmoid: relu6(x + 3) / 6 where it is that, else a product, a sum and two bounds."""
    x = site.input()
    if is_sixth(site.node):
        options = schema.AddOptionsT(fusedActivationFunction=schema.ActivationFunctionType.RELU6)
        moved = site.emit(Code.ADD, [x, site.number(3.0)], x.axes, options, quant=_RELU6_STEPS)
        return site.emit(Code.MUL, [moved, site.number(1 / 6)], x.axes, schema.MulOptionsT())
    if site.quant is not None:
        raise AssertionError("computed in fp32")
    scaled = site.emit(Code.MUL, [x, site.number(site.attribute("alpha", 0.2))], x.axes, schema.MulOptionsT())
    moved = site.emit(Code.ADD, [scaled, site.number(site.attribute("beta", 0.5))], x.axes, schema.AddOptionsT())
    low = site.emit(Code.MAXIMUM, [moved, site.number(0.0)], x.axes)
    return site.emit(Code.MINIMUM, [low, site.number(1.0)], x.axes)


def binary(site: Site) -> Value:
    """Arithmetic on two tensors that broadcast."""
    code, options = _BINARY[site.node.op]
    values, axes = site.aligned([0, 1])
    return site.emit(code, values, axes, options(fusedActivationFunction=site.activation()))


def power(site: Site) -> Value:
    """Pow; a square is written as one."""
    if site.is_constant(1) and site.array(1).size == 1 and float(site.array(1).ravel()[0]) == 2:
        x = site.input()
        return site.emit(Code.SQUARE, [x], x.axes)
    values, axes = site.aligned([0, 1])
    return site.emit(Code.POW, values, axes, schema.PowOptionsT())


def reciprocal(site: Site) -> Value:
    """Reciprocal."""
    x = site.input()
    return site.emit(Code.DIV, [site.number(1.0), x], x.axes, schema.DivOptionsT())


def extreme(site: Site) -> Value:
    """Max and Min of two tensors."""
    if len(site.node.inputs) != 2:
        raise site.unsupported("only two inputs are written")
    values, axes = site.aligned([0, 1])
    return site.emit(_EXTREMES[site.node.op], values, axes, schema.MaximumMinimumOptionsT())


def softmax(site: Site) -> Value:
    """Softmax along one axis, which must lie last in memory."""
    x = site.input()
    axis = site.axis(-1)
    if x.axes[-1] != axis:
        x = site.translation.ordered(x, (*(each for each in x.axes if each != axis), axis))
    return site.emit(Code.SOFTMAX, [x], x.axes, schema.SoftmaxOptionsT(beta=1.0))


def reduction(site: Site) -> Value:
    """ReduceMean and its kin."""
    x = site.input()
    named = site.integers(1, "axes", tuple(range(len(x.shape))))
    gone = {axis % len(x.shape) for axis in named}
    keep = bool(site.attribute("keepdims", 1))
    places = [place for place, axis in enumerate(x.axes) if axis in gone]
    left = [axis for axis in range(len(x.shape)) if axis not in gone]
    axes = x.axes if keep else tuple(left.index(axis) for axis in x.axes if axis not in gone)
    options = schema.ReducerOptionsT(keepDims=keep)
    code = _REDUCTIONS[site.node.op]
    return site.emit(code, [x, site.translation.integers(places)], axes, options)


def layer_normalization(site: Site) -> Value:
    """LayerNormalization over the last axes, by means, a difference and a root."""
    if len(site.node.outputs) > 1:
        raise site.unsupported("only the normalised tensor is written")
    x, first = site.input(), site.axis(-1)
    small = (*x.shape[:first], *(1 for _ in x.shape[first:]))
    over = site.translation.integers([place for place, axis in enumerate(x.axes) if axis >= first])
    mean = site.emit(Code.MEAN, [x, over], x.axes, schema.ReducerOptionsT(keepDims=True), shape=small)
    squares = site.emit(Code.SQUARED_DIFFERENCE, [x, mean], x.axes, schema.SquaredDifferenceOptionsT())
    variance = site.emit(Code.MEAN, [squares, over], x.axes, schema.ReducerOptionsT(keepDims=True), shape=small)
    epsilon = site.number(float(site.attribute("epsilon", 1e-5)))
    moved = site.emit(Code.ADD, [variance, epsilon], x.axes, schema.AddOptionsT(), shape=small)
    root = site.emit(Code.RSQRT, [moved], x.axes, shape=small)
    centred = site.emit(Code.SUB, [x, mean], x.axes, schema.SubOptionsT())
    normal = site.emit(Code.MUL, [centred, root], x.axes, schema.MulOptionsT())
    return _scaled(site, normal, 1, 2)


def batch_normalization(site: Site) -> Value:
    """BatchNormalization with constant statistics: a product and a sum per channel."""
    scale, bias, mean, variance = (site.array(place).astype(np.float64) for place in (1, 2, 3, 4))
    factor = scale / np.sqrt(variance + site.attribute("epsilon", 1e-5))
    x = site.input()
    along = [1] * len(x.shape)
    along[1] = -1
    parts = [part.reshape(along).transpose(x.axes) for part in (factor, bias - mean * factor)]
    product = site.emit(Code.MUL, [x, site.spread(parts[0])], x.axes, schema.MulOptionsT())
    return site.emit(Code.ADD, [product, site.spread(parts[1])], x.axes, schema.AddOptionsT())


def _scaled(site: Site, value: Value, scale: int, bias: int) -> Value:
    """Times a constant input, plus another, both of the last axes."""
    rank = len(value.shape)
    for place, code, options in ((scale, Code.MUL, schema.MulOptionsT), (bias, Code.ADD, schema.AddOptionsT)):
        if site.node.input(place):
            part = site.array(place)
            wide = part.reshape((1,) * (rank - part.ndim) + part.shape).transpose(value.axes)
            flat = wide if value.axes != plain(rank) else part
            value = site.emit(code, [value, site.spread(flat)], value.axes, options())
    return value


OPERATOR_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_EXTREMES, extreme),
    **dict.fromkeys(_REDUCTIONS, reduction),
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Gelu": gelu,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "Pow": power,
    "Reciprocal": reciprocal,
    "Softmax": softmax,
    "LayerNormalization": layer_normalization,
    "BatchNormalization": batch_normalization,
}
"""By ONNX operator."""
