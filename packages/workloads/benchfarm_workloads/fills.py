"""The numbers that a filled input holds: the same in the reference and on every board.

numpy's PCG64 from the fill's seed: standard normal numbers drawn as float32, or integers in [0, below) drawn
as int64, then converted to the input's type.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchfarm_core.workloads import InputSpec, IntsFill


def filled(spec: InputSpec) -> NDArray[Any]:
    """An array of the input's type and shape."""
    rng = np.random.default_rng(spec.fill.seed)
    if isinstance(spec.fill, IntsFill):
        return rng.integers(0, spec.fill.below, size=spec.shape, dtype=np.int64).astype(spec.dtype)
    return rng.standard_normal(spec.shape, dtype=np.float32).astype(spec.dtype)
