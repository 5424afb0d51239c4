"""Takes a core's own caches away from the measured work between two runs.

A carrier of one kernel is so small that its weights would stay in the caches from one run to the next. In a model the
weights of all other layers come in between, and a kernel finds its own ones in the memory that cores share. So other
memory is read before every run, untimed.
"""

import os
from collections.abc import Sequence
from typing import Final

import numpy as np

DISPLACED_BYTES: Final = 8 * 1024**2
"""More than the caches that a core has for itself, of any processor that runs inference; about a millisecond."""


class Displacement:
    """Called on the thread that runs the sessions; every core that they compute on loses what it holds."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = tuple(cores)
        self._memory = np.ones(DISPLACED_BYTES // 8, dtype=np.int64)

    def __call__(self) -> None:
        """Reads the memory on each core in turn, on the first one last: there this thread stays."""
        if len(self._cores) > 1:
            for core in self._cores[:0:-1]:
                os.sched_setaffinity(0, {core})  # of this thread alone; the engine's own stay where they are
                self._memory.sum()
            os.sched_setaffinity(0, self._cores[:1])
        self._memory.sum()
        if len(self._cores) > 1:
            os.sched_setaffinity(0, self._cores)
