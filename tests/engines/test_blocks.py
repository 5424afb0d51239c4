"""The timing loop, with real clocks and a workload of known length."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from benchfarm_core import quality, quiet_blocks
from benchfarm_engines import witness
from benchfarm_engines.blocks import CLOCK_RUNS_PER_ROW, BlockSamples, iterations_for, time_blocks, warm_up
from benchfarm_engines.canary import CLOCK_LIMIT, Canaries, CanarySamples, Wait
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

    def __init__(self, witness: Witness, clock_us: int = 20) -> None:
        super().__init__({"sgemm": lambda: busy(clock_us), "mobilenet": lambda: busy(30)}, witness)
        self.positions: list[int] = []
        self.of_clock: list[int] = []

    def sample(self, samples: CanarySamples, block_index: int, wait: Wait | None = None) -> None:
        self.positions.append(block_index)
        super().sample(samples, block_index, wait)

    def sample_clock(self, samples: CanarySamples, block_index: int, wait: Wait | None = None) -> None:
        self.of_clock.append(block_index)
        super().sample_clock(samples, block_index, wait)


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


def test_the_clock_runs_between_blocks_and_behind_the_last() -> None:
    witness = Witness()
    canaries = NotingCanaries(witness)
    samples = time_blocks(lambda: busy(100), protocol(canary_every_ms=100, clock_every_ms=1), witness, canaries)
    assert canaries.positions == [0]
    assert canaries.of_clock[-1] == len(samples.blocks_ns)
    points = [0, *canaries.of_clock]
    assert len(points) >= 5
    for begin, end in pairwise(points):
        assert sum(samples.blocks_ns[begin : end - 1]) < 1_000_000, "the row went on beyond a millisecond"
    assert all(sum(samples.blocks_ns[begin:end]) >= 1_000_000 for begin, end in pairwise(points[:-1]))
    assert {place for place, _ in samples.canaries["mobilenet"]} <= {0}
    assert {place for place, _ in samples.canaries["sgemm"]} <= set(points)


def test_a_slow_canary_is_asked_less_often() -> None:
    witness = Witness()
    canaries = NotingCanaries(witness, clock_us=300)
    samples = time_blocks(lambda: busy(100), protocol(canary_every_ms=100, clock_every_ms=1), witness, canaries)
    assert canaries.of_clock[-1] == len(samples.blocks_ns)
    rows = sum(samples.blocks_ns) / (CLOCK_RUNS_PER_ROW * 300_000)
    assert len(canaries.of_clock) <= rows + 1, "a dozen runs of 0.3 ms lie between two points: three in 10 quiet ms"


def test_rows_are_as_long_and_canaries_as_quiet_as_core_takes_them_to_be() -> None:
    assert CLOCK_RUNS_PER_ROW == quiet_blocks.CLOCK_RUNS_PER_ROW
    assert CLOCK_LIMIT == quiet_blocks.CLOCK_LIMIT


WAITING = protocol(canary_every_ms=100, clock_every_ms=1, quiet_wait_ms=20, blocks_max=600)
FAST_NS, LOUD_NS = 50_000, 300_000
SLACK_NS = 1_000_000
"""A wait ends with the run in which it is found to have been long enough."""


class StillWitness(Witness):
    """Nobody waits for a processor on a made-up clock; in `crowded_ns` of it everybody does."""

    def __init__(self, now_ns: Callable[[], int], crowded_ns: range = range(0)) -> None:
        super().__init__()
        self._now_ns, self._crowded_ns, self._switches = now_ns, crowded_ns, 0

    def read(self) -> Reading:
        self._switches += self._now_ns() in self._crowded_ns
        return Reading(0, self._switches)


class MadeUp:
    """Visits on a made-up clock, beside a neighbour who comes for spans of it, in ms: all takes six times as long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *loud_ms: tuple[float, float]) -> None:
        self.now_ns = 0
        self._loud_ns = [(int(begin * 1e6), int(end * 1e6)) for begin, end in loud_ms]
        monkeypatch.setattr(time, "perf_counter_ns", self._tick)

    def _tick(self) -> int:
        self.now_ns += 20
        return self.now_ns

    def _run(self, quiet_ns: int) -> None:
        is_loud = any(begin <= self.now_ns < end for begin, end in self._loud_ns)
        self.now_ns += 6 * quiet_ns if is_loud else quiet_ns

    def visit(
        self, patience_ms: int, asked: ProtocolParameters = WAITING, crowded_ms: tuple[int, int] = (0, 0)
    ) -> tuple[BlockSamples, Canaries]:
        witness = StillWitness(lambda: self.now_ns, range(crowded_ms[0] * 10**6, crowded_ms[1] * 10**6))
        runs = {"sgemm": lambda: self._run(FAST_NS), "mobilenet": lambda: self._run(60_000)}
        canaries = Canaries(runs, witness, fastest_ns=FAST_NS, patience_ns=patience_ms * 1_000_000)
        return time_blocks(lambda: self._run(250_000), asked, witness, canaries), canaries


