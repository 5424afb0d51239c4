"""Model inputs from their specifications: the same numbers in the reference and on every board.

The rule is that of ``benchfarm_workloads.fills``, which the board side does not import.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.launch_request import InputSpec

_ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector: whether a buffer happens to be aligned must not change a number."""


def make_inputs(specs: Sequence[InputSpec]) -> dict[str, np.ndarray[Any, Any]]:
    """Aligned arrays by input name. Raises EngineFailure (invalid_workload) for a fill that does not fit."""
    return {spec.name: _aligned(_filled(spec)) for spec in specs}


def _filled(spec: InputSpec) -> np.ndarray[Any, Any]:
    fill: Mapping[str, Any] = spec.fill
    dtype = np.dtype(spec.dtype)
    if fill["kind"] == "normal":
        return np.random.default_rng(fill["seed"]).standard_normal(spec.shape, dtype=np.float32).astype(dtype)
    if fill["kind"] == "ints":
        generator = np.random.default_rng(fill["seed"])
        return generator.integers(0, fill["below"], size=spec.shape, dtype=np.int64).astype(dtype)
    return _from_file(spec, Path(fill["path"]), dtype)


def _from_file(spec: InputSpec, path: Path, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    try:
        loaded: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EngineFailure(FailureCode.INVALID_WORKLOAD, f"input {spec.name}: no readable .npy file") from error
    if not isinstance(loaded, np.ndarray) or loaded.shape != spec.shape or loaded.dtype != dtype:
        raise EngineFailure(
            FailureCode.INVALID_WORKLOAD, f"input {spec.name}: the file is not {spec.dtype} {list(spec.shape)}"
        )
    return loaded


def _aligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raw = np.empty(array.nbytes + _ALIGNMENT_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    copy: np.ndarray[Any, Any] = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
