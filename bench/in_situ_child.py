"""The measuring half of ``bench.in_situ``: one process, bound to one core before an engine is imported.

Reads one JSON object from a file and writes one to another; see ``Task``.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchfarm_engines.launch_request import ProtocolParameters
from benchfarm_engines.runner import bind_to_cores

WARMUP_RUNS: Final = 3
PROFILED_RUNS: Final = 15
SESSIONS: Final = 3
"""Of an engine that tells means only: one disturbed inference spoils the mean of its session, and no other."""

BLOCK_NS: Final = 200_000
BLOCKS: Final = 9

PROTOCOL: Final = ProtocolParameters(
    block_min_us=200,
    visit_ms=10,
    blocks_min=5,
    blocks_max=600,
    warmup_min_runs=3,
    warmup_min_ms=2,
    canary_every_ms=20,
    visit_timeout_s=60,
)
"""The protocol ``kernel``, for visits by difference."""

Node = tuple[str, str, float, list[str]]
"""An operator of a profile: name, kind, ns, the nodes that it stands for."""


@dataclass(frozen=True)
class File:
    """One file to open: its name in the answer, and what is wanted of it.

    cost: what the profiler adds to each operator, as a launch of the farm learns it on its canary. twice: beside a
    carrier that holds a kernel once, the fields of the file of one that holds it twice.
    """

    name: str
    artifact: str
    inputs: list[dict[str, Any]]
    edges: dict[str, Any] | None
    plain: bool
    profiled: bool
    cost: bool = False
    twice: dict[str, Any] | None = None


@dataclass(frozen=True)
class Task:
    """engine, core; cache: a folder for compiled models; rounds: how often each file is visited, all in turn.

    floor: the fastest block and inference of a visit, not the typical one. limit_s: no round but the first is begun
    that would probably end later.
    """

    engine: str
    core: int
    cache: str
    rounds: int
    floor: bool
    limit_s: float
    files: list[File]


def main() -> None:
    """Two arguments: where the task lies, and where the answer goes."""
    document = json.loads(Path(sys.argv[1]).read_bytes())
    task = Task(**{**document, "files": [File(**each) for each in document["files"]]})
    bind_to_cores((task.core,))
    begun_s, longest_s, rounds = time.monotonic(), 0.0, list[dict[str, dict[str, Any]]]()
    while len(rounds) < task.rounds and (not rounds or time.monotonic() - begun_s + longest_s <= task.limit_s):
        round_s = time.monotonic()
        rounds.append(_round(task))
        longest_s = max(longest_s, time.monotonic() - round_s)
        _keep(Path(sys.argv[2]), rounds)


def _keep(path: Path, rounds: list[dict[str, dict[str, Any]]]) -> None:
    """All at once: whoever ends this process finds the rounds that were whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rounds))
    part.replace(path)


def _round(task: Task) -> dict[str, dict[str, Any]]:
    """By file: ``plain_ns``, one inference as it is; ``nodes``, one as the profiler sees it; ``cost_ns``; by difference
    the ``samples`` of a launch."""
    answers: dict[str, dict[str, Any]] = {}
    for file in task.files:
        answer = answers[file.name] = {}
        if file.plain:
            blocks_ns = _with_session(task, file, profiled=False, use=_blocks_ns)
            answer["plain_ns"] = min(blocks_ns) if task.floor else median(blocks_ns)
        if file.profiled:
            inferences = _inferences(task, file)
            answer["nodes"] = (_fastest if task.floor else _typical)(inferences)
        if file.cost:
            answer["cost_ns"] = _cost_ns(task, file)
        if file.twice is not None:
            answer["samples"] = [_samples_by_difference(task, file, replace(file, **file.twice))]
    return answers


def _inferences(task: Task, file: File) -> list[list[Any]]:
    found: list[list[Any]] = _with_session(task, file, profiled=True, use=_profiled)
    if len(found) > 1:
        return found
    again = (_with_session(task, file, profiled=True, use=_profiled) for _ in range(SESSIONS - 1))
    return [*found, *(inference for inferences in again for inference in inferences)]


