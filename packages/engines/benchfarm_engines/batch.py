"""The heavy half of a launch: opens the engine and the canaries, then visits every workload in order."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchfarm_engines.canary import Canaries, sgemm
from benchfarm_engines.difference_visit import measure_by_difference
from benchfarm_engines.engine import (
    Engine,
    EngineFailure,
    EngineUnavailable,
    OpenRequest,
    PrecisionNotObeyed,
    Session,
    ThreadsNotObeyed,
)
from benchfarm_engines.engine_options import OptionValue, check_options
from benchfarm_engines.in_situ_visit import answer_of_site, measure_in_situ
from benchfarm_engines.launch_request import LaunchRequest, Visit
from benchfarm_engines.memory_visit import measure_memory
from benchfarm_engines.operator_cost import OperatorCost
from benchfarm_engines.pair_visit import measure_pair
from benchfarm_engines.profile_visit import measure_profile
from benchfarm_engines.registry import load_engine
from benchfarm_engines.task_threads import cpu_ns_by_thread, threads_outside
from benchfarm_engines.visit import Bench, Measure, Shares, artifact_inputs, run_visit
from benchfarm_engines.witness import Witness, WitnessUnavailable

_SETTLING_RUNS: Final = 20
_BUSY_SHARE: Final = 0.1
"""A thread that used this share of the wall time computed (or spun for it); others only woke up."""


def open_bench(request: LaunchRequest) -> tuple[Bench, dict[str, Any]]:
    """The engine with its canaries, and the facts for the `ready` line.

    Raises EngineUnavailable, InvalidOption, ThreadsNotObeyed, PrecisionNotObeyed.
    """
    engine = load_engine(request.engine)
    options = check_options(request.options, engine.options)
    if request.precision not in engine.precisions():
        raise PrecisionNotObeyed(f"{engine.name} has {', '.join(engine.precisions())} on this host")
    begun = time.perf_counter()
    # a process whose memory is looked at holds nothing but the one workload
    opening = _canary_opening(request, options)
    session = None if request.protocol.purpose == "memory" else _open_canary(engine, opening)
    if session is not None:
        _check_promises(session, request)
    canary_open_ms = (time.perf_counter() - begun) * 1e3
    try:
        witness = Witness()
    except WitnessUnavailable as error:
        raise EngineUnavailable(str(error)) from error
    runs = _canary_runs(request, session) if session is not None else {}
    cost = OperatorCost(engine, opening, session) if session is not None else None
    asked = request.canaries
    canaries = Canaries(
        runs, witness, fastest_ns=asked.sgemm_fastest_ns, patience_ns=asked.sgemm_patience_ms * 1_000_000
    )
    bench = Bench(engine, options, witness, canaries, Shares(), cost)
    return bench, {
        "engine": engine.name,
        "engine_version": engine.version(),
        "precision": request.precision,
        "threads": request.threads,
        "threads_observed": session.threads if session is not None else 0,
        "affinity": sorted(os.sched_getaffinity(0)),
        "witness_cost_ns": witness.cost_ns(),
        "canary_open_ms": canary_open_ms,
    }


def visit_all(request: LaunchRequest, bench: Bench, write: Callable[[Mapping[str, Any]], None]) -> None:
    """Every visit in the order of the request, two lines for each number."""
    for visit in request.visits:
        first, *rest = visit.numbers
        write({"event": "started", "visit": first})
        answer = run_visit(visit, request, bench, _measure_of(visit, request))
        write({"event": "done", "visit": first, **answer_of_site(answer, first)})
        for number in rest:  # of a carrier, which was visited once for all its sites
            write({"event": "started", "visit": number})
            write({"event": "done", "visit": number, **answer_of_site(answer, number)})
        gc.collect()  # between visits, since it is off while they are timed


def _measure_of(visit: Visit, request: LaunchRequest) -> Measure | None:
    if visit.beside is not None:
        return measure_pair
    if visit.twice is not None:
        return measure_by_difference
    if visit.sites:
        return measure_in_situ
    return {"memory": measure_memory, "profile": measure_profile}.get(request.protocol.purpose)


def _canary_runs(request: LaunchRequest, session: Session) -> dict[str, Callable[[], object]]:
    return {"sgemm": sgemm(request.canaries.sgemm_n, request.canaries.sgemm_seed), "mobilenet": session.run}


def _canary_opening(request: LaunchRequest, options: dict[str, OptionValue]) -> OpenRequest:
    canary = request.canaries
    return OpenRequest(
        Path(canary.artifact),
        artifact_inputs(canary.inputs, canary.edges),
        request.precision,
        request.threads,
        options,
        beside_another=True,
        cache=Path(request.cache) if request.cache else None,
    )


def _open_canary(engine: Engine, opening: OpenRequest) -> Session:
    try:
        session = engine.open(opening)
        session.run()
    except EngineFailure as failure:
        raise EngineUnavailable(f"the canary does not run: {failure.detail}") from failure
    return session


def _check_promises(session: Session, request: LaunchRequest) -> None:
    """Threads and precision as asked, seen on the canary: by the engine's word and by the kernel's."""
    if session.threads != request.threads:
        raise ThreadsNotObeyed(f"asked for {request.threads} threads, the engine has {session.threads}")
    busy = _busy_threads(session)
    if busy > request.threads:
        raise ThreadsNotObeyed(f"asked for {request.threads} threads, {busy} are computing")
    outside = threads_outside(set(request.cores))
    if outside:
        raise ThreadsNotObeyed(f"{len(outside)} threads may run outside cores {list(request.cores)}")
    precision = session.computes_in()
    if precision != request.precision:
        raise PrecisionNotObeyed(f"asked for {request.precision}, the engine computes in {precision}")


def _busy_threads(session: Session) -> int:
    before, begun = cpu_ns_by_thread(), time.perf_counter_ns()
    for _ in range(_SETTLING_RUNS):
        session.run()
    wall_ns = time.perf_counter_ns() - begun
    after = cpu_ns_by_thread()
    return sum(after[thread] - before.get(thread, 0) >= _BUSY_SHARE * wall_ns for thread in after)
