"""What happened to each single run of a profile: the witness is asked between them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from benchfarm_engines.witness import DELAY_FLOOR_NS, DELAY_SHARE, Reading, Witness


class Step(NamedTuple):
    """What happened to one run, or to several as one."""

    delay_ns: int
    switches: int
    disturbed: bool


@dataclass
class RunWatch:
    """Its `mark` is for ``ProfilingSession.profile``; `steps` has one for each run then."""

    witness: Witness
    steps: list[Step] = field(default_factory=list)
    undisturbed: int = 0
    _before: tuple[int, Reading] | None = None

    def mark(self) -> bool:
        """Before the first run and after each; never ends the profile."""
        ended_ns, reading = time.perf_counter_ns(), self.witness.read()
        if self._before is not None:
            self._add(ended_ns - self._before[0], self._before[1], reading)
        self._before = time.perf_counter_ns(), reading
        return False

    def _add(self, run_ns: int, before: Reading, after: Reading) -> None:
        delay_ns, switches = max(0, after.delay_ns - before.delay_ns), max(0, after.switches - before.switches)
        disturbed = switches > 0 or delay_ns > max(DELAY_FLOOR_NS, DELAY_SHARE * run_ns)
        self.steps.append(Step(delay_ns, switches, disturbed))
        self.undisturbed += not disturbed

    def whole(self) -> Step:
        """All runs as one."""
        delay_ns, switches = sum(step.delay_ns for step in self.steps), sum(step.switches for step in self.steps)
        return Step(delay_ns, switches, any(step.disturbed for step in self.steps))
