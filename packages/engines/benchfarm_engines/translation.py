"""Translation between the workload's tensors and the artifact's, as its edges say; never in the timed part."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchfarm_engines.edges import Edge

Array = np.ndarray[Any, Any]


def to_artifact(arrays: Mapping[str, Array], edges: Sequence[Edge]) -> dict[str, Array]:
    """The workload's inputs as the artifact takes them, by the artifact's names; `arrays` in the workload's order.

    Raises ValueError where the edges do not fit the arrays.
    """
    return {edge.name: _inward(array, edge) for array, edge in zip(arrays.values(), edges, strict=True)}


def to_workload(outputs: Sequence[Array], edges: Sequence[Edge], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """The artifact's outputs as the workload has them; `shapes` are the workload's. Raises ValueError."""
    return [_outward(*each) for each in zip(outputs, edges, shapes, strict=True)]


def _inward(array: Array, edge: Edge) -> Array:
    turned = array.transpose(edge.axes) if edge.axes else array
    shaped = turned.reshape(edge.shape) if edge.shape else turned
    if edge.scale:
        limits = np.iinfo(edge.dtype)
        shaped = np.clip(np.rint(shaped / np.float32(edge.scale)) + edge.zero_point, limits.min, limits.max)
    return np.asarray(shaped, dtype=edge.dtype, order="C")  # keeps a scalar one, which ascontiguousarray does not


def _outward(array: Array, edge: Edge, shape: tuple[int, ...]) -> Array:
    if edge.scale:
        array = (array.astype(np.float32) - np.float32(edge.zero_point)) * np.float32(edge.scale)
    if array.size != math.prod(shape):
        return array  # the gate says what is wrong with it
    if not edge.axes:
        return array.reshape(shape)
    turned = array.reshape([shape[axis] for axis in edge.axes])
    return turned.transpose(np.argsort(edge.axes))
