"""What the first NVIDIA GPU is and does, by NVML: evidence beside a number, never part of its identity.

The management library comes with the driver; it is called through ctypes, so no package is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

_LIBRARY: Final = "libnvidia-ml.so.1"
_NAME_BYTES: Final = 96
_SM_CLOCK, _MEMORY_CLOCK = 1, 2
"""NVML's numbers of the clocks of the multiprocessors and of the memory; both are told in MHz."""
_ON_THE_CHIP: Final = 0
_KHZ_PER_MHZ: Final = 1000


def read_gpu(library: str = _LIBRARY) -> dict[str, Any] | None:
    """name, driver, sm_clock_khz, memory_clock_khz, power_mw, temperature_c, throttle_reasons (NVML's bits).

    None without NVML or without a GPU; a single fact that the GPU does not tell is None.
    """
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):  # no driver, or no library of NVIDIA's
        return None
    try:
        gpu = ctypes.c_void_p()
        return _facts(nvml, gpu) if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0 else None
    finally:
        nvml.nvmlShutdown()


def _facts(nvml: Any, gpu: ctypes.c_void_p) -> dict[str, Any]:
    return {
        "name": _text(lambda buffer: nvml.nvmlDeviceGetName(gpu, buffer, _NAME_BYTES)),
        "driver": _text(lambda buffer: nvml.nvmlSystemGetDriverVersion(buffer, _NAME_BYTES)),
        "sm_clock_khz": _clock_khz(nvml, gpu, _SM_CLOCK),
        "memory_clock_khz": _clock_khz(nvml, gpu, _MEMORY_CLOCK),
        "power_mw": _number(lambda value: nvml.nvmlDeviceGetPowerUsage(gpu, value), ctypes.c_uint),
        "temperature_c": _number(lambda value: nvml.nvmlDeviceGetTemperature(gpu, _ON_THE_CHIP, value), ctypes.c_uint),
        "throttle_reasons": _number(
            lambda value: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu, value), ctypes.c_ulonglong
        ),
    }


def _clock_khz(nvml: Any, gpu: ctypes.c_void_p, clock: int) -> int | None:
    mhz = _number(lambda value: nvml.nvmlDeviceGetClockInfo(gpu, clock, value), ctypes.c_uint)
    return None if mhz is None else mhz * _KHZ_PER_MHZ


def _number(ask: Callable[[Any], int], kind: type[ctypes.c_uint] | type[ctypes.c_ulonglong]) -> int | None:
    value = kind()
    try:
        return int(value.value) if ask(ctypes.byref(value)) == 0 else None
    except AttributeError:  # a function that this driver does not have
        return None


def _text(ask: Callable[[Any], int]) -> str | None:
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    return buffer.value.decode("utf-8", "replace") if ask(buffer) == 0 else None
