"""Translation between the workload's tensors and the artifact's, as its edges say; never in the timed part."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchfarm_engines.edges import Edge
from benchfarm_engines.in_step import in_step

Array = np.ndarray[Any, Any]


def to_artifact(arrays: Mapping[str, Array], edges: Sequence[Edge]) -> dict[str, Array]:
    """The workload's inputs as the artifact takes them, by the artifact's names; `arrays` in the workload's order.

    Raises ValueError where the edges do not fit the arrays.
    """
    return {edge.name: _inward(array, edge) for array, edge in in_step(arrays.values(), edges)}


def to_workload(outputs: Sequence[Array], edges: Sequence[Edge], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """The artifact's outputs as the workload has them; `shapes` are the workload's. Raises ValueError."""
    return [_outward(*each) for each in in_step(outputs, edges, shapes)]


def in_real_numbers(array: Array, scale: float, zero_point: int) -> Array:
    """What the numbers of a quantised tensor stand for, see ``edges.Edge``."""
    real: Array = (array.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return real


def without_steps(
    outputs: Sequence[Array], reference: Sequence[Array], steps: Sequence[tuple[float, int]]
) -> tuple[list[Array], list[Array]]:
    """Outputs and reference of a file whose tensors are quantised, as real numbers; arrays that are not stay.

    steps: scale and zero point of each. Codes by themselves are no measure: their zero point would count as a value,
    and hide what is wrong. A difference of one step is no difference, since kernels round in their own ways, and of
    an output of a few steps it would be most.
    """
    if [each.shape for each in outputs] != [each.shape for each in reference] or len(steps) != len(outputs):
        return list(outputs), list(reference)  # the gate says what is wrong with them
    both = [_real(*each) for each in in_step(outputs, reference, steps)]
    return [output for output, _ in both], [expected for _, expected in both]


def _real(output: Array, expected: Array, step: tuple[float, int]) -> tuple[Array, Array]:
    if not step[0] or output.dtype.kind not in "iu" or expected.dtype.kind not in "iu":
        return output, expected
    codes, wanted = output.astype(np.int64), expected.astype(np.int64)
    codes -= np.clip(codes - wanted, -1, 1)
    return in_real_numbers(codes, *step), in_real_numbers(wanted, *step)


def _inward(array: Array, edge: Edge) -> Array:
    turned = array.transpose(edge.axes) if edge.axes else array
    shaped = turned.reshape(edge.shape) if edge.shape else turned
    if edge.scale:
        limits = np.iinfo(edge.dtype)
        shaped = np.clip(np.rint(shaped / np.float32(edge.scale)) + edge.zero_point, limits.min, limits.max)
    return np.asarray(shaped, dtype=edge.dtype, order="C")  # keeps a scalar one, which ascontiguousarray does not


def _outward(array: Array, edge: Edge, shape: tuple[int, ...]) -> Array:
    if edge.scale:
        array = in_real_numbers(array, edge.scale, edge.zero_point)
    if array.size != math.prod(shape):
        return array  # the gate says what is wrong with it
    if not edge.axes:
        return array.reshape(shape)
    turned = array.reshape([shape[axis] for axis in edge.axes])
    return turned.transpose(np.argsort(edge.axes))
