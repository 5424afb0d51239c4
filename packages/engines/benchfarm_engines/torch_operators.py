"""ONNX operators as calls of PyTorch, by kind: what ``torch_file.OPERATORS`` lists, and nothing else.

A builder takes the operator and its inputs (None where absent) and returns its output, or a list of them. It runs
while PyTorch traces the graph, so whole numbers read from tensors become constants of the trace.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch.nn import functional

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.torch_file import Operator

Tensor = Any
Inputs = Sequence[Tensor | None]
Build = Callable[[Operator, Inputs], Any]

_CAST_TO: Final = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}
"""By ONNX's number of an element type."""
_CONVOLUTIONS: Final = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: Final = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_AVERAGES: Final = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAXIMA: Final = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_ALIGNED: Final = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
_LINEAR: Final = {3: "linear", 4: "bilinear", 5: "trilinear"}
"""PyTorch's name of linear interpolation, by the number of axes."""


def refuse(operator: Operator, why: str) -> EngineFailure:
    """The failure for a use of an operator that is not built."""
    return EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, f"{operator.kind} {why}", subject=operator.kind)


def _whole(tensor: Tensor) -> list[int]:
    numbers: list[int] = torch.atleast_1d(tensor).tolist()
    return numbers


def _attribute(operator: Operator, name: str, default: Any) -> Any:
    return operator.attributes.get(name, default)


