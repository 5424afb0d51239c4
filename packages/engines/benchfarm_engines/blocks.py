"""The timing loop: warm-up, a block length fixed before the first timed block, blocks, canaries between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

from benchfarm_engines.canary import CLOCK, Canaries, CanarySamples, Wait
from benchfarm_engines.launch_request import ProtocolParameters
from benchfarm_engines.witness import DELAY_FLOOR_NS, DELAY_SHARE, REWARM_BELOW_NS, Reading, Witness

# When to stop is decided by undisturbed time, seen with the eyes of the rule that later derives the summary.

_WALL_SHARE: Final = 4
"""A visit among noisy neighbours ends after this many times its timed target, clean or not."""
_WAIT_SHARE: Final = 0.1
"""Of what a visit may take: it waits for quiet no longer, however patient the launch is."""
_OWN_WAIT_NS: Final = 10_000_000
"""A visit waits so long whatever others have waited before it: most loud moments last a millisecond or two."""
CLOCK_RUNS_PER_ROW: Final = 12
"""Blocks between two points last at least as long as so many runs of the clock's canary, of which two stand at each."""
_BLOCK_MARGIN: Final = 1.05
"""A block is planned a little longer than the minimum, since the later runs are rarely slower than the fastest."""


@dataclass
class BlockSamples:
    """What one visit saw; lists run over the timed blocks."""

    iterations: int
    warmup_runs: int
    blocks_ns: list[int] = field(default_factory=list)
    delays_ns: list[int] = field(default_factory=list)
    switches: list[int] = field(default_factory=list)
    canaries: CanarySamples = field(default_factory=dict)

    def add(self, block_ns: int, before: Reading, after: Reading) -> int:
        """Takes in a block; returns its time in ns when it was undisturbed, else 0."""
        delay_ns = max(0, after.delay_ns - before.delay_ns)
        switches = max(0, after.switches - before.switches)
        self.blocks_ns.append(block_ns)
        self.delays_ns.append(delay_ns)
        self.switches.append(switches)
        clean = switches == 0 and delay_ns <= max(DELAY_FLOOR_NS, DELAY_SHARE * block_ns)
        return block_ns if clean else 0


def warm_up(run: Callable[[], None], protocol: ProtocolParameters) -> tuple[int, int]:
    """Runs until the protocol's minimum of runs and time; returns the number and the fastest run in ns."""
    fastest_ns, runs = 0, 0
    begun = time.perf_counter_ns()
    enough_ns = begun + protocol.warmup_min_ms * 1_000_000
    now = begun
    while runs < protocol.warmup_min_runs or now < enough_ns:
        started = time.perf_counter_ns()  # not the last run's end: the bookkeeping between outweighs the smallest runs
        run()
        now = time.perf_counter_ns()
        fastest_ns = min(fastest_ns or now - started, now - started)
        runs += 1
    return runs, max(1, fastest_ns)


def iterations_for(fastest_ns: int, block_min_us: int) -> int:
    """Runs per block, so that a block lasts at least `block_min_us`: one, where a single run does."""
    if fastest_ns >= block_min_us * 1000:
        return 1
    return math.ceil(block_min_us * 1000 * _BLOCK_MARGIN / fastest_ns)


def time_blocks(
    run: Callable[[], None], protocol: ProtocolParameters, witness: Witness, canaries: Canaries
) -> BlockSamples:
    """Measures one opened workload. Times in the answer are totals of `iterations` runs."""
    warmup_runs, fastest_ns = warm_up(run, protocol)
    samples = BlockSamples(iterations_for(fastest_ns, protocol.block_min_us), warmup_runs)
    rewarm = fastest_ns * samples.iterations < REWARM_BELOW_NS
    visit = _Visit(run, protocol, witness, canaries, samples, rewarm, canaries.waited_ns)
    begun, stretches = time.perf_counter_ns(), 0
    while not visit.is_over(time.perf_counter_ns() - begun - visit.waited_ns):
        visit.sample()
        if rewarm:
            _block_ns(run, samples.iterations)  # untimed: back into the caches after the canary
        visit.stretch()
        stretches += 1
    if stretches > 1:  # after a single stretch the next visit's canary is as near, and costs nothing more
        canaries.sample(samples.canaries, len(samples.blocks_ns))
    elif protocol.clock_every_ms is not None:
        canaries.sample_clock(samples.canaries, len(samples.blocks_ns))
    return samples


