"""The visit of a pair: both workloads in one process, timed in turn in short blocks that lie next to each other.

Whatever changes the machine's speed for longer than a block (the clock, a neighbour) then changes both sides alike,
and their ratio stays. What does not cancel is luck with memory: where a model's buffers lie is worth up to two percent
and stays for as long as it is open. So a visit opens both models anew in every *round*, which draws that luck again.
Within a round the sides take turns as to whose block comes first, A B B A A B B A, and rounds take turns as to who
begins: whatever the first blocks behind a canary pay beside all others, each side pays as often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.blocks import BlockSamples, iterations_for, warm_up
from benchfarm_engines.canary import CanarySamples
from benchfarm_engines.engine import EngineFailure, OpenRequest, Session
from benchfarm_engines.engine_options import InvalidOption, OptionValue, check_options
from benchfarm_engines.gate import Array, load_reference
from benchfarm_engines.in_step import in_step
from benchfarm_engines.launch_request import Beside, LaunchRequest, ProtocolParameters, Visit
from benchfarm_engines.visit import Bench, artifact_inputs, check_session, refuse_other_precision, told_precision
from benchfarm_engines.witness import REWARM_BELOW_NS, Witness

ROUNDS: Final = 8
"""Rounds of a visit; fewer, but `ROUNDS_MIN`, where its pairs are so long that they fill `visit_ms` earlier."""
ROUNDS_MIN: Final = 3
ROUND_PAIRS_MIN: Final = 4


@dataclass(frozen=True)
class Side:
    """How one side is opened; references: for each gate its arrays."""

    visit: Visit
    precision: str
    options: dict[str, OptionValue]
    references: list[list[Array]]


@dataclass
class SideSamples:
    """What one side saw: its blocks, how long it took first to open and to run once, its largest distance."""

    blocks: BlockSamples = field(default_factory=lambda: BlockSamples(iterations=0, warmup_runs=0))
    open_ms: float = 0.0
    first_ms: float = 0.0
    gate_relative_l2: float = 0.0

    def fields(self) -> dict[str, Any]:
        """The side in a `done` line."""
        blocks = self.blocks
        return {
            "iterations": blocks.iterations,
            "blocks_ns": blocks.blocks_ns,
            "delays_ns": blocks.delays_ns,
            "switches": blocks.switches,
            "warmup_runs": blocks.warmup_runs,
            "timed_ms": sum(blocks.blocks_ns) / 1e6,
            "open_ms": self.open_ms,
            "first_ms": self.first_ms,
            "gate_relative_l2": self.gate_relative_l2,
        }


@dataclass
class PairSamples:
    """What one visit saw. Block i of `a` lies next to block i of `b`; rounds: pairs in each; canaries count pairs."""

    a: SideSamples = field(default_factory=SideSamples)
    b: SideSamples = field(default_factory=SideSamples)
    rounds: list[int] = field(default_factory=list)
    canaries: CanarySamples = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """How many were timed so far."""
        return len(self.a.blocks.blocks_ns)

    @property
    def timed_ns(self) -> int:
        """The time of all blocks so far."""
        return sum(self.a.blocks.blocks_ns) + sum(self.b.blocks.blocks_ns)


def measure_pair(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    """The fields of a pair's `done` line: those of a visit for a, and `beside` for b. Raises EngineFailure."""
    beside = visit.beside
    assert beside is not None
    a = Side(visit, request.precision, bench.options, references_of(visit))
    options = bench.options if beside.options is None else _options(beside, bench)
    b = Side(beside.visit, beside.precision or request.precision, options, references_of(beside.visit))
    samples, canary_before_ns = PairSamples(), bench.canaries.spent_ns
    told: list[dict[str, str]] = [{}, {}]
    while _wants_round(samples, request.protocol):
        b_first = (len(samples.rounds) % 2 == 1) != beside.opens_first
        with ExitStack() as opened:
            sessions = _round(samples, (a, b), b_first, request, bench, opened)
            if not _wants_round(samples, request.protocol):
                bench.canaries.sample(samples.canaries, samples.pairs)
                told = [told_precision(session, request) for session in sessions]
    bench.shares.timed_ns += samples.timed_ns
    return {
        **samples.a.fields(),
        **told[0],
        "canaries": samples.canaries,
        "canary_ms": (bench.canaries.spent_ns - canary_before_ns) / 1e6,
        "beside": samples.b.fields() | told[1] | {"rounds": samples.rounds, "threads": request.threads},
    }


