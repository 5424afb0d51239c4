"""The canaries: fixed work that runs beside the measured one and tells how fast the machine is just then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from benchfarm_engines.witness import DELAY_FLOOR_NS, Witness

_RUNS: Final = 3
_TRIES_PER_RUN: Final = 3

CanarySamples = dict[str, list[tuple[int, int]]]
"""Per canary, pairs (number of blocks timed before it, ns of one undisturbed run)."""


def sgemm(n: int, seed: int) -> Callable[[], object]:
    """An n x n x n product of seeded fp32 matrices on one thread: compute-bound."""
    generator = np.random.default_rng(seed)
    left = generator.standard_normal((n, n), dtype=np.float32)
    right = generator.standard_normal((n, n), dtype=np.float32)
    product = np.empty((n, n), dtype=np.float32)
    return lambda: np.matmul(left, right, out=product)


class Canaries:
    """Takes samples of every canary and adds up the time that this costs."""

    def __init__(self, runs: Mapping[str, Callable[[], object]], witness: Witness) -> None:
        self._runs = runs
        self._witness = witness
        self.spent_ns = 0

    def sample(self, samples: CanarySamples, block_index: int) -> None:
        """Adds three runs of each canary to `samples`: fewer, or none, where they were disturbed to the last try.

        One run goes before untimed: the measured work has pushed the canary out of the caches.
        """
        begun = time.perf_counter_ns()
        for name, run in self._runs.items():
            run()
            taken = samples.setdefault(name, [])
            times_ns = (self._undisturbed(run) for _ in range(_RUNS))
            taken.extend((block_index, time_ns) for time_ns in times_ns if time_ns is not None)
        self.spent_ns += time.perf_counter_ns() - begun

    def _undisturbed(self, run: Callable[[], object]) -> int | None:
        """Time of one run in ns; taken again, at most twice, when the witness saw it wait for a processor.

        A canary has a few runs where the measured work has hundreds, so it is not left to a later rule to drop
        some. None when every try was disturbed. What decides is the witness alone, never the time.
        """
        for _ in range(_TRIES_PER_RUN):
            before = self._witness.read()
            begun = time.perf_counter_ns()
            run()
            elapsed_ns = time.perf_counter_ns() - begun
            after = self._witness.read()
            if after.switches == before.switches and after.delay_ns - before.delay_ns <= DELAY_FLOOR_NS:
                return elapsed_ns
        return None