def _window(operator: Operator, axes: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and pads as ONNX has them: all begins, then all ends."""
    ones = [1] * axes
    return (
        _attribute(operator, "strides", ones),
        _attribute(operator, "dilations", ones),
        _attribute(operator, "pads", [0] * 2 * axes),
    )


def _padded(x: Tensor, pads: list[int], value: float) -> Tensor:
    """Padded as ONNX's pads say; PyTorch counts from the last axis."""
    half = len(pads) // 2
    pairs = [size for axis in reversed(range(half)) for size in (pads[axis], pads[half + axis])]
    return functional.pad(x, pairs, value=value) if any(pairs) else x


def _same_on_both_sides(pads: list[int]) -> bool:
    return pads[: len(pads) // 2] == pads[len(pads) // 2 :]


def _conv(operator: Operator, inputs: Inputs) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    assert x is not None and weight is not None  # noqa: PT018
    axes = x.dim() - 2
    strides, dilations, pads = _window(operator, axes)
    inner = pads[:axes] if _same_on_both_sides(pads) else [0] * axes
    x = x if any(inner) else _padded(x, pads, 0.0)
    return _CONVOLUTIONS[axes](x, weight, bias, strides, inner, dilations, _attribute(operator, "group", 1))


def _conv_transpose(operator: Operator, inputs: Inputs) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    assert x is not None and weight is not None  # noqa: PT018
    axes = x.dim() - 2
    strides, dilations, pads = _window(operator, axes)
    if not _same_on_both_sides(pads):
        raise refuse(operator, "with other pads at the end than at the beginning")
    more = _attribute(operator, "output_padding", [0] * axes)
    group = _attribute(operator, "group", 1)
    return _TRANSPOSED[axes](x, weight, bias, strides, pads[:axes], more, group, dilations)


def _max_pool(operator: Operator, inputs: Inputs) -> Tensor:
    x, size = inputs[0], _attribute(operator, "kernel_shape", [])
    if len(operator.outputs) > 1:
        raise refuse(operator, "with indices")
    strides, dilations, pads = _window(operator, len(size))
    inner = pads[: len(size)]
    if not _same_on_both_sides(pads) or any(2 * pad > k for pad, k in zip(inner, size, strict=True)):
        x, inner = _padded(x, pads, float("-inf")), [0] * len(size)
    ceil = bool(_attribute(operator, "ceil_mode", 0))
    return _MAXIMA[len(size)](x, size, strides, inner, dilations, ceil)


def _average_pool(operator: Operator, inputs: Inputs) -> Tensor:
    x, size = inputs[0], _attribute(operator, "kernel_shape", [])
    strides, dilations, pads = _window(operator, len(size))
    if not _same_on_both_sides(pads) or set(dilations) != {1}:
        raise refuse(operator, "with dilations, or other pads at the end than at the beginning")
    ceil, count = _attribute(operator, "ceil_mode", 0), _attribute(operator, "count_include_pad", 0)
    return _AVERAGES[len(size)](x, size, strides, pads[: len(size)], bool(ceil), bool(count))


def _global_average_pool(_: Operator, inputs: Inputs) -> Tensor:
    x = inputs[0]
    assert x is not None
    return x.mean(dim=list(range(2, x.dim())), keepdim=True)


def _gemm(operator: Operator, inputs: Inputs) -> Tensor:
    a, b, c = (*inputs, None)[:3]
    assert a is not None and b is not None  # noqa: PT018
    alpha, beta = _attribute(operator, "alpha", 1.0), _attribute(operator, "beta", 1.0)
    a = a.t() if _attribute(operator, "transA", 0) else a
    transposed = bool(_attribute(operator, "transB", 0))
    if transposed and alpha == beta == 1.0 and (c is None or c.dim() == 1):
        return functional.linear(a, b, c)
    product = torch.matmul(a, b.t() if transposed else b)
    product = product if alpha == 1.0 else product * alpha
    return product if c is None else product + (c if beta == 1.0 else c * beta)


def _batch_norm(operator: Operator, inputs: Inputs) -> Tensor:
    x, scale, bias, mean, variance = inputs
    return functional.batch_norm(x, mean, variance, scale, bias, eps=_attribute(operator, "epsilon", 1e-5))


def _layer_norm(operator: Operator, inputs: Inputs) -> Tensor:
    x, scale, bias = (*inputs, None)[:3]
    assert x is not None
    shape = [int(size) for size in x.shape[_attribute(operator, "axis", -1) :]]
    return functional.layer_norm(x, shape, scale, bias, _attribute(operator, "epsilon", 1e-5))


def _clip(_: Operator, inputs: Inputs) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    return torch.clamp(x, None if low is None else low.item(), None if high is None else high.item())


def _gelu(operator: Operator, inputs: Inputs) -> Tensor:
    return functional.gelu(inputs[0], approximate=_attribute(operator, "approximate", "none"))


def _hard_sigmoid(operator: Operator, inputs: Inputs) -> Tensor:
    alpha, beta = _attribute(operator, "alpha", 0.2), _attribute(operator, "beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:  # PyTorch's own
        return functional.hardsigmoid(inputs[0])
    return torch.clamp(inputs[0] * alpha + beta, 0.0, 1.0)


def _prelu(_: Operator, inputs: Inputs) -> Tensor:
    x, slope = inputs
    assert x is not None
    return torch.clamp(x, min=0) + slope * torch.clamp(x, max=0)


def _concat(operator: Operator, inputs: Inputs) -> Tensor:
    return torch.cat([each for each in inputs if each is not None], dim=_attribute(operator, "axis", 0))


def _split(operator: Operator, inputs: Inputs) -> Any:
    x, sizes = (*inputs, None)[:2]
    assert x is not None
    axis = _attribute(operator, "axis", 0)
    if sizes is not None:
        return list(torch.split(x, _whole(sizes), dim=axis))
    return list(torch.split(x, -(-int(x.shape[axis]) // len(operator.outputs)), dim=axis))


def _reshape(_: Operator, inputs: Inputs) -> Tensor:
    x, shape = inputs
    assert x is not None
    wanted = [int(x.shape[axis]) if size == 0 else size for axis, size in enumerate(_whole(shape))]
    return x.reshape(wanted)


def _flatten(operator: Operator, inputs: Inputs) -> Tensor:
    x, axis = inputs[0], _attribute(operator, "axis", 1)
    assert x is not None
    rows = 1
    for size in x.shape[:axis]:
        rows *= int(size)
    return x.reshape(rows, -1)


def _transpose(operator: Operator, inputs: Inputs) -> Tensor:
    x = inputs[0]
    assert x is not None
    return x.permute(*_attribute(operator, "perm", list(reversed(range(x.dim())))))


def _squeeze(_: Operator, inputs: Inputs) -> Tensor:
    x, axes = (*inputs, None)[:2]
    return torch.squeeze(x) if axes is None else torch.squeeze(x, tuple(_whole(axes)))


def _unsqueeze(_: Operator, inputs: Inputs) -> Tensor:
    x, axes = inputs
    assert x is not None
    rank = x.dim() + len(_whole(axes))
    for axis in sorted(axis % rank for axis in _whole(axes)):
        x = torch.unsqueeze(x, axis)
    return x


def _slice(operator: Operator, inputs: Inputs) -> Tensor:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    assert x is not None
    begin, end = _whole(starts), _whole(ends)
    along = list(range(len(begin))) if axes is None else _whole(axes)
    step = [1] * len(begin) if steps is None else _whole(steps)
    if min(step) < 1:
        raise refuse(operator, "with a step backwards")
    index = [slice(None)] * x.dim()
    for axis, first, last, stride in zip(along, begin, end, step, strict=True):
        index[axis] = slice(first, last, stride)
    return x[tuple(index)]


def _gather(operator: Operator, inputs: Inputs) -> Tensor:
    x, indices = inputs
    assert x is not None and indices is not None  # noqa: PT018
    axis = _attribute(operator, "axis", 0) % x.dim()
    picked = torch.index_select(x, axis, (indices % x.shape[axis]).reshape(-1).to(x.device))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _reduce_mean(operator: Operator, inputs: Inputs) -> Tensor:
    x, axes = (*inputs, None)[:2]
    assert x is not None
    along = _attribute(operator, "axes", list(range(x.dim()))) if axes is None else _whole(axes)
    return x.mean(dim=along, keepdim=bool(_attribute(operator, "keepdims", 1)))


def _resize(operator: Operator, inputs: Inputs) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None)[:4]
    assert x is not None
    before = [int(size) for size in x.shape]
    after = _whole(sizes) if sizes is not None else _scaled(x, scales)
    if before[:2] != after[:2]:
        raise refuse(operator, "of the batch or the channels")
    turn = "coordinate_transformation_mode"
    mode, place = _attribute(operator, "mode", "nearest"), _attribute(operator, turn, "half_pixel")
    if mode == "nearest" and (exact := _nearest(operator, place, before[2:], after[2:])):
        return functional.interpolate(x, size=after[2:], mode=exact)
    if mode == "linear" and place in _ALIGNED:
        return functional.interpolate(x, size=after[2:], mode=_LINEAR[x.dim()], align_corners=_ALIGNED[place])
    raise refuse(operator, f"with mode {mode}, {turn} {place}")


def _nearest(operator: Operator, place: str, before: list[int], after: list[int]) -> str:
    """PyTorch's name of a way to round, "" where it has none: one cuts off, the other rounds halves up."""
    rounding = _attribute(operator, "nearest_mode", "round_prefer_floor")
    never_half = all(size % old == 0 for old, size in zip(before, after, strict=True))
    if (place, rounding) == ("asymmetric", "floor"):
        return "nearest"
    up = rounding == "round_prefer_ceil" or (rounding == "round_prefer_floor" and never_half)
    return "nearest-exact" if up and place == "half_pixel" else ""


def _scaled(x: Tensor, scales: Tensor) -> list[int]:
    return [int(size * scale) for size, scale in zip(x.shape, scales.tolist(), strict=True)]


def _shape(_: Operator, inputs: Inputs) -> Tensor:
    assert inputs[0] is not None
    return torch.tensor([int(size) for size in inputs[0].shape], dtype=torch.int64)


def _expand(_: Operator, inputs: Inputs) -> Tensor:
    x, shape = inputs
    assert x is not None
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(_whole(shape))))


def _cast(operator: Operator, inputs: Inputs) -> Tensor:
    number = _attribute(operator, "to", 0)
    if number not in _CAST_TO:
        raise refuse(operator, f"to type {number}")
    assert inputs[0] is not None
    return inputs[0].to(_CAST_TO[number])


def _softmax(operator: Operator, inputs: Inputs) -> Tensor:
    return functional.softmax(inputs[0], dim=_attribute(operator, "axis", -1))


def _log_softmax(operator: Operator, inputs: Inputs) -> Tensor:
    return functional.log_softmax(inputs[0], dim=_attribute(operator, "axis", -1))


def _leaky_relu(operator: Operator, inputs: Inputs) -> Tensor:
    return functional.leaky_relu(inputs[0], _attribute(operator, "alpha", 0.01))


def _elu(operator: Operator, inputs: Inputs) -> Tensor:
    return functional.elu(inputs[0], _attribute(operator, "alpha", 1.0))


def _divide(_: Operator, inputs: Inputs) -> Tensor:
    x, by = inputs
    assert x is not None
    return x / by if x.is_floating_point() else torch.div(x, by, rounding_mode="trunc")


def _plain(function: Callable[..., Any]) -> Build:
    return lambda _, inputs: function(*inputs)


def _folded(function: Callable[[Any, Any], Any]) -> Build:
    def build(_: Operator, inputs: Inputs) -> Tensor:
        result = inputs[0]
        for each in inputs[1:]:
            result = function(result, each)
        return result

    return build


BUILDERS: Final[dict[str, Build]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _divide,
    "Elu": _elu,
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": lambda _, inputs: inputs[0],
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "Log": _plain(torch.log),
    "LogSoftmax": _log_softmax,
    "MatMul": _plain(torch.matmul),
    "Max": _folded(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _folded(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "PRelu": _prelu,
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMean": _reduce_mean,
    "Relu": _plain(functional.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _plain(functional.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""One builder per operator."""