def points_of(samples: BlockSamples) -> dict[int, list[int]]:
    points: dict[int, list[int]] = {}
    for place, time_ns in samples.canaries["sgemm"]:
        points.setdefault(place, []).append(time_ns)
    return points


def test_blocks_wait_until_the_clock_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, canaries = MadeUp(monkeypatch, (0, 100), (105, 160)).visit(patience_ms=10_000)
    assert canaries.waited_ns > 140_000_000, "it waited from the first canary, and again in mid-visit"
    assert canaries.spent_ns > canaries.waited_ns
    points = points_of(samples)
    assert points[0][0] > LOUD_NS, "what was loud is told"
    assert all(times_ns[-1] <= 1.2 * FAST_NS for place, times_ns in sorted(points.items())[:-1])
    waited = [times_ns for place, times_ns in points.items() if place and len(times_ns) == 2]
    assert [times_ns[0] > LOUD_NS for times_ns in waited] == [True], "the loud run stands before the quiet one"
    assert sum(samples.blocks_ns) >= 10_000_000, "waiting takes nothing from the visit"


def test_what_is_quiet_later_says_nothing_of_blocks_whose_end_nobody_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    without, _ = MadeUp(monkeypatch).visit(patience_ms=10_000)
    crowded, canaries = MadeUp(monkeypatch).visit(patience_ms=10_000, crowded_ms=(7, 40))
    assert 25_000_000 < canaries.waited_ns < 40_000_000
    places, lost = set(points_of(without)), set(points_of(without)) - set(points_of(crowded))
    assert len(lost) == 1
    assert lost < places - {0, max(places)}, "a point in mid-visit, which is left out"


def test_patience_ends_and_the_visit_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, canaries = MadeUp(monkeypatch, (0, 10**6)).visit(patience_ms=30)
    assert 30_000_000 <= canaries.waited_ns < 30_000_000 + SLACK_NS
    assert sum(samples.blocks_ns) >= 10_000_000
    assert min(time_ns for _, time_ns in samples.canaries["sgemm"]) > LOUD_NS


def test_a_visit_waits_a_little_whatever_others_have_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    _, canaries = MadeUp(monkeypatch, (0, 10**6)).visit(patience_ms=0)
    assert 10_000_000 <= canaries.waited_ns < 10_000_000 + SLACK_NS


def test_a_visit_waits_no_longer_than_a_tenth_of_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    short = protocol(canary_every_ms=100, clock_every_ms=1, quiet_wait_ms=20, visit_timeout_s=0.4)
    _, canaries = MadeUp(monkeypatch, (0, 10**6)).visit(patience_ms=10_000, asked=short)
    assert 40_000_000 <= canaries.waited_ns < 40_000_000 + SLACK_NS


def test_without_waits_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = protocol(canary_every_ms=100, clock_every_ms=1)
    _, canaries = MadeUp(monkeypatch, (0, 50)).visit(patience_ms=10_000, asked=plain)
    assert canaries.waited_ns == 0


def test_where_nobody_knows_the_clock_what_was_seen_is_it() -> None:
    taken = CanarySamples()
    canaries = Canaries({"sgemm": lambda: busy(300)}, Witness(), patience_ns=10**9)
    canaries.sample_clock(taken, 0, Wait(10**9, 10**9))
    assert canaries.waited_ns < 500_000_000, "its own fastest is quiet by itself"


def test_a_stretch_begins_with_both_canaries_whatever_the_clock_does() -> None:
    witness = Witness()
    canaries = NotingCanaries(witness)
    samples = time_blocks(lambda: busy(300), protocol(clock_every_ms=1), witness, canaries)
    assert canaries.positions[0] == 0
    assert canaries.positions[-1] == len(samples.blocks_ns)
    assert len(canaries.positions) >= 3
    assert set(canaries.of_clock).isdisjoint(canaries.positions)


def test_without_clock_points_the_clock_runs_with_the_other_canary() -> None:
    witness = Witness()
    canaries = NotingCanaries(witness)
    time_blocks(lambda: busy(300), protocol(), witness, canaries)
    assert canaries.of_clock == []


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
