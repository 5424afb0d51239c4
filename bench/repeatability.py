"""How well a measurement repeats: an hour apart on a quiet machine, and beside a busy loop on every core.

python -m bench.repeatability [--apart-min 60] [--kernels 100] [--engines onnxruntime,openvino,litert,ncnn,mnn]

Quiet runs are separate jobs of one farm, so both are normalised by the same reference. The loaded run follows a
quiet one at once: quiet means measured within ten minutes before. Accepted under load: measured with a grade that is
reused (A-C).
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from bench.measuring import kernels, measure
from bench.report import write_section
from benchfarm import Client
from benchfarm_core.jobs import ItemView
from benchfarm_core.summaries import is_reusable
from benchfarm_core.workloads import GeneratedModelRequest, KernelRequest
from benchfarm_standalone.farm_process import FarmProcess

SEED = 71
ENGINES = ("onnxruntime", "openvino", "litert", "ncnn", "mnn")
MODELS = ("mobilenet_v2", "resnet18", "mobilenet_v3_large")
QUIET_MEDIAN, QUIET_P90 = 0.01, 0.03
ACCEPTED_SHARE, LOADED_MEDIAN, LOADED_MAX = 0.95, 0.03, 0.08
SHORT_MS = 1.0
Values = Mapping[str, float]
Row = dict[str, object]


def an_hour_apart(before: Mapping[str, Values], after: Mapping[str, Values], apart_min: float) -> list[Row]:
    """Two quiet runs of the same workloads, per engine."""
    rows: list[Row] = []
    for engine, values in before.items():
        common = sorted(set(values) & set(after[engine]))
        apart = [abs(values[name] / after[engine][name] - 1) for name in common]
        middle, high = median(apart), quantiles(apart, n=10)[-1]
        rows.append({
            "engine": engine, "workloads": len(common), "minutes apart": round(apart_min),
            "median": f"{middle:.2%}", "p90": f"{high:.2%}", "highest": f"{max(apart):.1%}",
            "goal": f"median <= {QUIET_MEDIAN:.0%}, p90 <= {QUIET_P90:.0%}",
            "met": middle <= QUIET_MEDIAN and high <= QUIET_P90,
        })  # fmt: skip
    return rows


def beside_load(quiet: Mapping[str, Values], loaded: Mapping[str, Values]) -> list[Row]:
    """A run beside busy loops against the quiet one right before it, short workloads and long ones apart."""
    return [row for engine in quiet for row in _loaded_rows(engine, quiet[engine], loaded[engine])]


def _loaded_rows(engine: str, quiet: Values, loaded: Values) -> Iterator[Row]:
    for short in (True, False):
        names = [name for name, ms in quiet.items() if (ms < SHORT_MS) == short]
        apart = [abs(loaded[name] / quiet[name] - 1) for name in names if name in loaded]
        share = len(apart) / len(names) if names else 0.0
        middle, most = (median(apart), max(apart)) if apart else (0.0, 0.0)
        met = middle <= LOADED_MEDIAN and (not short or (share >= ACCEPTED_SHARE and most <= LOADED_MAX))
        yield {
            "engine": engine, "workloads": f"{len(names)} {'below' if short else 'above'} {SHORT_MS:g} ms",
            "accepted": f"{share:.1%}", "median": f"{middle:.2%}", "highest": f"{most:.1%}",
            "goal": f">= {ACCEPTED_SHARE:.0%} accepted, median <= {LOADED_MEDIAN:.0%}, none beyond {LOADED_MAX:.0%}"
            if short else f"median <= {LOADED_MEDIAN:.0%}, the others inconclusive",
            "met": met,
        }  # fmt: skip


def _run(client: Client, engines: Sequence[str], count: int) -> dict[str, Values]:
    """Normalised ms of what was accepted, by engine and workload."""
    models = tuple(GeneratedModelRequest(name=name) for name in MODELS)
    drawn: tuple[KernelRequest | GeneratedModelRequest, ...] = kernels(SEED, count)
    wanted = drawn + models
    return {engine: _accepted(measure(client, wanted, engine, 1)) for engine in engines}


def _accepted(items: Sequence[ItemView]) -> Values:
    found = ((item.workload_id, item.summary) for item in items)
    return {
        name: summary.normalised_ms
        for name, summary in found
        if summary and summary.normalised_ms and is_reusable(summary.grade)
    }


@contextmanager
def busy_loops() -> Iterator[None]:
    """A process on every core that never sleeps."""
    children = [_busy_loop(core) for core in sorted(os.sched_getaffinity(0))]
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def _busy_loop(core: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.sched_setaffinity(0, {core})
    while True:
        pass


def main() -> int:
    """Quiet, loaded, a pause, quiet again; two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apart-min", type=float, default=60.0)
    parser.add_argument("--kernels", type=int, default=100)
    parser.add_argument("--engines", default=",".join(ENGINES))
    given = parser.parse_args()
    engines = tuple(given.engines.split(","))
    command = f"python -m bench.repeatability --apart-min {given.apart_min:g} --kernels {given.kernels}"
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder)) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        begun = time.monotonic()
        before: dict[str, Values] = {}
        loaded: dict[str, Values] = {}
        for engine in engines:  # quiet right before, engine by engine
            before |= _run(client, (engine,), given.kernels)
            with busy_loops():
                loaded |= _run(client, (engine,), given.kernels)
        rows = beside_load(before, loaded)
        write_section("Beside a busy loop on every core", command, rows)
        time.sleep(max(0.0, 60 * given.apart_min - (time.monotonic() - begun)))
        rows_quiet = an_hour_apart(before, _run(client, engines, given.kernels), given.apart_min)
    write_section("Quiet runs an hour apart", command, rows_quiet)
    return 0 if all(row["met"] for row in (*rows, *rows_quiet)) else 1


if __name__ == "__main__":
    sys.exit(main())