def references_of(visit: Visit) -> list[list[Array]]:
    """What a side's outputs are held against. Raises BadReference."""
    return [load_reference(Path(gate.reference)) for gate in visit.gates]


def _options(beside: Beside, bench: Bench) -> dict[str, OptionValue]:
    try:
        return check_options(beside.options or {}, bench.engine.options)
    except InvalidOption as error:
        raise EngineFailure(FailureCode.ENGINE_ERROR, f"the other side: {error}") from error


def _wants_round(samples: PairSamples, protocol: ProtocolParameters) -> bool:
    rounds, timed_ns = len(samples.rounds), samples.timed_ns
    if rounds >= ROUNDS or samples.pairs >= protocol.blocks_max:
        return False
    return rounds < ROUNDS_MIN or samples.pairs < protocol.blocks_min or timed_ns < protocol.visit_ms * 1_000_000


def _pairs_min(protocol: ProtocolParameters) -> int:
    """Pairs of a round, so many that `ROUNDS` of them are `blocks_min`."""
    return max(ROUND_PAIRS_MIN, -(-protocol.blocks_min // ROUNDS))


def _round(
    samples: PairSamples,
    sides: tuple[Side, Side],
    b_first: bool,
    request: LaunchRequest,
    bench: Bench,
    opened: ExitStack,
) -> list[Session]:
    """Opens both sides, times them in turn; `opened` closes them. The sessions of a and b.

    Rounds are each other's mirror images: in whatever is done to one side before the other (opening, for the memory
    that is handed out first may be the better one, checking, warming up, timing) they take turns.
    """
    ways = list(in_step(sides, (samples.a, samples.b)))
    if b_first:
        ways.reverse()
    sessions = [open_side(side, found, request, bench, opened) for side, found in ways]
    check_sides(sessions, ways)
    bench.witness.refresh()
    bench.shares.first_block_unix_s = bench.shares.first_block_unix_s or time.time()
    runs = [session.run for session in sessions]
    time_round(list(in_step(runs, [found.blocks for _, found in ways])), samples, request.protocol, bench)
    check_sides(sessions, ways)
    return sessions[::-1] if b_first else sessions


def open_side(side: Side, found: SideSamples, request: LaunchRequest, bench: Bench, opened: ExitStack) -> Session:
    """One side's session, run once; `opened` closes it. Raises EngineFailure."""
    engine, visit = bench.engine, side.visit
    if visit.format not in engine.formats:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"{engine.name} does not read {visit.format[:40]}")
    if side.precision not in engine.precisions():
        detail = f"{engine.name} has no {side.precision[:20]} on this host"
        raise EngineFailure(FailureCode.PRECISION_NOT_OBEYED, detail)
    inputs = artifact_inputs(visit.inputs, visit.edges)
    cache = Path(request.cache) if request.cache else None
    artifact, threads = Path(visit.artifact), request.threads
    begun = time.perf_counter_ns()
    session = engine.open(
        OpenRequest(artifact, inputs, side.precision, threads, side.options, beside_another=True, cache=cache)
    )
    opened.callback(session.close)
    ready = time.perf_counter_ns()
    bench.shares.open_ns += ready - begun
    if session.threads != threads:
        raise EngineFailure(FailureCode.THREADS_NOT_OBEYED, f"the engine took {session.threads} threads")
    session.run()
    ran = time.perf_counter_ns()
    if not found.open_ms:
        found.open_ms, found.first_ms = (ready - begun) / 1e6, (ran - ready) / 1e6
        _check_precision(session, side, request, bench)
    return session


def check_sides(sessions: Sequence[Session], ways: Sequence[tuple[Side, SideSamples]]) -> None:
    """Both sides' latest outputs. Every round opens the models anew, so the first one vouches for no other.

    Raises EngineFailure.
    """
    for session, (side, found) in in_step(sessions, ways):
        distance = check_session(session, side.visit, side.references)[0]
        found.gate_relative_l2 = max(found.gate_relative_l2, distance)


def _check_precision(session: Session, side: Side, request: LaunchRequest, bench: Bench) -> None:
    """Of a side that is not opened as the launch's canary is, which shows the other's."""
    if side.precision == request.precision and side.options == bench.options:
        return
    refuse_other_precision(session.computes_in(), side.precision)


def time_round(
    ways: Sequence[tuple[Callable[[], None], BlockSamples]],
    samples: PairSamples,
    protocol: ProtocolParameters,
    bench: Bench,
) -> None:
    """Adds a round of two opened workloads in turn, the first of `ways` before the other. The first round fixes the
    blocks' lengths for all."""
    fastest = [warm_side(run, blocks, protocol) for run, blocks in ways]
    if not samples.rounds:
        lengths = pair_iterations(fastest[0], fastest[1], protocol.block_min_us)
        for (_, blocks), iterations in in_step(ways, lengths):
            blocks.iterations = iterations
    first, second = (_Turn(run, blocks, ns) for (run, blocks), ns in in_step(ways, fastest))
    before, round_ns = samples.pairs, protocol.visit_ms * 1_000_000 // ROUNDS
    while samples.pairs < before + _pairs_min(protocol) or round_ns > 0:
        bench.canaries.sample(samples.canaries, samples.pairs)
        round_ns -= _stretch((first, second), samples, before, round_ns, protocol, bench.witness)
        if samples.pairs >= protocol.blocks_max:
            break
    samples.rounds.append(samples.pairs - before)


def warm_side(run: Callable[[], None], blocks: BlockSamples, protocol: ProtocolParameters) -> int:
    """Warms one side up; its fastest run in ns."""
    runs, fastest_ns = warm_up(run, protocol)
    blocks.warmup_runs += runs
    return fastest_ns


def pair_iterations(fastest_a_ns: int, fastest_b_ns: int, block_min_us: int) -> tuple[int, int]:
    """Runs per block of both sides: at least `block_min_us` each, and about as long as the other side's block."""
    block_ns = max(block_min_us * 1000, fastest_a_ns, fastest_b_ns)
    of_a, of_b = (max(iterations_for(ns, block_min_us), round(block_ns / ns)) for ns in (fastest_a_ns, fastest_b_ns))
    return of_a, of_b


@dataclass(frozen=True)
class _Turn:
    """One side while it is timed."""

    run: Callable[[], None]
    blocks: BlockSamples
    fastest_ns: int

    def settle(self) -> None:
        """One untimed run: back into the caches after the other side."""
        if self.fastest_ns < REWARM_BELOW_NS:
            self.run()

    def lead_in(self) -> None:
        """After a canary, as many untimed runs as any other first block has of its side before it.

        One run less, and the first block behind a canary takes up to a fifth longer than the others where two models do
        not fit into the caches together.
        """
        self.settle()
        for _ in repeat(None, self.blocks.iterations):
            self.run()

    def block(self, witness: Witness) -> int:
        """One timed block; its time in ns."""
        before, run = witness.read(), self.run
        begun = time.perf_counter_ns()
        for _ in repeat(None, self.blocks.iterations):
            run()
        block_ns = time.perf_counter_ns() - begun
        self.blocks.add(block_ns, before, witness.read())
        return block_ns


def _stretch(
    turns: tuple[_Turn, _Turn],
    samples: PairSamples,
    round_begin: int,
    round_ns: int,
    protocol: ProtocolParameters,
    witness: Witness,
) -> int:
    """Pairs without a canary between them, to the end of the round at most; returns their time in ns.

    The first of `turns` begins the round.
    """
    witness.refresh()
    left_ns, spent_ns = protocol.canary_every_ms * 1_000_000, 0
    turns[(samples.pairs - round_begin) % 2].lead_in()
    while spent_ns < left_ns and samples.pairs < protocol.blocks_max:
        first, second = turns if (samples.pairs - round_begin) % 2 == 0 else turns[::-1]
        spent_ns += first.block(witness)
        second.settle()
        spent_ns += second.block(witness)
        if spent_ns >= round_ns and samples.pairs >= round_begin + _pairs_min(protocol):
            break
    return spent_ns
