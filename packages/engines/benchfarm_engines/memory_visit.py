"""The visit of the protocol ``memory``: what a model takes of the machine's memory, and how long a cold start is.

It has a process of its own: no canary, no other workload. Reading a process' memory costs milliseconds, which is why
it never happens beside timed blocks. Sizes come from the kernel's own count of this process (``smaps``): *proportional*
set size, in which a page that several processes map counts in parts. The *peak* is the most that the process ever had,
imports included: a cage does not let it forget what was before. Where an import took more than the model does, the peak
is the import's.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, OpenRequest, Session
from benchfarm_engines.gate import load_reference
from benchfarm_engines.launch_request import LaunchRequest, Visit
from benchfarm_engines.visit import Bench, artifact_inputs, check_session, refuse_other_precision

RUNS: Final = 5
"""Inferences after the first: by then engines have grown their arenas."""
_ROLLUP: Final = Path("/proc/self/smaps_rollup")
_SMAPS: Final = Path("/proc/self/smaps")
_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True)
class _Usage:
    """This process' memory now, in bytes: proportional, resident, and the most that was ever resident."""

    pss: int
    rss: int
    peak_rss: int


def measure_memory(visit: Visit, request: LaunchRequest, bench: Bench) -> dict[str, Any]:
    """The fields of a memory visit's `done` line; the only block is the cold start. Raises EngineFailure."""
    if visit.format not in bench.engine.formats:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"{bench.engine.name} does not read {visit.format[:40]}")
    inputs = artifact_inputs(visit.inputs, visit.edges)
    opening = OpenRequest(Path(visit.artifact), inputs, request.precision, request.threads, bench.options)
    before = _usage()
    bench.witness.refresh()
    witnessed, begun_ns = bench.witness.read(), time.perf_counter_ns()
    session = bench.engine.open(opening)  # without the lease's cache: a cold start finds nothing made before
    try:
        opened_ns = time.perf_counter_ns()
        session.run()
        ran_ns = time.perf_counter_ns()
        after = bench.witness.read()  # of the threads that were there before: the engine's own began meanwhile
        loaded = _usage()
        for _ in range(RUNS):
            session.run()
        memory = _memory(before, loaded, _usage(), Path(visit.artifact))
        checked = _checked(session, visit, request)
    finally:
        session.close()
    return {
        "iterations": 1,
        "blocks_ns": [ran_ns - begun_ns],
        "delays_ns": [max(0, after.delay_ns - witnessed.delay_ns)],
        "switches": [max(0, after.switches - witnessed.switches)],
        "canaries": {},
        "warmup_runs": 0,
        "timed_ms": 0.0,  # what is timed is the opening and the first run, which are told as such
        "canary_ms": 0.0,
        "open_ms": (opened_ns - begun_ns) / 1e6,
        "first_ms": (ran_ns - opened_ns) / 1e6,
        **checked,
        "memory": memory,
    }


def _checked(session: Session, visit: Visit, request: LaunchRequest) -> dict[str, Any]:
    """The error and the precision, as a `done` line carries them. Both and the threads are asked of the model itself:
    no canary is open here."""
    if session.threads != request.threads:
        raise EngineFailure(FailureCode.THREADS_NOT_OBEYED, f"the engine took {session.threads} threads")
    seen = session.computes_in()
    refuse_other_precision(seen, request.precision)
    references = [load_reference(Path(gate.reference)) for gate in visit.gates]
    return {"gate_relative_l2": check_session(session, visit, references)[0], "effective_precision": seen}


def _memory(before: _Usage, loaded: _Usage, after: _Usage, artifact: Path) -> dict[str, int]:
    """peak: of the whole process, the interpreter and the engine's libraries (`base`) included."""
    unseen = max(0, after.peak_rss - max(loaded.rss, after.rss))  # between two readings, private to this process
    return {
        "base_pss_bytes": before.pss,
        "loaded_pss_bytes": loaded.pss,
        "peak_pss_bytes": max(loaded.pss, after.pss) + unseen,
        "peak_rss_bytes": max(after.peak_rss, after.rss),
        "mapped_weights_bytes": _mapped(_SMAPS.read_text().splitlines(), artifact),
    }


def _usage() -> _Usage:
    sizes = _sizes(_ROLLUP.read_text().splitlines())
    status = _sizes(_STATUS.read_text().splitlines())
    return _Usage(pss=sizes["Pss"], rss=sizes["Rss"], peak_rss=status["VmHWM"])


def _sizes(lines: Iterable[str]) -> dict[str, int]:
    """Lines such as ``Pss:   1234 kB`` as bytes by name."""
    parts = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in parts if len(words) == 3 and words[2] == "kB"}


def _mapped(lines: Iterable[str], artifact: Path) -> int:
    """Resident bytes of the artifact's own pages: weights that the engine reads in place."""
    total, ours = 0, False
    for line in lines:
        if line[:1] in "0123456789abcdef":
            ours = line.endswith(f" {artifact}")
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
