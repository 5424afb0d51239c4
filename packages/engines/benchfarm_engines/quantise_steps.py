"""8-bit steps: scale and zero point of activations, weights and biases."""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import onnx

from benchfarm_engines.quantise_ranges import Range
from benchfarm_engines.quantise_rules import FIXED_RANGES, Plan

Array = np.ndarray[Any, Any]

_MANTISSA: Final = 2.0**12
"""Scales are kept to twelve bits, so that the last bits of a processor's sums do not name another file."""

_BIAS_LIMIT: Final = 2.0**30
"""In int32 a bias must leave room for the sum that it is added to."""


SYMMETRIC: Final = "int8_symmetric"


class NotFinite(ValueError):
    """A tensor takes values that no steps can hold."""


class Steps(NamedTuple):
    """Of one activation: a real number r is stored as round(r / scale) + zero_point in ``dtype`` (int8 or uint8)."""

    scale: float
    zero_point: int
    dtype: str


def steps_of(graph: onnx.GraphProto, planned: Plan, ranges: Mapping[str, Range], dtype: str) -> dict[str, Steps]:
    """The steps of every planned tensor and constant, stored in ``dtype``. Raises NotFinite."""
    fixed = {
        name: FIXED_RANGES[node.op_type] for node in graph.node for name in node.output if node.op_type in FIXED_RANGES
    }
    shared: dict[str, Range] = {}
    for name in planned.tensors:
        low, high = fixed.get(name, ranges[name])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NotFinite(f"tensor {name[:60]!r} is not finite on calibration inputs")
        before = shared.get(planned.groups[name], (0.0, 0.0))
        shared[planned.groups[name]] = (min(before[0], low), max(before[1], high))
    steps = {name: affine(*shared[planned.groups[name]], dtype) for name in planned.tensors}
    for tensor in graph.initializer:
        if tensor.name in planned.constants and tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            steps[tensor.name] = affine(min(0.0, float(values.min())), max(0.0, float(values.max())), dtype)
    return steps


def affine(low: float, high: float, dtype: str) -> Steps:
    """Steps that hold every value from low to high; low <= 0 <= high, and zero is exact.

    dtype: numpy's name, or ``int8_symmetric``: int8 around a zero point of 0, its lowest value unused.
    """
    if dtype == SYMMETRIC:
        return Steps(_rounded(max(-low, high) / 127) or 1.0, 0, "int8")
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    scale = _rounded((high - low) / 255) or 1.0
    return Steps(scale, max(lowest, min(highest, round(lowest - low / scale))), dtype)


def weight_steps(weight: Array, axis: int, bias: Array | None, input_scale: float) -> Array:
    """One scale per index of ``axis``, zero points all 0; wide enough for the bias in steps of their product."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scales = np.abs(weight).max(axis=others).astype(np.float64) / 127
    if bias is not None and bias.size == scales.size:
        scales = np.maximum(scales, np.abs(bias.ravel()) / (input_scale * _BIAS_LIMIT))
    return np.where(scales > 0, scales, 1.0).astype(np.float32)


def symmetric(values: Array, scales: Array, axis: int, dtype: str) -> Array:
    """Values in steps of ``scales`` along ``axis``, around 0; of int8 the lowest value stays unused."""
    shape = [-1 if each == axis else 1 for each in range(values.ndim)]
    limits = np.iinfo(dtype)
    steps: Array = np.rint(values.astype(np.float64) / scales.astype(np.float64).reshape(shape))
    return np.clip(steps, -limits.max, limits.max).astype(dtype)


def stored(values: Array, steps: Steps) -> Array:
    """Values by the steps of one tensor."""
    whole: Array = np.rint(values / np.float32(steps.scale)) + steps.zero_point
    limits = np.iinfo(steps.dtype)
    return np.clip(whole, limits.min, limits.max).astype(steps.dtype)


def _rounded(value: float) -> float:
    fraction, exponent = math.frexp(value)
    return float(np.float32(math.ldexp(math.ceil(fraction * _MANTISSA) / _MANTISSA, exponent)))
