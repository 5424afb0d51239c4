"""Layers of numbers by themselves, and those of transformers: functions, sums, products, normalisation."""

from typing import Final

import numpy as np

from benchfarm_engines.ncnn_graph import Operator, unsupported
from benchfarm_engines.ncnn_movement import axis_of
from benchfarm_engines.ncnn_site import HARD_SWISH_SLOPE, Emitter, NcnnSite, clip_bounds
from benchfarm_engines.ncnn_windows import int8_steps
from benchfarm_engines.ncnn_writer import Parameter, plain, tagged

UNARY: Final = {
    "Abs": 0,
    "Neg": 1,
    "Floor": 2,
    "Ceil": 3,
    "Sqrt": 5,
    "Exp": 7,
    "Log": 8,
    "Sin": 9,
    "Cos": 10,
    "Tanh": 16,
}
BINARY: Final = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Max": 4, "Min": 5, "Pow": 6}
_REVERSED: Final = {"Sub": 7, "Div": 8, "Pow": 9}
"""With a number on the left."""
REDUCTIONS: Final = {"ReduceSum": 0, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5}
_BIAS_PER_COLUMN, _NO_BIAS = 4, -1
_INT8_TERM = 2


def elementwise(kind: str, parameters: dict[int, Parameter] | None = None) -> Emitter:
    """The emitter of a layer that takes one blob and keeps its shape."""

    def emit(site: NcnnSite, operator: Operator) -> None:
        _one(site, operator, kind, parameters or {})

    return emit


def _one(site: NcnnSite, operator: Operator, kind: str, parameters: dict[int, Parameter]) -> None:
    source = operator.inputs[0]
    [made] = site.writer.layer(kind, [site.blob(source)], parameters)
    site.put(operator.output, made, flat=source in site.flat)


def unary(site: NcnnSite, operator: Operator) -> None:
    """A function of each number."""
    _one(site, operator, "UnaryOp", {0: UNARY[operator.kind]})


def leaky_relu(site: NcnnSite, operator: Operator) -> None:
    """A slope below zero."""
    _one(site, operator, "ReLU", {0: float(operator.attributes.get("alpha", 0.01))})


def clip(site: NcnnSite, operator: Operator) -> None:
    """Bounds on each number."""
    low, high = clip_bounds(site.graph, operator)
    _one(site, operator, "Clip", {0: low, 1: high})


def hard_sigmoid(site: NcnnSite, operator: Operator) -> None:
    """A line between 0 and 1."""
    slope, offset = (float(operator.attributes.get(*each)) for each in (("alpha", 0.2), ("beta", 0.5)))
    _one(site, operator, "HardSigmoid", {0: slope, 1: offset})


def hard_swish(site: NcnnSite, operator: Operator) -> None:
    """x times its hard sigmoid."""
    _one(site, operator, "HardSwish", {0: HARD_SWISH_SLOPE, 1: 0.5})


def gelu(site: NcnnSite, operator: Operator) -> None:
    """The exact form, or the one with tanh where the graph says so."""
    _one(site, operator, "GELU", {0: int(operator.attributes.get("approximate", "none") == "tanh")})


def binary(site: NcnnSite, operator: Operator) -> None:
    """Two tensors, or one and a number."""
    if len(operator.inputs) != 2:
        raise unsupported(operator, "more than two inputs")
    left, right = operator.inputs
    for source, other, numbers in ((left, right, BINARY), (right, left, {**BINARY, **_REVERSED})):
        value = site.graph.scalar(other)
        if value is not None and source not in site.graph.constants:
            alone = Operator(operator.kind, [source], operator.outputs)
            _one(site, alone, "BinaryOp", {0: numbers[operator.kind], 1: 1, 2: value})
            return
    bottoms = [_broadcast(site, operator, each) for each in (left, right)]
    [made] = site.writer.layer("BinaryOp", bottoms, {0: BINARY[operator.kind]})
    site.put(operator.output, made, flat=all(each in site.flat for each in (left, right)))


def _broadcast(site: NcnnSite, operator: Operator, tensor: str) -> int:
    """A side of a binary operator with as many axes as the result, or one number per channel in a flat blob."""
    rank = len(site.shape(operator.output))
    if tensor in site.graph.constants and tensor not in site.blobs:
        return site.blob(tensor, rank=rank)
    if tensor in site.flat or len(site.shape(tensor)) == rank:
        return site.blob(tensor)
    return site.reshaped(site.blob(tensor), (1,) * (rank - len(site.shape(tensor))) + site.shape(tensor))


def softmax(site: NcnnSite, operator: Operator) -> None:
    """Shares along an axis."""
    axis = axis_of(site, operator, int(operator.attributes.get("axis", -1)))
    site.put(operator.output, site.writer.layer("Softmax", [site.full(operator.inputs[0])], {0: axis, 1: 1})[0])


