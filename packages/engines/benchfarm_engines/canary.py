"""The canaries: fixed work that runs beside the measured one and tells how fast the machine is just then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from benchfarm_engines.witness import DELAY_FLOOR_NS, Witness

CLOCK: Final = "sgemm"
"""The canary that stands for the clock."""
CLOCK_LIMIT: Final = 1.2
"""It was quiet when it took at most so many times the fastest run that is known: as `core` has it of blocks."""
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


class Wait(NamedTuple):
    """How long one may wait for a quiet canary: `most_ns` where the launch has such patience left, else `own_ns`."""

    own_ns: int
    most_ns: int


class Canaries:
    """Takes samples of every canary and adds up the time that this costs.

    fastest_ns: what the clock's canary is known to take on this board at its fastest; None where nobody knows yet.
    patience_ns: for so long together, whoever asks, the launch waits for a quiet one; when nothing is left of it, each
    caller still has its own. spent_ns has all waits in it, waited_ns is them alone.
    """

    def __init__(
        self,
        runs: Mapping[str, Callable[[], object]],
        witness: Witness,
        *,
        fastest_ns: int | None = None,
        patience_ns: int = 0,
    ) -> None:
        self._runs = runs
        self._witness = witness
        self._fastest_ns = fastest_ns
        self._patience_ns = patience_ns
        self.spent_ns = 0
        self.waited_ns = 0

    def sample(self, samples: CanarySamples, block_index: int, wait: Wait | None = None) -> None:
        """Adds three runs of each canary to `samples`: fewer, or none, where they were disturbed to the last try.

        One run goes before untimed: the measured work has pushed the canary out of the caches. wait: how long the
        clock's canary, where it was loud, is waited for before the others run.
        """
        begun = time.perf_counter_ns()
        for name, run in self._runs.items():
            run()
            self._take(name, samples, block_index, _RUNS)
            if name == CLOCK:
                self._wait(samples, block_index, wait)
        self.spent_ns += time.perf_counter_ns() - begun

    def sample_clock(self, samples: CanarySamples, block_index: int, wait: Wait | None = None) -> None:
        """Adds one run of the clock's canary alone: it stands between two blocks and must be short. Without it, no run
        at all. wait: as `sample` has it; the quiet run is then added behind the loud one."""
        begun = time.perf_counter_ns()
        self._runs[CLOCK]()
        self._take(CLOCK, samples, block_index, 1)
        self._wait(samples, block_index, wait)
        self.spent_ns += time.perf_counter_ns() - begun

    def _take(self, name: str, samples: CanarySamples, block_index: int, count: int) -> None:
        times_ns = [time_ns for _ in range(count) if (time_ns := self._undisturbed(self._runs[name])) is not None]
        samples.setdefault(name, []).extend((block_index, time_ns) for time_ns in times_ns)
        if name == CLOCK and times_ns:
            self._fastest_ns = min(self._fastest_ns or times_ns[0], *times_ns)

    def _wait(self, samples: CanarySamples, block_index: int, wait: Wait | None) -> None:
        """Where its latest run here was loud, runs the clock's canary until it is quiet or patience ends.

        Where nothing undisturbed ran behind blocks, nobody knows what these met in the end, and what is quiet later
        must not say it: then nothing is added, and the rows on both sides count as one that lost its point.
        """
        if wait is None or self._is_quiet(samples[CLOCK], block_index):
            return
        is_told = block_index == 0 or any(place == block_index for place, _ in samples[CLOCK][-1:])
        begun = now = time.perf_counter_ns()
        end = begun + min(wait.most_ns, max(wait.own_ns, self._patience_ns))
        while now < end:
            found: CanarySamples = {}
            self._take(CLOCK, found, block_index, 1)
            now = time.perf_counter_ns()
            if self._is_quiet(found[CLOCK], block_index):
                samples[CLOCK] += found[CLOCK] if is_told else []
                break
        self.waited_ns += now - begun
        self._patience_ns -= now - begun

    def _is_quiet(self, taken: Sequence[tuple[int, int]], block_index: int) -> bool:
        """Whether the latest run stands here and was quiet. What the witness saw disturbed was not."""
        place, time_ns = taken[-1] if taken else (None, 0)
        return place == block_index and time_ns <= CLOCK_LIMIT * (self._fastest_ns or 0)

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