def _profiled(session: Any) -> list[list[Any]]:
    """Single inferences, or one mean of a few."""
    if session.tells_means:
        return [session.profile(PROFILED_RUNS // SESSIONS)[0]]
    inferences: list[list[Any]] = session.profile(PROFILED_RUNS)
    return inferences


def _cost_ns(task: Task, file: File) -> float:
    from benchfarm_engines.operator_cost import OperatorCost

    engine, opening = _opening(task, file)
    plain = engine.open(opening)
    try:
        return OperatorCost(engine, opening, plain).ns()
    finally:
        plain.close()


def _samples_by_difference(task: Task, once: File, twice: File) -> dict[str, Any]:
    """Both carriers in turn, as a visit of the farm times them, less its gates and canaries."""
    from benchfarm_engines.difference_visit import time_round, wants_round
    from benchfarm_engines.displacement import Displacement
    from benchfarm_engines.pair_visit import PairSamples
    from benchfarm_engines.witness import Witness

    samples, witness, displace = PairSamples(), Witness(), Displacement((task.core,))
    try:
        while wants_round(samples, PROTOCOL):
            openings = [_opening(task, file) for file in (once, twice)]
            sessions = [engine.open(replace(opening, beside_another=True)) for engine, opening in openings]
            try:
                time_round(sessions, samples, PROTOCOL, witness, displace)
            finally:
                for session in sessions:
                    session.close()
    finally:
        witness.close()
    beside = samples.b.fields() | {"rounds": samples.rounds, "threads": 1}
    return {**samples.a.fields(), "canaries": {}, "canary_ms": 0.0, "launch_no": 0, "beside": beside}


def _opening(task: Task, file: File) -> tuple[Any, Any]:
    """The engine, and how it opens the file."""
    from benchfarm_engines.engine import OpenRequest
    from benchfarm_engines.engine_options import check_options
    from benchfarm_engines.launch_request import read_edges, read_inputs
    from benchfarm_engines.registry import load_engine
    from benchfarm_engines.visit import artifact_inputs

    engine = load_engine(task.engine)
    inputs = artifact_inputs(read_inputs(file.inputs), read_edges(file.edges))
    options = check_options({}, engine.options)
    return engine, OpenRequest(Path(file.artifact), inputs, "fp32", 1, options, cache=Path(task.cache))


def _with_session(task: Task, file: File, *, profiled: bool, use: Callable[[Any], Any]) -> Any:
    engine, opening = _opening(task, file)
    session = engine.open(replace(opening, profiled=profiled))
    try:
        for _ in range(WARMUP_RUNS):
            session.run()
        return use(session)
    finally:
        session.close()


def _blocks_ns(session: Any) -> list[float]:
    """One inference in blocks of at least 200 us."""
    estimate_ns = min(_block_ns(session.run, 1) for _ in range(WARMUP_RUNS))
    count = max(1, round(BLOCK_NS / estimate_ns))
    return [_block_ns(session.run, count) for _ in range(BLOCKS)]


def _block_ns(run: Callable[[], None], count: int) -> float:
    begun_ns = time.perf_counter_ns()
    for _ in range(count):
        run()
    return (time.perf_counter_ns() - begun_ns) / count


def _typical(inferences: list[list[Any]]) -> list[Node]:
    """Each operator with the median of its times; a session that has compiled it away gave it none."""
    seen: dict[tuple[str, int], list[Any]] = {}
    for nodes in inferences:
        counts = Counter[str]()
        for node in nodes:
            seen.setdefault((node.name, counts[node.name]), []).append(node)
            counts[node.name] += 1
    return [_node(same[0], _median_ns(same, len(inferences))) for same in seen.values()]


def _median_ns(same: list[Any], inferences: int) -> float:
    return float(median([node.ns for node in same] + [0] * (inferences - len(same))))


def _fastest(inferences: list[list[Any]]) -> list[Node]:
    return [_node(node, node.ns) for node in min(inferences, key=lambda nodes: sum(node.ns for node in nodes))]


def _node(node: Any, ns: float) -> Node:
    return (node.name, node.kind, ns, list(node.origins))
