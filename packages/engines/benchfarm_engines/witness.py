"""The contention witness: how long threads of this process waited for a processor, and were pushed off one."""

import os
import resource
import time
from statistics import median
from typing import Final, NamedTuple

from benchfarm_engines.task_threads import TASK_FOLDER, thread_ids

# As in benchfarm_core.quality, which this side does not import; a test holds the two together.
DELAY_SHARE: Final = 0.02
DELAY_FLOOR_NS: Final = 20_000
"""Shorter waits are the witness' own noise, wake-ups of pool threads."""
REWARM_BELOW_NS: Final = 5_000_000
"""What runs longer is not warmed up again after something else ran: that displaces a megabyte, whose return a run of
such a length does not feel."""
_COST_READINGS: Final = 51


class Reading(NamedTuple):
    """Totals since the threads began: run-queue delay in ns, involuntary context switches."""

    delay_ns: int
    switches: int


class WitnessUnavailable(Exception):
    """This kernel keeps no run-queue statistics."""


class Witness:
    """Reads the totals of all threads; what lies between two readings happened to the block between them.

    Two readings can be compared only when ``refresh`` was not called between them.
    """

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self.refresh()
        if not self._files:
            raise WitnessUnavailable("the kernel keeps no run-queue statistics (schedstat)")

    def refresh(self) -> None:
        """Takes in threads that began since and lets go of those that ended."""
        living = thread_ids()
        for thread in self._files.keys() - living:
            os.close(self._files.pop(thread))
        for thread in living - self._files.keys():
            try:
                self._files[thread] = os.open(f"{TASK_FOLDER}/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it ended already

    def read(self) -> Reading:
        """The totals now; a few microseconds per thread."""
        delay_ns = 0
        for file in self._files.values():
            try:
                delay_ns += int(os.pread(file, 64, 0).split()[1])
            except OSError:
                continue  # the thread ended; its past counts no more, so the difference only shrinks
        return Reading(delay_ns, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)

    def cost_ns(self) -> int:
        """Median time of one reading."""
        times: list[int] = []
        for _ in range(_COST_READINGS):
            begun = time.perf_counter_ns()
            self.read()
            times.append(time.perf_counter_ns() - begun)
        return int(median(times))

    def close(self) -> None:
        """Closes the files."""
        while self._files:
            os.close(self._files.popitem()[1])
