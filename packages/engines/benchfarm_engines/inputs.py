"""Model inputs from their specifications: the same numbers in the reference and on every board.

The rule is that of ``benchfarm_workloads.fills``, which the board side does not import.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchfarm_engines.launch_request import InputSpec

_ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector: whether a buffer happens to be aligned must not change a number."""


def make_inputs(specs: Sequence[InputSpec]) -> dict[str, np.ndarray[Any, Any]]:
    """Aligned arrays by input name."""
    return {spec.name: aligned(_filled(spec)) for spec in specs}


def _filled(spec: InputSpec) -> np.ndarray[Any, Any]:
    fill: Mapping[str, Any] = spec.fill
    generator = np.random.default_rng(fill["seed"])
    if fill["kind"] == "ints":
        return generator.integers(0, fill["below"], size=spec.shape, dtype=np.int64).astype(spec.dtype)
    return generator.standard_normal(spec.shape, dtype=np.float32).astype(spec.dtype)


def aligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy on the bounds of cache lines."""
    raw = np.empty(array.nbytes + _ALIGNMENT_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    copy: np.ndarray[Any, Any] = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
