"""The runner: one fresh, confined process per launch. A launch request in, JSON lines out.

``python -I -m benchfarm_engines.runner`` reads one request from stdin; with ``--probe ENGINE`` it prints what
that engine is on this host. Nothing heavy is imported before the process is confined and bound to its cores:
pools of threads are sized, and inherit their cores, while an engine is being imported.
"""

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from benchfarm_core.confine import ConfinementIncomplete, confine
from benchfarm_engines.cuda_driver import CUDA_ENGINES, within_reach
from benchfarm_engines.cuda_evidence import read_gpu
from benchfarm_engines.engine import EngineUnavailable, PrecisionNotObeyed, ThreadsNotObeyed, one_line
from benchfarm_engines.engine_options import InvalidOption
from benchfarm_engines.launch_request import (
    CONTRACT,
    MAX_REQUEST_BYTES,
    BadRequest,
    LaunchRequest,
    read_launch_request,
)

EXIT_CANNOT_GO_ON: Final = 3


class AffinityRefused(Exception):
    """The process, or a thread of it, cannot be bound to the cores that were asked for."""


_LAUNCH_CODES: Final[dict[type[Exception], str]] = {
    EngineUnavailable: "engine_unavailable",
    ConfinementIncomplete: "engine_unavailable",  # of this host for this request; another board may have it
    ThreadsNotObeyed: "threads_not_obeyed",
    PrecisionNotObeyed: "precision_not_obeyed",
    AffinityRefused: "affinity_refused",
    InvalidOption: "bad_request",
    BadRequest: "bad_request",
}


class Lines:
    """The private way out: JSON lines, each sent at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, document: Mapping[str, Any]) -> None:
        """Sends one line."""
        self._file.write(json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n")


def claim_stdout() -> Lines:
    """Takes file descriptor 1 for JSON lines alone; whatever a native library prints goes to stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return Lines(os.fdopen(private, "wb", buffering=0))


def main(arguments: list[str]) -> int:
    """Runs one launch or one probe; returns the exit status."""
    lines = claim_stdout()
    if len(arguments) == 2 and arguments[0] == "--probe":
        lines.write(_probe(arguments[1]))
        return 0
    try:
        request = read_launch_request(sys.stdin.buffer.read(MAX_REQUEST_BYTES))
        _launch(request, lines)
    except tuple(_LAUNCH_CODES) as error:
        lines.write({"event": "failed", "code": _LAUNCH_CODES[type(error)], "detail": one_line(str(error))})
        return EXIT_CANNOT_GO_ON
    return 0


def _launch(request: LaunchRequest, lines: Lines) -> None:
    limits = within_reach(request.limits, request.engine)
    ours = str(Path(__file__).resolve().parent)
    held = confine(replace(limits, readable=(*limits.readable, ours)))
    bind_to_cores(request.cores)
    begun = time.perf_counter()
    # Only now: everything below imports numpy and the engine.
    from benchfarm_engines.batch import open_bench, visit_all

    bench, ready = open_bench(request)
    ready["import_ms"] = (time.perf_counter() - begun) * 1e3 - ready["canary_open_ms"]
    lines.write({"event": "ready", "contract": CONTRACT, "confinement": list(held), **ready})
    gc.disable()
    gc.freeze()
    visit_all(request, bench, lines.write)
    gpu = {"gpu": read_gpu()} if request.engine in CUDA_ENGINES else {}  # at once: clocks fall when it is idle
    totals = {"wall_ms": _process_age_ms(), "peak_rss_bytes": _peak_rss(), **bench.totals(), **gpu}
    lines.write({"event": "end", **totals})


def bind_to_cores(cores: tuple[int, ...]) -> None:
    """Binds this process, and so every thread it starts later, to the cores. Raises AffinityRefused."""
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError) as error:
        raise AffinityRefused(f"cores {list(cores)}: {error}") from error
    if os.sched_getaffinity(0) != set(cores):
        raise AffinityRefused(f"asked for cores {list(cores)}, got {sorted(os.sched_getaffinity(0))}")


def _process_age_ms() -> float:
    """Since the kernel started this process, interpreter start included; exact to a clock tick."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return (time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")) * 1e3


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _probe(name: str) -> dict[str, Any]:
    from benchfarm_core.profilers import in_situ_by
    from benchfarm_engines.registry import load_engine

    try:
        engine = load_engine(name)
        found = {"version": engine.version(), "precisions": list(engine.precisions())}
    except (EngineUnavailable, RuntimeError) as error:  # RuntimeError: imported, but does not work on this host
        return {"engine": name, "available": False, "reason": one_line(str(error))}
    options = {option.name: option.schema() for option in engine.options}
    told = {"options": options, "by_difference": in_situ_by(name, "fp32") == "difference"}
    return {"engine": name, "available": True, **found, **told, "reason": ""}


if __name__ == "__main__":
    # Without the engines' exit handlers: every line is out, and taking pools apart costs tens of milliseconds.
    os._exit(main(sys.argv[1:]))
