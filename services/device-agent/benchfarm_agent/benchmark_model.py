"""LiteRT's own `benchmark_model`, where an operator has one for a board: its command, and what its words mean.

It tells statistics instead of samples: each process is one block of inferences, so that several of them make samples.
The words are those of TensorFlow's sources (`benchmark_model.cc` and `benchmark_tflite_model.cc` in
`lite/tools/benchmark`, `Stat` in `stats_calculator.h`) and of outputs that users published; **no binary was run here**.
"""

import re
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import TransientDeviceError

HELP_WORDS: Final = ("num_runs", "warmup_min_secs")
"""Names of flags that it lists when it is asked for help."""
_COUNTED: Final = re.compile(
    r"^(?:\w+: )?count=(\d+)(?: first=\S+)? curr=([\d.e+]+)(?:.*? avg=([\d.e+]+))?", re.MULTILINE
)
_TOLD: Final = re.compile(r"Inference timings in us: Init: ([\d.e+]+), First inference: ([\d.e+]+), ")
_PARTS: Final = 2
"""Counted are the warm-up and then the runs; what a profiler counts comes after them."""


@dataclass(frozen=True)
class Timed:
    """One process: its inferences in order, without the warm-up. The mean has six digits, each time whole us."""

    runs: int
    mean_us: float
    init_us: float
    first_us: float
    warmup_runs: int

    @property
    def block_ns(self) -> int:
        """All of its inferences together."""
        return round(self.runs * self.mean_us * 1e3)


def command(binary: str, *, threads: int, warmup_s: float) -> list[str]:
    """One process, less its file (`--graph`), its `--num_runs` and `--min_secs`; binary is a path on the board."""
    given = {"num_threads": threads, "use_xnnpack": "true", "warmup_runs": 1, "warmup_min_secs": f"{warmup_s:g}"}
    return [binary, *(f"--{name}={value}" for name, value in given.items())]


def read_benchmark_model(text: str) -> Timed:
    """What one process said, on whichever stream. Raises TransientDeviceError where it told no timings."""
    counted, told = _COUNTED.findall(text)[:_PARTS], _TOLD.search(text)
    if len(counted) < _PARTS or told is None:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        raise TransientDeviceError(f"benchmark_model told no timings; it said: {last[:200]}")
    (warmup_runs, _, _), (count, only, mean) = counted  # where all took the same there is no mean
    init_us, first_us = float(told[1]), float(told[2])
    return Timed(int(count), float(mean or only), init_us=init_us, first_us=first_us, warmup_runs=int(warmup_runs))
