"""Model inputs from their specifications: the same numbers in the reference and on every board.

The rule is that of ``benchfarm_workloads.fills``, which the board side does not import.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchfarm_engines.launch_request import InputSpec

_ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector: whether a buffer happens to be aligned must not change a number."""


def make_inputs(specs: Sequence[InputSpec]) -> dict[str, np.ndarray[Any, Any]]:
    """Aligned arrays by input name."""
    return {spec.name: _filled(spec) for spec in specs}


def _filled(spec: InputSpec) -> np.ndarray[Any, Any]:
    fill: Mapping[str, Any] = spec.fill
    generator = np.random.default_rng(fill["seed"])
    if fill["kind"] == "ints":
        return aligned(generator.integers(0, fill["below"], size=spec.shape, dtype=np.int64).astype(spec.dtype))
    drawn = _empty(spec.shape, np.dtype(np.float32))  # drawn into its place: a copy costs as much as drawing
    generator.standard_normal(dtype=np.float32, out=drawn)
    return drawn if drawn.dtype == spec.dtype else aligned(drawn.astype(spec.dtype))


def aligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy on the bounds of cache lines."""
    copy = _empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _empty(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    size_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(size_bytes + _ALIGNMENT_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    room: np.ndarray[Any, Any] = raw[start : start + size_bytes].view(dtype).reshape(shape)
    return room
