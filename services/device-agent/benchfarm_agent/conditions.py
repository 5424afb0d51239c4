"""Whether a host is quiet and cool enough to measure, and what its sensors say. Cheap when it is idle."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Final

from benchfarm_agent.boards.interface import Conditions
from benchfarm_agent.boards.linux_facts import SENSOR_PATTERNS, Sensors, sensors_of
from benchfarm_agent.boards.sensors import BoardConditions, sensor_files, told_by

LOOKS: Final = 5
BETWEEN_LOOKS_S: Final = 0.003
"""A board that is quiet passes after 12 ms; one look alone would see any passing wake-up."""


async def why_busy(limit: float, root: Path = Path("/")) -> str | None:
    """Why the host is too busy, or None: on average more other threads than `limit` want to run.

    Lesser disturbances are not judged here: the contention witness sees them block by block.
    """
    looks = [runnable_threads(root)]
    for _ in range(LOOKS - 1):
        await asyncio.sleep(BETWEEN_LOOKS_S)
        looks.append(runnable_threads(root))
    foreign = mean(looks) - 1  # the look itself runs
    return f"{foreign:.1f} other threads want to run, more than {limit:g}" if foreign > limit else None


def runnable_threads(root: Path = Path("/")) -> int:
    """Threads of the whole system that run or want to, the caller included."""
    running, _, _ = (root / "proc/loadavg").read_text().split()[3].partition("/")
    return int(running)


def read_conditions(cores: Iterable[int], root: Path = Path("/")) -> Conditions:
    """Load, clock, governor, temperature and throttling as they are now, for the given cores."""
    cpu = root / "sys/devices/system/cpu"
    cores = tuple(cores)
    freqs = [_number(cpu / f"cpu{core}/cpufreq/scaling_cur_freq") for core in cores]
    throttles = [_number(cpu / f"cpu{core}/thermal_throttle/core_throttle_count") for core in cores]
    governor = _text(cpu / f"cpu{cores[0]}/cpufreq/scaling_governor") if cores else None
    known_throttles = [count for count in throttles if count is not None]
    return Conditions(
        load_1m=os.getloadavg()[0],
        freq_khz=tuple(freq for freq in freqs if freq is not None),
        governor=governor,
        temperature_c=temperature_c(root),
        throttle_count=sum(known_throttles) if known_throttles else None,
    )


class HostSensors:
    """What tells this host's heat and power, looked for once and read as any Linux board's."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._sensors: Sensors | None = None

    def read(self) -> BoardConditions:
        """The conditions now; what there is no sensor for is None."""
        if self._sensors is None:
            self._sensors = self._found()
        return told_by({path: self._text(path) for path in sensor_files(self._sensors)}, self._sensors)

    def _found(self) -> Sensors:
        below = (path for pattern in SENSOR_PATTERNS for path in self._root.glob(pattern.lstrip("/")))
        paths = sorted(f"/{path.relative_to(self._root)}" for path in below)
        return sensors_of(paths, lambda name: self._text(name) or "")

    def _text(self, path: str) -> str | None:
        return _text(self._root / path.lstrip("/"))


def temperature_c(root: Path = Path("/")) -> float | None:
    """The processor's hottest sensor, or None without one that can be believed."""
    return HostSensors(root).read().temperature_c


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.lstrip("-").isdigit() else None
