"""The NVIDIA driver of this host: whether it sees a GPU, and what a launch on one must reach."""

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchfarm_core.confine import Limits
from benchfarm_engines.engine import EngineUnavailable

CUDA_ENGINES: Final = frozenset({"onnxruntime_cuda", "torch_cuda"})

_LIBRARY: Final = "libcuda.so.1"
_DRIVER_FACTS: Final = ("/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys/module")
"""What the driver's library reads to find its devices."""


def require_gpu(library: str = _LIBRARY) -> None:
    """Does nothing where the driver answers and sees a GPU. Raises EngineUnavailable with the reason for people."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise EngineUnavailable(f"no NVIDIA driver: {library} is not found") from error
    count = ctypes.c_int(0)
    try:
        answers = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except AttributeError as error:
        raise EngineUnavailable(f"{library} is no NVIDIA driver") from error
    if answers != 0:
        raise EngineUnavailable(f"the NVIDIA driver does not start: CUDA error {answers}")
    if count.value == 0:
        raise EngineUnavailable("the NVIDIA driver sees no GPU")


def within_reach(limits: Limits, engine: str) -> Limits:
    """The limits of a launch of that engine: the driver's files stay open for one that computes on an NVIDIA GPU."""
    if engine not in CUDA_ENGINES:
        return limits
    devices = tuple(str(path) for path in sorted(Path("/dev").glob("nvidia*")))
    return replace(limits, readable=(*limits.readable, *_DRIVER_FACTS), devices=(*limits.devices, *devices))
