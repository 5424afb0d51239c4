"""The visit of a pair: both workloads in one process, timed in turn in short blocks that lie next to each other.

Whatever changes the machine's speed for longer than a block (the clock, a neighbour) then changes both sides alike, and
their ratio stays. In pairs of even number a's block comes first, in the others b's: A B B A A B B A.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.blocks import BlockSamples, iterations_for, warm_up
from benchfarm_engines.canary import Canaries, CanarySamples
from benchfarm_engines.engine import EngineFailure, OpenRequest, Session
from benchfarm_engines.engine_options import InvalidOption, OptionValue, check_options
from benchfarm_engines.gate import load_reference
from benchfarm_engines.launch_request import Beside, LaunchRequest, ProtocolParameters, Visit
from benchfarm_engines.visit import Bench, artifact_inputs, check_session
from benchfarm_engines.witness import Witness

_WALL_SHARE: Final = 4
"""A visit among noisy neighbours ends after this many times its timed target, clean or not."""
_REWARM_BELOW_NS: Final = 5_000_000
"""Longer runs hardly feel what the other side has displaced from the caches."""


@dataclass(frozen=True)
class _Side:
    """One side, opened and checked."""

    session: Session
    open_ms: float
    first_ms: float
    gate_relative_l2: float


@dataclass
class PairSamples:
    """What one visit saw. Block i of `a` lies next to block i of `b`; canaries count pairs."""

    a: BlockSamples
    b: BlockSamples
    canaries: CanarySamples = field(default_factory=dict)


def measure_pair(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    """The fields of a pair's `done` line: those of a visit for a, and `beside` for b. Raises EngineFailure."""
    beside = visit.beside
    assert beside is not None
    precision = beside.precision or request.precision
    options = bench.options if beside.options is None else _options(beside, bench)
    with ExitStack() as opened:
        # memory that is handed out first may be the better one: every other launch b has the first turn
        first = {"b": _open(beside.visit, request, bench, precision, options, opened)} if beside.opens_first else {}
        a = _open(visit, request, bench, request.precision, bench.options, opened)
        b = first.get("b") or _open(beside.visit, request, bench, precision, options, opened)
        bench.witness.refresh()
        bench.shares.first_block_unix_s = bench.shares.first_block_unix_s or time.time()
        canary_before_ns = bench.canaries.spent_ns
        samples = time_pairs(a.session.run, b.session.run, request.protocol, bench.witness, bench.canaries)
    bench.shares.timed_ns += sum(samples.a.blocks_ns) + sum(samples.b.blocks_ns)
    return {
        **_fields(a, samples.a),
        "canaries": samples.canaries,
        "canary_ms": (bench.canaries.spent_ns - canary_before_ns) / 1e6,
        "beside": _fields(b, samples.b),
    }


def _options(beside: Beside, bench: Bench) -> dict[str, OptionValue]:
    try:
        return check_options(beside.options or {}, bench.engine.options)
    except InvalidOption as error:
        raise EngineFailure(FailureCode.ENGINE_ERROR, f"the other side: {error}") from error


def _open(
    visit: Visit,
    request: LaunchRequest,
    bench: Bench,
    precision: str,
    options: dict[str, OptionValue],
    opened: ExitStack,
) -> _Side:
    """One side, ready to be timed; `opened` closes it."""
    engine = bench.engine
    if visit.format not in engine.formats:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"{engine.name} does not read {visit.format[:40]}")
    if precision not in engine.precisions():
        raise EngineFailure(FailureCode.PRECISION_NOT_OBEYED, f"{engine.name} has no {precision[:20]} on this host")
    references = [load_reference(Path(gate.reference)) for gate in visit.gates]
    inputs = artifact_inputs(visit.inputs, visit.edges)
    cache = Path(request.cache) if request.cache else None
    begun = time.perf_counter_ns()
    session = engine.open(
        OpenRequest(Path(visit.artifact), inputs, precision, request.threads, options, beside_another=True, cache=cache)
    )
    opened.callback(session.close)
    ready = time.perf_counter_ns()
    bench.shares.open_ns += ready - begun
    if session.threads != request.threads:
        raise EngineFailure(FailureCode.THREADS_NOT_OBEYED, f"the engine took {session.threads} threads")
    session.run()
    ran = time.perf_counter_ns()
    distance = check_session(session, visit, references)[0]
    if precision != request.precision and (found := session.computes_in()) != precision:
        raise EngineFailure(FailureCode.PRECISION_NOT_OBEYED, f"asked for {precision}, the engine computes in {found}")
    return _Side(session, (ready - begun) / 1e6, (ran - ready) / 1e6, distance)