def layer_norm(site: NcnnSite, operator: Operator) -> None:
    """Mean 0 and variance 1 along the last axis, then scale and shift."""
    shape = site.shape(operator.inputs[0])
    if axis_of(site, operator, int(operator.attributes.get("axis", -1))) != len(shape) - 1 or len(operator.outputs) > 1:
        raise unsupported(operator, "more than the last axis")
    site.check_features(operator, shape[-1], site.constant(operator, 1).size)
    shift = site.constant(operator, 2) if len(operator.inputs) > 2 else np.zeros(shape[-1], np.float32)
    parameters: dict[int, Parameter] = {0: shape[-1], 1: float(operator.attributes.get("epsilon", 1e-5)), 2: 1}
    weights = [*plain(site.constant(operator, 1)), *plain(shift)]
    [made] = site.writer.layer("LayerNorm", [site.full(operator.inputs[0])], parameters, weights)
    site.put(operator.output, made)


def reduction(site: NcnnSite, operator: Operator) -> None:
    """One number along some axes."""
    given = operator.attributes.get("axes")
    axes = list(given) if given is not None else site.constant(operator, 1).tolist()
    places = sorted(axis_of(site, operator, axis) for axis in axes)
    keep = int(operator.attributes.get("keepdims", 1))
    parameters: dict[int, Parameter] = {0: REDUCTIONS[operator.kind], 1: 0, 3: places, 4: keep, 5: 1}
    site.put(operator.output, site.writer.layer("Reduction", [site.full(operator.inputs[0])], parameters)[0])


def linear(site: NcnnSite, operator: Operator) -> None:
    """Rows times a constant matrix, with bias: ncnn's Gemm, whose int8 finds the scales of rows by itself."""
    source, weight = operator.inputs[0], site.constant(operator, 1).T
    shape, (outputs, features) = site.shape(source), weight.shape
    site.check_features(operator, shape[-1], features)
    rows = int(np.prod(shape[:-1]))
    bias = tagged(site.constant(operator, 2)) if len(operator.inputs) > 2 else []
    parameters: dict[int, Parameter] = {3: 1, 5: 1, 6: 1, 7: rows, 8: outputs, 9: features}
    parameters[10] = _BIAS_PER_COLUMN if bias else _NO_BIAS
    weights = [*tagged(weight), *bias]
    if site.int8_input(operator) is not None:
        steps, scale = int8_steps(weight, 1)
        parameters[18] = _INT8_TERM
        weights = [*tagged(steps), *bias, *plain(1 / scale)]
    bottom = site.full(source) if len(shape) == 2 else site.reshaped(site.blob(source), (rows, features))
    [made] = site.writer.layer("Gemm", [bottom], parameters, weights)
    wanted = site.shape(operator.output)
    site.put(operator.output, made if len(wanted) == 2 else site.reshaped(made, wanted))


def product(site: NcnnSite, operator: Operator) -> None:
    """Two matrices that are both made by the graph, or stacks of them."""
    left, right = (site.shape(each) if each not in site.graph.constants else None for each in operator.inputs)
    if left is not None and right is not None and len(left) != len(right):
        raise unsupported(operator, "factors of different rank")
    rank = len(left or right or ())
    if rank < 2 or any(
        each in site.graph.constants and site.graph.constants[each].ndim < 2 for each in operator.inputs
    ):
        raise unsupported(operator, "vectors")
    bottoms = [site.blob(each, rank=rank) for each in operator.inputs]
    site.put(operator.output, site.writer.layer("MatMul", bottoms)[0])


def attention(site: NcnnSite, operator: Operator) -> None:
    """Scaled dot product of queries, keys and values, heads x tokens x size; its int8 finds the scales by itself."""
    bottoms = [site.full(each) for each in operator.inputs]
    parameters: dict[int, Parameter] = {6: float(operator.attributes["scale"])}
    if all(each in site.graph.scales for each in operator.inputs):
        parameters[18] = _INT8_TERM
    site.put(operator.output, site.writer.layer("SDPA", bottoms, parameters)[0])


def elu(site: NcnnSite, operator: Operator) -> None:
    """An exponential below zero."""
    _one(site, operator, "ELU", {0: float(operator.attributes.get("alpha", 1.0))})


def prelu(site: NcnnSite, operator: Operator) -> None:
    """A slope below zero, one for all channels or one for each."""
    slopes, source = site.constant(operator, 1), operator.inputs[0]
    channels = site.shape(source)[0]
    if slopes.size != 1 and slopes.shape != (channels, *(1,) * (len(site.shape(source)) - 1)):
        raise unsupported(operator, f"slopes of {list(slopes.shape)}")
    [made] = site.writer.layer("PReLU", [site.full(source)], {0: slopes.size}, plain(slopes))
    site.put(operator.output, made)


def instance_norm(site: NcnnSite, operator: Operator) -> None:
    """Each map to mean 0 and variance 1, then scale and shift."""
    channels = site.shape(operator.inputs[0])[0]
    if len(site.shape(operator.inputs[0])) != 3:
        raise unsupported(operator, "maps in other than two dimensions")
    weights = [*plain(site.constant(operator, 1)), *plain(site.constant(operator, 2))]
    site.check_features(operator, channels, site.constant(operator, 1).size)
    parameters: dict[int, Parameter] = {0: channels, 1: float(operator.attributes.get("epsilon", 1e-5)), 2: 1}
    [made] = site.writer.layer("InstanceNorm", [site.full(operator.inputs[0])], parameters, weights)
    site.put(operator.output, made)
