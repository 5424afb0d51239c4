"""LiteRT's own `benchmark_model`, where an operator has one for a board: its command, and what its words mean.

No board uses it yet. It tells statistics instead of samples, runs no canary, sees no neighbour and compares no output:
its numbers could be neither gated nor graded, and a platform would have to say so. Each process is one block of `runs`
inferences, so that several of them make samples. The words are those of TensorFlow's sources
(`benchmark_model.cc` in `lite/tools/benchmark`, `Stat` in `stats_calculator.h`) and of outputs that users published;
**no binary was run here**.
"""

import re
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import TransientDeviceError

_COUNTED: Final = re.compile(r"(?:^|: )count=(\d+)(?: first=\S+)? curr=([\d.e+]+)(?:.*? avg=([\d.e+]+))?", re.MULTILINE)
_TOLD: Final = re.compile(r"Inference timings in us: Init: ([\d.e+]+), First inference: ([\d.e+]+), ")
_PARTS: Final = 2
"""Counted are the warm-up and then the runs; what a profiler counts comes after them."""


@dataclass(frozen=True)
class Timed:
    """One process: its inferences in order, without the warm-up. The mean has six digits."""

    runs: int
    mean_us: float
    init_us: float
    first_us: float

    @property
    def block_ns(self) -> int:
        """All of its inferences together."""
        return round(self.runs * self.mean_us * 1e3)


def command(binary: str, graph: str, *, threads: int, runs: int, warmup_s: float) -> list[str]:
    """One process with exactly so many inferences; binary and graph are paths on the board."""
    given = {
        "graph": graph,
        "num_threads": threads,
        "num_runs": runs,
        "min_secs": 0,
        "warmup_runs": 1,
        "warmup_min_secs": f"{warmup_s:g}",
    }
    return [binary, *(f"--{name}={value}" for name, value in given.items())]


def read_benchmark_model(text: str) -> Timed:
    """What one process said, on whichever stream. Raises TransientDeviceError where it told no timings."""
    counted, told = _COUNTED.findall(text)[:_PARTS], _TOLD.search(text)
    if len(counted) < _PARTS or told is None:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        raise TransientDeviceError(f"benchmark_model told no timings; it said: {last[:200]}")
    count, only, mean = counted[-1]  # where all took the same there is no mean
    return Timed(int(count), float(mean or only), init_us=float(told[1]), first_us=float(told[2]))
