"""The visit of the protocol ``profile``: the time of each operator, as the engine's own profiler tells it."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

from benchfarm_core.failures import FailureCode
from benchfarm_engines.blocks import warm_up
from benchfarm_engines.canary import CanarySamples
from benchfarm_engines.engine import EngineFailure, NodeTime, OpenRequest, ProfilingSession
from benchfarm_engines.gate import load_reference
from benchfarm_engines.in_step import in_step
from benchfarm_engines.launch_request import LaunchRequest, Visit
from benchfarm_engines.run_watch import RunWatch, Step
from benchfarm_engines.visit import Bench, artifact_inputs, check_session, told_precision

RUNS_MIN: Final = 5
RUNS_MAX: Final = 50
NODES_MAX: Final = 5000
INT8_EACH_MAX: Final = 0.25
"""How far one output of an int8 carrier may lie from its reference. From kernel to kernel the roundings of 8 bits add
up, so that right ones were seen at 0.051, above the gate's limit for the whole; a wrong kernel is off by about 1."""
_NAME_LENGTH: Final = 200
_KIND_LENGTH: Final = 60
_ROWS_BYTES_MAX: Final = 700_000
"""Of all rows as the runner's line carries them: the agent reads no line above a megabyte."""


def measure_profile(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    """The fields of a profile visit's `done` line; a block is the sum of one inference's operators.

    Raises EngineFailure, `profile_unavailable` in its detail where the engine has no profiler.
    """
    with profiled_session(visit, request, bench) as (session, facts):
        profiled = _profiled(session, request, bench) | told_precision(session, request)
    return profiled | facts


@contextmanager
def profiled_session(
    visit: Visit, request: LaunchRequest, bench: Bench
) -> Iterator[tuple[ProfilingSession, dict[str, float]]]:
    """A visit's model, opened for its profile, run once and checked; `open_ms`, `first_ms` and `gate_relative_l2`.

    The latest run is checked again behind the profile; only then the facts are complete. Raises as `measure_profile`.
    """
    engine = bench.engine
    if visit.format not in engine.formats:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"{engine.name} does not read {visit.format[:40]}")
    if not engine.profiles:
        detail = f"profile_unavailable: {engine.name} does not tell the time of single operators"
        raise EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, detail, subject="profile")
    references = [load_reference(Path(gate.reference)) for gate in visit.gates]
    inputs = artifact_inputs(visit.inputs, visit.edges)
    opening = OpenRequest(
        Path(visit.artifact), inputs, request.precision, request.threads, bench.options, profiled=True
    )
    each = _limit_of_each(visit, request)
    begun = time.perf_counter_ns()
    session = cast(ProfilingSession, engine.open(opening))
    opened = time.perf_counter_ns()
    try:
        bench.shares.open_ns += opened - begun
        if session.threads != request.threads:
            raise EngineFailure(FailureCode.THREADS_NOT_OBEYED, f"the engine took {session.threads} threads")
        session.run()
        ran = time.perf_counter_ns()
        facts = {
            "open_ms": (opened - begun) / 1e6,
            "first_ms": (ran - opened) / 1e6,
            "gate_relative_l2": check_session(session, visit, references, each)[0],
        }
        yield session, facts
        facts["gate_relative_l2"] = max(facts["gate_relative_l2"], check_session(session, visit, references, each)[0])
    finally:
        session.close()


def _limit_of_each(visit: Visit, request: LaunchRequest) -> float | None:
    """As `check_session` has it: None where no output may lie farther from its reference than the gate says."""
    return INT8_EACH_MAX if visit.sites and request.precision == "int8" else None


def _profiled(session: ProfilingSession, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    warmup_runs, fastest_ns = warm_up(session.run, request.protocol)
    runs = min(RUNS_MAX, max(RUNS_MIN, request.protocol.visit_ms * 1_000_000 // fastest_ns))
    canaries: CanarySamples = {}
    canary_before_ns = bench.canaries.spent_ns
    bench.canaries.sample(canaries, 0)
    session.run()
    bench.witness.refresh()
    bench.shares.first_block_unix_s = bench.shares.first_block_unix_s or time.time()
    watch = RunWatch(bench.witness)
    inferences = session.profile(runs, watch.mark)
    blocks_ns = [max(1, sum(node.ns for node in nodes)) for nodes in inferences]
    bench.shares.timed_ns += sum(blocks_ns)
    return {
        "iterations": 1,
        "blocks_ns": blocks_ns,
        "delays_ns": [step.delay_ns for step in watch.steps],
        "switches": [step.switches for step in watch.steps],
        "canaries": canaries,
        "warmup_runs": warmup_runs,
        "timed_ms": sum(blocks_ns) / 1e6,
        "canary_ms": (bench.canaries.spent_ns - canary_before_ns) / 1e6,
        "nodes": node_medians(undisturbed(inferences, watch.steps)),
    }


def undisturbed(inferences: Sequence[list[NodeTime]], steps: Sequence[Step]) -> list[list[NodeTime]]:
    """Those inferences in which the witness saw nobody; all of them where it saw somebody in each."""
    calm = [nodes for nodes, step in in_step(inferences, steps) if not step.disturbed]
    return calm or list(inferences)


def node_medians(inferences: Sequence[Sequence[NodeTime]]) -> list[dict[str, Any]]:
    """Each operator with its median time over the inferences, in the order of the first one.

    What an inference has several times under one name counts as one, with its sum: the rows add up to the inference,
    unless there are more than `NODES_MAX` or than a line carries: then the last ones are left out.
    """
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for nodes in inferences:
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for node in nodes:
            sums[node.name, node.kind] += node.ns
        for key, ns in sums.items():
            times[key].append(ns)
    rows = [
        {"name": name[:_NAME_LENGTH], "kind": kind[:_KIND_LENGTH], "ns": max(0, int(median(found)))}
        for (name, kind), found in list(times.items())[:NODES_MAX]
    ]
    ends = accumulate(len(json.dumps(row)) + 2 for row in rows)
    return [row for row, end in in_step(rows, list(ends)) if end <= _ROWS_BYTES_MAX]
