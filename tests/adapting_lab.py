"""An adaptation played through in one process: real Postgres, the worker's own steps, and a board whose times follow
from what it is asked to run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from benchfarm_core.adapting import AdaptationRequest, AdaptationState, AdaptationView
from benchfarm_core.measurements import Purpose
from benchfarm_core.workloads import AnyWorkload, ArchitectureWorkload, KernelWorkload
from benchfarm_store import adaptation_items, adaptations, database
from benchfarm_store.adaptation_items import Ask, AskedWorkload, Wanted, Whose
from benchfarm_store.adaptations import Adaptation
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import space

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
WIDE = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"
START_NS = 4_000
"""Of every kernel and network alone."""


def time_ns(workload: AnyWorkload, slower: float = 1.0) -> int:
    """What a board takes that adds operations and bytes up: 20 GFLOPS and 10 GB/s."""
    if isinstance(workload, KernelWorkload):
        cost = kernel_type(workload.type).cost_rule(workload.config)
    else:
        assert isinstance(workload, ArchitectureWorkload)
        cost = space(workload.space).cost(workload)
    return round(slower * (START_NS + cost.flops / 20 + cost.total_bytes / 10))


class AdaptingLab:
    """`farm`, `by` and `agent` are those of tests/store."""

    def __init__(self, farm: Any, by: Any, agent: Any, *, slower: float = 1.0) -> None:
        self.farm, self.by, self.agent, self.slower = farm, by, agent, slower
        self.planted: Callable[[AnyWorkload], float] = lambda _: 1.0
        """So many times as long a workload takes."""
        self.pace: tuple[float, float] | None = None
        """Seconds of every lease, and of each second that is expected of it, to the last one; None: what this machine
        takes to play them, which beside load is a budget's worth."""

    def start(self, platform: str = KEY, **fields: Any) -> AdaptationView:
        with self.farm.transaction() as tx:
            return adaptations.start(tx, platform, AdaptationRequest.model_validate(fields), by=self.by)

    def view(self, adaptation_id: str) -> AdaptationView:
        with self.farm.transaction() as tx:
            return adaptations.get_adaptation(tx, adaptation_id)

    def claimed(self, adaptation_id: str) -> Adaptation:
        """Claim it, and give the claim back at once: what a step would see."""
        with self.farm.transaction() as tx:
            found = adaptations.claim(tx, adaptation_id)
            assert found is not None
            adaptations.release(tx, found)
        return found

    def whose(self, adaptation_id: str) -> Whose:
        one = self.claimed(adaptation_id)
        return Whose(one.id, one.account_id, one.platform_id, one.platform)

    def want(
        self,
        adaptation_id: str,
        asks: Iterable[Ask],
        *,
        limit_s: float = 1e9,
        purpose: Purpose = Purpose.TRAIN,
        round_no: int = 1,
        one_s: float = float("inf"),
    ) -> Wanted:
        whose = self.whose(adaptation_id)
        fixed: dict[str, Any] = {"purpose": purpose, "round_no": round_no, "one_s": one_s}
        with self.farm.transaction() as tx:
            asked = adaptation_items.costed(asks, whose.platform)
            return adaptation_items.want(tx, whose, asked, limit_s=limit_s, **fixed)

    def declare(self, adaptation_id: str, drawn: Iterable[AskedWorkload], count: int) -> int:
        whose = self.whose(adaptation_id)
        with self.farm.transaction() as tx:
            asked = adaptation_items.costed(map(Ask, drawn), whose.platform)
            return adaptation_items.declare_holdouts(tx, whose, asked, count)

    def move(self, adaptation_id: str, *states: str) -> None:
        for state in states:
            one = self.claimed(adaptation_id)
            with self.farm.transaction() as tx:
                assert adaptations.hold(tx, one)
                adaptations.move(tx, one, AdaptationState(state))

    def open_items(self, adaptation_id: str, *, holdouts: bool = False) -> int:
        with self.farm.transaction() as tx:
            return adaptation_items.open_items(tx, adaptation_id, holdouts=holdouts)

    def measure(self, ok: Any, *, failing: str | None = None, failure: Any = None) -> int:
        """Work until nothing is offered; how many measurements that were. Kernels of the type `failing` fail."""
        count = 0
        while (grant := self.agent.take()) is not None:
            self.agent.start(grant)
            found = [
                failure(item.measurement_id, "unsupported_operator")
                if failing is not None and getattr(item.workload, "type", None) == failing
                else ok(item.measurement_id, run_ns=self._run_ns(item.workload))
                for item in grant.items
            ]
            with self._lasting(sum(item.expected_s for item in grant.items)):
                self.agent.send(grant, *found)
                self.agent.release(grant)
            count += len(grant.items)
        return count

    def _run_ns(self, workload: AnyWorkload) -> int:
        return round(self.planted(workload) * time_ns(workload, self.slower))

    @contextmanager
    def _lasting(self, expected_s: float) -> Iterator[None]:
        """The lease that goes on began as long ago as the pace says, and meanwhile the clock stands."""
        if self.pace is None:
            yield
            return
        each_s, per_s = self.pace
        now: datetime = self.farm.scalar(_LASTED, s=each_s + per_s * expected_s)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(database, "_NOW", f"SELECT CAST('{now.isoformat()}' AS timestamptz)")
            yield


_LASTED = """
    UPDATE leases SET accepted_at = clock_timestamp() - make_interval(secs => :s) WHERE ended_at IS NULL
    RETURNING accepted_at + make_interval(secs => :s)
"""
