"""The timing loop: warm-up, a block length fixed before the first timed block, blocks, canaries between them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

from benchfarm_engines.canary import Canaries, CanarySamples
from benchfarm_engines.launch_request import ProtocolParameters
from benchfarm_engines.witness import DELAY_FLOOR_NS, DELAY_SHARE, REWARM_BELOW_NS, Reading, Witness

# When to stop is decided by undisturbed time, seen with the eyes of the rule that later derives the summary.

_WALL_SHARE: Final = 4
"""A visit among noisy neighbours ends after this many times its timed target, clean or not."""
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
    begun = time.perf_counter_ns()
    clean_ns, stretches = 0, 0
    while not _enough(samples, clean_ns, time.perf_counter_ns() - begun, protocol):
        canaries.sample(samples.canaries, len(samples.blocks_ns))
        if rewarm:
            _block_ns(run, samples.iterations)  # untimed: back into the caches after the canary
        clean_ns += _stretch(run, samples, clean_ns, protocol, witness)
        stretches += 1
    if stretches > 1:  # after a single stretch the next visit's canary is as near, and costs nothing more
        canaries.sample(samples.canaries, len(samples.blocks_ns))
    return samples


def _stretch(
    run: Callable[[], None],
    samples: BlockSamples,
    clean_ns: int,
    protocol: ProtocolParameters,
    witness: Witness,
) -> int:
    """Blocks without a canary between them; returns their undisturbed time in ns."""
    iterations = samples.iterations
    witness.refresh()
    stretch_ns, added_ns = protocol.canary_every_ms * 1_000_000, 0
    before = witness.read()
    while stretch_ns > 0:
        block_ns = _block_ns(run, iterations)
        after = witness.read()
        added_ns += samples.add(block_ns, before, after)
        before = after
        stretch_ns -= block_ns
        enough = clean_ns + added_ns >= protocol.visit_ms * 1_000_000
        if len(samples.blocks_ns) >= (protocol.blocks_min if enough else protocol.blocks_max):
            break
    return added_ns


def _block_ns(run: Callable[[], None], iterations: int) -> int:
    begun = time.perf_counter_ns()
    for _ in repeat(None, iterations):
        run()
    return time.perf_counter_ns() - begun


def _enough(samples: BlockSamples, clean_ns: int, wall_ns: int, protocol: ProtocolParameters) -> bool:
    blocks, target_ns = len(samples.blocks_ns), protocol.visit_ms * 1_000_000
    if blocks >= protocol.blocks_max:
        return True
    return blocks >= protocol.blocks_min and (clean_ns >= target_ns or wall_ns >= _WALL_SHARE * target_ns)
