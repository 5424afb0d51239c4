"""One visit: open a workload, check its result, time it, close it. Failures come out typed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

from benchfarm_core.failures import FailureCode
from benchfarm_engines.blocks import BlockSamples, time_blocks
from benchfarm_engines.canary import Canaries
from benchfarm_engines.edges import Edges
from benchfarm_engines.engine import Engine, EngineFailure, OpenRequest, Session, SteppedSession
from benchfarm_engines.engine_options import OptionValue
from benchfarm_engines.gate import Array, BadReference, check_as_one, check_beside, check_outputs, load_reference
from benchfarm_engines.in_step import in_step
from benchfarm_engines.inputs import aligned, make_inputs
from benchfarm_engines.launch_request import InputSpec, LaunchRequest, Visit
from benchfarm_engines.operator_cost import OperatorCost
from benchfarm_engines.translation import to_artifact, to_workload, without_steps
from benchfarm_engines.witness import Witness


class _TimedOut(BaseException):
    """Not an Exception, so that no engine binding takes it for one of its own."""


@dataclass
class Shares:
    """Where the time of a launch went, in ns; first_block_unix_s is None until a block was timed.

    twin_relative_l2: how far the farthest good visit lay from its twin; None where none has one.
    """

    timed_ns: int = 0
    open_ns: int = 0
    first_block_unix_s: float | None = None
    twin_relative_l2: float | None = None

    def see_twins(self, distances: Sequence[float]) -> None:
        """Distances of one visit from its references behind the first."""
        known = () if self.twin_relative_l2 is None else (self.twin_relative_l2,)
        self.twin_relative_l2 = max((*known, *filter(isfinite, distances)), default=None)


@dataclass(frozen=True)
class Bench:
    """What all visits of a launch share. operator_cost: None where no canary is open."""

    engine: Engine
    options: dict[str, OptionValue]
    witness: Witness
    canaries: Canaries
    shares: Shares
    operator_cost: OperatorCost | None = None

    def totals(self) -> dict[str, Any]:
        """The shares as the `end` line carries them."""
        return {
            "timed_ms": self.shares.timed_ns / 1e6,
            "canary_ms": self.canaries.spent_ns / 1e6,
            "waited_ms": self.canaries.waited_ns / 1e6,
            "open_ms": self.shares.open_ns / 1e6,
            "first_block_unix_s": self.shares.first_block_unix_s,
            "twin_relative_l2": self.shares.twin_relative_l2,
        }


Measure = Callable[[Visit, LaunchRequest, Bench], dict[str, Any]]
"""The fields of a `done` line; raises EngineFailure."""


def run_visit(visit: Visit, request: LaunchRequest, bench: Bench, measure: Measure | None = None) -> dict[str, Any]:
    """The `done` line of one visit; never raises for a workload's fault. measure: other than of one workload."""
    try:
        with _time_limit(request.protocol.visit_timeout_s):
            return {"outcome": "ok", **(measure or _measure)(visit, request, bench)}
    except EngineFailure as failure:
        return failed(failure.code, failure.detail, failure.subject)
    except _TimedOut:
        return failed(FailureCode.TIMEOUT, f"longer than {request.protocol.visit_timeout_s:g} s")
    except MemoryError:
        return failed(FailureCode.OUT_OF_MEMORY, "more memory than a runner may use")
    except BadReference as error:
        return failed(FailureCode.ENGINE_ERROR, str(error))


def failed(code: FailureCode, detail: str, subject: str = "") -> dict[str, Any]:
    """The part of a `done` line that says why there are no samples."""
    return {"outcome": "failed", "code": str(code), "detail": detail, "subject": subject}


def _measure(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    if visit.format not in bench.engine.formats:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"{bench.engine.name} does not read {visit.format[:40]}")
    references = [load_reference(Path(gate.reference)) for gate in visit.gates]
    inputs = artifact_inputs(visit.inputs, visit.edges)
    begun = time.perf_counter_ns()
    session = bench.engine.open(
        OpenRequest(
            Path(visit.artifact),
            inputs,
            request.precision,
            request.threads,
            bench.options,
            cache=Path(request.cache) if request.cache else None,
        )
    )
    opened = time.perf_counter_ns()
    try:
        if session.threads != request.threads:
            raise EngineFailure(FailureCode.THREADS_NOT_OBEYED, f"the engine took {session.threads} threads")
        session.run()
        ran = time.perf_counter_ns()
        bench.shares.open_ns += opened - begun
        distance = check_session(session, visit, references)[0]
        samples = _timed(session, request, bench)
        again, *twins = check_session(session, visit, references)  # what was timed, not the first run alone
        distance = max(distance, again)
        bench.shares.see_twins(twins)
        told = told_precision(session, request)
    finally:
        session.close()
    return {
        **told,
        **_sample_fields(samples),
        "open_ms": (opened - begun) / 1e6,
        "first_ms": (ran - opened) / 1e6,
        "gate_relative_l2": distance,
    }


