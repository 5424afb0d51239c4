"""Whether this host has an NVIDIA GPU, asked of the driver's own library before anything large is imported."""

import ctypes
from typing import Final

from benchfarm_engines.engine import EngineUnavailable

_LIBRARY: Final = "libcuda.so.1"


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
