"""The timing loop, with real clocks and a workload of known length."""

import time
from itertools import pairwise
from typing import Any

import pytest

from benchfarm_core import quality
from benchfarm_engines import witness
from benchfarm_engines.blocks import BlockSamples, iterations_for, time_blocks, warm_up
from benchfarm_engines.canary import Canaries, CanarySamples
from benchfarm_engines.launch_request import ProtocolParameters
from benchfarm_engines.witness import Reading, Witness

PROTOCOL = {
    "block_min_us": 200,
    "visit_ms": 10,
    "blocks_min": 5,
    "blocks_max": 60,
    "warmup_min_runs": 3,
    "warmup_min_ms": 2,
    "canary_every_ms": 4,
    "visit_timeout_s": 10.0,
}


def protocol(**changes: Any) -> ProtocolParameters:
    return ProtocolParameters(**{**PROTOCOL, **changes})


def busy(us: int) -> None:
    end = time.perf_counter_ns() + us * 1000
    while time.perf_counter_ns() < end:
        pass


class NotingCanaries(Canaries):
    """Canaries that note where they ran: under contention they keep no time."""

    def __init__(self, witness: Witness) -> None:
        super().__init__({"sgemm": lambda: busy(20), "mobilenet": lambda: busy(30)}, witness)
        self.positions: list[int] = []

    def sample(self, samples: CanarySamples, block_index: int) -> None:
        self.positions.append(block_index)
        super().sample(samples, block_index)


def measure(us: int, **changes: Any) -> BlockSamples:
    seen = Witness()
    return time_blocks(lambda: busy(us), protocol(**changes), seen, NotingCanaries(seen))


@pytest.mark.parametrize(
    ("fastest_ns", "expected"), [(200_000, 1), (5_000_000, 1), (199_999, 2), (100_000, 3), (2_000, 105)]
)
def test_iterations_fill_a_block(fastest_ns: int, expected: int) -> None:
    assert iterations_for(fastest_ns, 200) == expected


def test_blocks_are_at_least_as_long_as_asked() -> None:
    samples = measure(50)
    assert samples.iterations == 5
    assert min(samples.blocks_ns) >= 200_000


def test_a_long_workload_has_one_iteration_and_its_minimum_of_blocks() -> None:
    samples = measure(4_000, visit_ms=5)
    assert samples.iterations == 1
    assert len(samples.blocks_ns) == 5


def test_the_number_of_blocks_is_bounded() -> None:
    assert len(measure(10, blocks_max=7).blocks_ns) == 7


def test_canaries_run_before_between_and_after() -> None:
    witness = Witness()
    canaries = NotingCanaries(witness)
    samples = time_blocks(lambda: busy(300), protocol(), witness, canaries)
    positions = canaries.positions
    assert positions[0] == 0
    assert positions[-1] == len(samples.blocks_ns)
    assert len(positions) >= 3
    between = [b - a for a, b in pairwise(positions)]
    assert max(between) * 0.3 < 4 + 0.6, "more than canary_every_ms of timed work without a canary"
    assert all(position in positions for runs in samples.canaries.values() for position, _ in runs)


def test_warm_up_takes_runs_and_time() -> None:
    runs, fastest_ns = warm_up(lambda: busy(100), protocol(warmup_min_runs=3, warmup_min_ms=2))
    assert 3 <= runs <= 20
    assert 100_000 <= fastest_ns < 1_000_000
    assert warm_up(lambda: busy(1), protocol(warmup_min_runs=4, warmup_min_ms=0))[0] == 4


def test_contamination_cannot_hold_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockSamples, "add", _contaminated)
    begun = time.perf_counter()
    samples = measure(300, blocks_max=100_000)
    assert time.perf_counter() - begun < 2
    assert sum(samples.blocks_ns) < 20 * 10_000_000
    assert set(samples.switches) == {1}


def _contaminated(self: BlockSamples, block_ns: int, before: Reading, after: Reading) -> int:
    self.blocks_ns.append(block_ns)
    self.delays_ns.append(10**9)
    self.switches.append(1)
    return 0


def test_undisturbed_time_is_what_core_will_call_clean() -> None:
    assert (witness.DELAY_SHARE, witness.DELAY_FLOOR_NS) == (quality.DELAY_SHARE, quality.DELAY_FLOOR_NS)
    samples = BlockSamples(iterations=1, warmup_runs=3)
    start = Reading(1000, 5)
    assert samples.add(300_000, start, Reading(21_000, 5)) == 300_000
    assert samples.add(300_000, start, Reading(21_001, 5)) == 0
    assert samples.add(300_000, start, Reading(1000, 6)) == 0
    assert samples.add(300_000, start, Reading(900, 4)) == 300_000  # a thread ended and took its past along
    assert samples.delays_ns == [20_000, 20_001, 0, 0]
    assert samples.switches == [0, 0, 1, 0]