def artifact_inputs(specs: Sequence[InputSpec], edges: Edges | None) -> dict[str, Array]:
    """A workload's seeded inputs as its artifact takes them. Raises EngineFailure (conversion_failed)."""
    made = make_inputs(specs)
    if edges is None:
        return made
    try:
        return {name: aligned(array) for name, array in to_artifact(made, edges.inputs).items()}
    except ValueError as error:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"the artifact's edges do not fit: {error}") from error


def check_session(
    session: Session, visit: Visit, references: Sequence[Sequence[Array]], each: float | None = None
) -> list[float]:
    """The latest run's outputs against every reference; their distances. Raises EngineFailure (wrong_result).

    Each output counts by itself, and the distances are the largest. each: how far one may lie from the workload's own
    reference where the gate's limit, which is less, is that of all as one vector.

    References behind the first are what another engine makes of the same steps of 8 bits. An output that is nearer to
    the workload's own reference than they are is not wrong for being far from them.
    """
    outputs = session.outputs()
    if visit.edges is not None:
        shapes = [each.shape for each in references[0]]
        try:
            outputs = to_workload(outputs, visit.edges.outputs, shapes)
        except ValueError as error:
            raise EngineFailure(FailureCode.WRONG_RESULT, f"the outputs do not fit the edges: {error}") from error
    elif isinstance(session, SteppedSession):
        outputs, real = without_steps(outputs, references[0], session.output_steps())
        references = [real, *references[1:]]
    own, limit, as_one = references[0], visit.gates[0].max_relative_l2, each is not None
    first = check_outputs(outputs, own, limit) if each is None else check_as_one(outputs, own, limit, each)
    twins = in_step(references[1:], visit.gates[1:])
    return [first, *(check_beside(outputs, own, twin, gate.max_relative_l2, as_one=as_one) for twin, gate in twins)]


def told_precision(session: Session, request: LaunchRequest) -> dict[str, str]:
    """What a workload was computed in, as a `done` line carries it; nothing where the launch is not asked for it.

    Behind all that is timed, since some engines open the model once more for it. Another precision than the platform's
    is no failure: what an engine has no lower form of, a model in it pays in fp32 too.
    """
    if not request.asks_precision:
        return {}
    try:
        return {"effective_precision": session.computes_in()}
    except Exception:  # boundary: an engine that trips over the question has measured all the same
        return {}


def told_of_carrier(session: Session, request: LaunchRequest) -> dict[str, str]:
    """As `told_precision`, of a kernel in a carrier. A carrier in fp32 has every kernel in fp32; of a lower precision
    its own layers have products, which say nothing of the kernel, so there nobody is asked."""
    told = told_precision(session, request) if request.precision == "fp32" else {}
    return told if told.get("effective_precision") == request.precision else {}


def refuse_other_precision(seen: str, asked: str) -> None:
    """For a session without a canary that shows that the engine obeys. Raises EngineFailure (precision_not_obeyed).

    What an engine has no lower form of it computes in fp32, which is told and no disobedience, as beside a canary.
    """
    if seen not in (asked, "fp32"):
        raise EngineFailure(FailureCode.PRECISION_NOT_OBEYED, f"asked for {asked}, the engine computes in {seen}")


def _timed(session: Session, request: LaunchRequest, bench: Bench) -> tuple[BlockSamples, int]:
    canary_before_ns = bench.canaries.spent_ns
    bench.witness.refresh()
    bench.shares.first_block_unix_s = bench.shares.first_block_unix_s or time.time()
    samples = time_blocks(session.run, request.protocol, bench.witness, bench.canaries)
    bench.shares.timed_ns += sum(samples.blocks_ns)
    return samples, bench.canaries.spent_ns - canary_before_ns


def _sample_fields(measured: tuple[BlockSamples, int]) -> dict[str, Any]:
    samples, canary_ns = measured
    return {
        "iterations": samples.iterations,
        "blocks_ns": samples.blocks_ns,
        "delays_ns": samples.delays_ns,
        "switches": samples.switches,
        "canaries": samples.canaries,
        "warmup_runs": samples.warmup_runs,
        "timed_ms": sum(samples.blocks_ns) / 1e6,
        "canary_ms": canary_ns / 1e6,
    }


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises _TimedOut between two native calls; a call that hangs is ended by the agent from outside."""

    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        raise _TimedOut

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