@dataclass
class _Visit:
    """A visit under way. clean_ns: its undisturbed time so far; waits_from_ns: what the launch had waited before."""

    run: Callable[[], None]
    protocol: ProtocolParameters
    witness: Witness
    canaries: Canaries
    samples: BlockSamples
    rewarm: bool
    waits_from_ns: int
    clean_ns: int = 0

    @property
    def waited_ns(self) -> int:
        """How long this visit has waited for quiet so far."""
        return self.canaries.waited_ns - self.waits_from_ns

    @property
    def _wait(self) -> Wait | None:
        """How much longer it may: not at all, where the protocol has no waits."""
        if self.protocol.quiet_wait_ms is None:
            return None
        most_ns = int(_WAIT_SHARE * self.protocol.visit_timeout_s * 1e9) - self.waited_ns
        return Wait(max(0, _OWN_WAIT_NS - self.waited_ns), most_ns)

    def sample(self) -> None:
        """Both canaries; where blocks wait for quiet the clock's once more, for the other one took milliseconds."""
        place = len(self.samples.blocks_ns)
        self.canaries.sample(self.samples.canaries, place, self._wait)
        if self.protocol.quiet_wait_ms is not None:
            self.canaries.sample_clock(self.samples.canaries, place, self._wait)

    def stretch(self) -> None:
        """Blocks with no canary between them but that of the clock."""
        left_ns = self.protocol.canary_every_ms * 1_000_000
        self.witness.refresh()
        while True:
            left_ns -= self._row(min(left_ns, self._row_ns()))
            if left_ns <= 0 or self._is_full():
                return
            self.canaries.sample_clock(self.samples.canaries, len(self.samples.blocks_ns), self._wait)
            if self.rewarm:
                self.run()  # untimed, and no whole block: the clock's canary alone takes few of the caches

    def _row_ns(self) -> int:
        """How long blocks run until the next point: where the canary is slow, as long as to keep its share."""
        if self.protocol.clock_every_ms is None:
            return self.protocol.canary_every_ms * 1_000_000
        latest = self.samples.canaries.get(CLOCK)
        return max(self.protocol.clock_every_ms * 1_000_000, CLOCK_RUNS_PER_ROW * latest[-1][1] if latest else 0)

    def _row(self, row_ns: int) -> int:
        """Blocks right after each other until they last `row_ns`; returns how long they did."""
        timed_ns = 0
        before = self.witness.read()
        while timed_ns < row_ns:
            block_ns = _block_ns(self.run, self.samples.iterations)
            after = self.witness.read()
            self.clean_ns += self.samples.add(block_ns, before, after)
            before = after
            timed_ns += block_ns
            if self._is_full():
                break
        return timed_ns

    def _is_full(self) -> bool:
        enough = self.clean_ns >= self.protocol.visit_ms * 1_000_000
        return len(self.samples.blocks_ns) >= (self.protocol.blocks_min if enough else self.protocol.blocks_max)

    def is_over(self, wall_ns: int) -> bool:
        """Whether there are blocks and undisturbed time enough, or it has taken too long among noisy neighbours."""
        blocks, target_ns = len(self.samples.blocks_ns), self.protocol.visit_ms * 1_000_000
        if blocks >= self.protocol.blocks_max:
            return True
        return blocks >= self.protocol.blocks_min and (self.clean_ns >= target_ns or wall_ns >= _WALL_SHARE * target_ns)


def _block_ns(run: Callable[[], None], iterations: int) -> int:
    begun = time.perf_counter_ns()
    for _ in repeat(None, iterations):
        run()
    return time.perf_counter_ns() - begun