def _fields(side: _Side, samples: BlockSamples) -> dict[str, Any]:
    return {
        "iterations": samples.iterations,
        "blocks_ns": samples.blocks_ns,
        "delays_ns": samples.delays_ns,
        "switches": samples.switches,
        "warmup_runs": samples.warmup_runs,
        "timed_ms": sum(samples.blocks_ns) / 1e6,
        "open_ms": side.open_ms,
        "first_ms": side.first_ms,
        "gate_relative_l2": side.gate_relative_l2,
    }


def time_pairs(
    run_a: Callable[[], None],
    run_b: Callable[[], None],
    protocol: ProtocolParameters,
    witness: Witness,
    canaries: Canaries,
) -> PairSamples:
    """Measures two opened workloads in turn. Blocks of both sides last about equally long."""
    runs_a, fastest_a = warm_up(run_a, protocol)
    runs_b, fastest_b = warm_up(run_b, protocol)
    of_a, of_b = pair_iterations(fastest_a, fastest_b, protocol.block_min_us)
    samples = PairSamples(BlockSamples(of_a, runs_a), BlockSamples(of_b, runs_b))
    sides = (_Turn(run_a, samples.a, fastest_a), _Turn(run_b, samples.b, fastest_b))
    target_ns, begun, clean_ns = protocol.visit_ms * 1_000_000, time.perf_counter_ns(), 0
    while not _enough(len(samples.a.blocks_ns), clean_ns, time.perf_counter_ns() - begun, protocol, target_ns):
        canaries.sample(samples.canaries, len(samples.a.blocks_ns))
        clean_ns += _stretch(sides, target_ns - clean_ns, protocol, witness)
    canaries.sample(samples.canaries, len(samples.a.blocks_ns))
    return samples


def pair_iterations(fastest_a_ns: int, fastest_b_ns: int, block_min_us: int) -> tuple[int, int]:
    """Runs per block of a and b: at least `block_min_us` each, and about as long as the other side's block."""
    block_ns = max(block_min_us * 1000, fastest_a_ns, fastest_b_ns)
    of_a, of_b = (max(iterations_for(ns, block_min_us), round(block_ns / ns)) for ns in (fastest_a_ns, fastest_b_ns))
    return of_a, of_b


@dataclass(frozen=True)
class _Turn:
    """One side while it is timed."""

    run: Callable[[], None]
    samples: BlockSamples
    fastest_ns: int

    def settle(self) -> None:
        """One untimed run: back into the caches after the other side or a canary."""
        if self.fastest_ns < _REWARM_BELOW_NS:
            self.run()

    def block(self, witness: Witness) -> int:
        """One timed block; its time in ns when it was undisturbed, else 0."""
        before, run = witness.read(), self.run
        begun = time.perf_counter_ns()
        for _ in repeat(None, self.samples.iterations):
            run()
        block_ns = time.perf_counter_ns() - begun
        return self.samples.add(block_ns, before, witness.read())


def _stretch(sides: tuple[_Turn, _Turn], wanted_ns: int, protocol: ProtocolParameters, witness: Witness) -> int:
    """Pairs without a canary between them; returns the undisturbed time of whole pairs in ns."""
    witness.refresh()
    done = len(sides[0].samples.blocks_ns)
    left_ns, clean_ns = protocol.canary_every_ms * 1_000_000, 0
    sides[done % 2].settle()
    while left_ns > 0 and done < (protocol.blocks_min if clean_ns >= wanted_ns else protocol.blocks_max):
        first, second = sides if done % 2 == 0 else sides[::-1]
        pair = [first.block(witness)]
        second.settle()
        pair.append(second.block(witness))
        clean_ns += sum(pair) if all(pair) else 0
        left_ns -= first.samples.blocks_ns[-1] + second.samples.blocks_ns[-1]
        done += 1
    return clean_ns


def _enough(pairs: int, clean_ns: int, wall_ns: int, protocol: ProtocolParameters, target_ns: int) -> bool:
    if pairs >= protocol.blocks_max:
        return True
    return pairs >= protocol.blocks_min and (clean_ns >= target_ns or wall_ns >= _WALL_SHARE * target_ns)
