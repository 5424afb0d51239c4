"""What a launch's profiler adds to each operator, seen on the canary: its plain and its profiled runs in turn."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Final, cast

from benchfarm_engines.engine import Engine, OpenRequest, ProfilingSession, Session
from benchfarm_engines.profile_cost import cost_per_operator_ns

_RUNS: Final = 120
_WARMUP_RUNS: Final = 5


class OperatorCost:
    """Measured when first asked, once in a launch; it is a property of the engine and the machine, not of a model."""

    def __init__(self, engine: Engine, opening: OpenRequest, plain: Session) -> None:
        """opening: how `plain`, the canary's session, was opened."""
        self._engine = engine
        self._opening = opening
        self._plain = plain
        self._ns: float | None = None

    def ns(self) -> float:
        """In ns of one operator's run, 0 where the profiler adds nothing. Raises EngineFailure.

        0 too of engines that tell means only: those hold every delay, so no floor can be told from them.
        """
        if self._ns is None:
            self._ns = self._measured_ns()
        return self._ns

    def _measured_ns(self) -> float:
        session = cast(ProfilingSession, self._engine.open(replace(self._opening, profiled=True)))
        try:
            if session.tells_means:
                return 0.0
            for _ in range(_WARMUP_RUNS):
                session.run()
            plain_ns: list[int] = []
            inferences = session.profile(_RUNS, lambda: self._add_plain_run(plain_ns))
        finally:
            session.close()
        # of pairs: the fastest of each kind may be of two moments in which the processor ran at two clocks
        behind_ns = plain_ns[1:]  # the first ran before any other
        return max(0.0, median(cost_per_operator_ns(nodes, behind_ns[at]) for at, nodes in enumerate(inferences)))

    def _add_plain_run(self, times_ns: list[int]) -> bool:
        begun = time.perf_counter_ns()
        self._plain.run()
        times_ns.append(time.perf_counter_ns() - begun)
        return False
