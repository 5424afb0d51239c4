"""The visit of a kernel by difference: a carrier that holds it once and one that holds it twice, in turn.

As in the visit of a pair, both are opened anew in every round, because where a model's buffers lie is worth up to two
percent, and their blocks lie next to each other: A B B A. Before every single run the caches are displaced, untimed,
so that both copies find their weights where a model has them. What the second copy shares with the first then cancels
(its code, the memory that the engine hands out again); what is left is the kernel. The rule that makes a number of it
is the farm's (benchfarm_core.differences).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

from benchfarm_engines.blocks import iterations_for
from benchfarm_engines.displacement import Displacement
from benchfarm_engines.engine import Session
from benchfarm_engines.in_situ_visit import WALL_SHARE, is_over
from benchfarm_engines.in_step import in_step
from benchfarm_engines.launch_request import LaunchRequest, ProtocolParameters, Visit
from benchfarm_engines.pair_visit import (
    PairSamples,
    Side,
    SideSamples,
    check_sides,
    open_side,
    references_of,
    warm_side,
)
from benchfarm_engines.visit import Bench, told_of_carrier
from benchfarm_engines.witness import Reading, Witness

ROUNDS: Final = 8
ROUNDS_MIN: Final = 6
"""Where blocks are so long that they fill the visit's time earlier."""
ROUND_PAIRS: Final = 6
"""Undisturbed pairs of a round: the fastest block of each side counts, so it must have had its chances."""
VISITS: Final = 4
"""A kernel is timed for so many times `visit_ms`: what is told is the small difference of two long times."""


@dataclass(frozen=True)
class _Setting:
    """What the rounds of a visit share."""

    sides: tuple[Side, Side]
    request: LaunchRequest
    shared: Bench
    displace: Displacement


def measure_by_difference(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    """The fields of a `done` line: those of a visit for the carrier with one copy, `beside` for that with two.

    Raises EngineFailure.
    """
    assert visit.twice is not None
    once, twice = (Side(each, request.precision, bench.options, references_of(each)) for each in (visit, visit.twice))
    shared = _Setting((once, twice), request, bench, Displacement(request.cores))
    samples, canary_at_ns = PairSamples(), 0
    canary_before_ns, timed_before_ns = bench.canaries.spent_ns, bench.shares.timed_ns
    told: dict[str, str] = {}
    while wants_round(samples, request.protocol):
        if not samples.rounds or samples.timed_ns - canary_at_ns >= request.protocol.canary_every_ms * 1_000_000:
            bench.canaries.sample(samples.canaries, samples.pairs)
            canary_at_ns = samples.timed_ns
        with ExitStack() as opened:
            session = _round(samples, shared, opened)
            if not wants_round(samples, request.protocol):
                told = told_of_carrier(session, request)
    bench.canaries.sample(samples.canaries, samples.pairs)
    return {
        **samples.a.fields(),
        **told,
        "timed_ms": (bench.shares.timed_ns - timed_before_ns) / 1e6,  # with what went on between the blocks
        "canaries": samples.canaries,
        "canary_ms": (bench.canaries.spent_ns - canary_before_ns) / 1e6,
        "beside": samples.b.fields() | {"rounds": samples.rounds, "threads": request.threads},
    }


def wants_round(samples: PairSamples, protocol: ProtocolParameters) -> bool:
    """Whether a visit goes on."""
    rounds = len(samples.rounds)
    if rounds < ROUNDS_MIN:
        return True
    if rounds >= ROUNDS or samples.pairs + _round_pairs(protocol) > protocol.blocks_max:
        return False
    return samples.pairs < protocol.blocks_min or samples.timed_ns < VISITS * protocol.visit_ms * 1_000_000


def _round_pairs(protocol: ProtocolParameters) -> int:
    """Undisturbed pairs of a round, so many that `ROUNDS` of them are `blocks_min`."""
    return max(ROUND_PAIRS, -(-protocol.blocks_min // ROUNDS))


def _pairs_left(samples: PairSamples, protocol: ProtocolParameters) -> int:
    """How many pairs a round may have where nobody leaves the board alone: `blocks_max` are for all rounds, and those
    without which nothing can be told are left `ROUND_PAIRS` each."""
    to_come = max(0, ROUNDS_MIN - 1 - len(samples.rounds))
    return max(ROUND_PAIRS, protocol.blocks_max - samples.pairs - to_come * ROUND_PAIRS)


def _round(samples: PairSamples, shared: _Setting, opened: ExitStack) -> Session:
    """Opens both carriers, the one with two copies first in every other round; `opened` closes them. The session of the
    one with one copy."""
    ways = list(in_step(shared.sides, (samples.a, samples.b)))
    bench, twice_first = shared.shared, len(samples.rounds) % 2 == 1
    sessions = [
        open_side(side, found, shared.request, bench, opened)
        for side, found in (reversed(ways) if twice_first else ways)
    ]
    if twice_first:
        sessions.reverse()
    check_sides(sessions, ways)
    bench.shares.first_block_unix_s = bench.shares.first_block_unix_s or time.time()
    begun = time.perf_counter_ns()
    time_round(sessions, samples, shared.request.protocol, bench.witness, shared.displace)
    bench.shares.timed_ns += time.perf_counter_ns() - begun
    check_sides(sessions, ways)
    return sessions[0]


def time_round(
    sessions: Sequence[Session],
    samples: PairSamples,
    protocol: ProtocolParameters,
    witness: Witness,
    displace: Callable[[], None],
) -> None:
    """Adds a round of two opened carriers, the one with one copy first. The first round fixes the blocks' lengths."""
    turns = list(in_step(sessions, (samples.a, samples.b)))
    for session, found in turns:
        fastest_ns = warm_side(session.run, found.blocks, protocol)
        if not samples.rounds:
            found.blocks.iterations = iterations_for(fastest_ns, protocol.block_min_us)
    witness.refresh()
    wanted, before, undisturbed = _round_pairs(protocol), samples.pairs, 0
    most = before + min(WALL_SHARE * wanted, _pairs_left(samples, protocol))
    while samples.pairs < most and not is_over(undisturbed, samples.pairs - before, wanted):
        in_turn = turns if samples.pairs % 2 == 0 else turns[::-1]
        quiet = [_block(session, found, witness, displace) for session, found in in_turn]
        undisturbed += all(quiet)
    samples.rounds.append(samples.pairs - before)


def _block(session: Session, found: SideSamples, witness: Witness, displace: Callable[[], None]) -> bool:
    """Some runs, each after its caches were taken away; a block is the time of the runs alone. Whether undisturbed."""
    run, block_ns, delay_ns, switches = session.run, 0, 0, 0
    for _ in repeat(None, found.blocks.iterations):
        displace()
        before = witness.read()
        begun = time.perf_counter_ns()
        run()
        block_ns += time.perf_counter_ns() - begun
        after = witness.read()
        delay_ns += max(0, after.delay_ns - before.delay_ns)
        switches += max(0, after.switches - before.switches)
    return found.blocks.add(block_ns, Reading(0, 0), Reading(delay_ns, switches)) > 0
