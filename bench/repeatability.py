"""How well a measurement repeats: an hour apart on a quiet machine, and beside a busy loop on every core.

python -m bench.repeatability [loaded|apart|all] [--apart-min 60] [--kernels 100] [--engines onnxruntime,openvino,...]
    [--protocol kernel]

Quiet runs are separate jobs of one farm, so both are normalised by the same reference. The loaded run follows a
quiet one at once: quiet means measured within ten minutes before. Accepted under load: measured with a grade that is
reused (A-C). Beside load, each accepted workload above 1 ms is held to 3 %; what is not accepted is told with its
reason. The second quiet run of an engine begins at least `--apart-min` minutes after the end of its first.
Another protocol than `kernel` has sections of its own, with the same goals.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from bench.measuring import kernels, measure
from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_core.jobs import ItemView
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.summaries import is_reusable
from benchfarm_core.workloads import GeneratedModelRequest, KernelRequest
from benchfarm_standalone.farm_process import FarmProcess

SEED = 71
PROTOCOL = "kernel"
ENGINES = ("onnxruntime", "openvino", "litert", "ncnn", "mnn")
MODELS = ("mobilenet_v2", "resnet18", "mobilenet_v3_large")
QUIET_MEDIAN, QUIET_P90 = 0.01, 0.03
ACCEPTED_SHARE, LOADED_MEDIAN, LOADED_MAX, LONG_MAX = 0.95, 0.03, 0.08, 0.03
SHORT_MS = 1.0
QUIET_BEFORE_MIN = 10.0
Row = dict[str, object]


@dataclass(frozen=True)
class Run:
    """One engine's run, by a workload's label: normalised ms of what was accepted, why the rest was not, when it began
    and ended; grade and normalised ms of all that has a number, what is not accepted included."""

    accepted: Mapping[str, float]
    rejected: Mapping[str, str]
    graded: Mapping[str, tuple[str, float]]
    began_s: float
    ended_s: float


def an_hour_apart(before: Mapping[str, Run], after: Mapping[str, Run]) -> list[Row]:
    """Two quiet runs of the same workloads, per engine; apart from the end of the first to the begin of the second."""
    return [_quiet_row(engine, run, after[engine]) for engine, run in before.items()]


def by_grade(before: Mapping[str, Run], after: Mapping[str, Run]) -> list[Row]:
    """What a grade promised, an hour later: numbers of all engines by the worse of their two grades, grade D too."""
    apart: dict[str, list[float]] = defaultdict(list)
    for engine, run in before.items():
        for name in set(run.graded) & set(after[engine].graded):
            (one, one_ms), (other, other_ms) = run.graded[name], after[engine].graded[name]
            apart[max(one, other)].append(abs(one_ms / other_ms - 1))
    return [
        {"worse grade of the two": grade, "pairs": len(seen), "median": f"{median(seen):.2%}",
         "p90": f"{_p90(seen):.2%}", "highest": f"{max(seen):.1%}"}
        for grade, seen in sorted({**apart, "all": [value for seen in apart.values() for value in seen]}.items())
    ]  # fmt: skip


def _quiet_row(engine: str, one: Run, other: Run) -> Row:
    common = sorted(set(one.accepted) & set(other.accepted))
    share = len(common) / max(1, len({*one.accepted, *one.rejected}))
    apart = [abs(one.accepted[name] / other.accepted[name] - 1) for name in common]
    middle, high, most = (median(apart), _p90(apart), max(apart)) if apart else (1.0, 1.0, 1.0)
    also_d = [abs(one.graded[name][1] / other.graded[name][1] - 1) for name in set(one.graded) & set(other.graded)]
    return {
        "engine": engine, "workloads": len(common), "accepted in both": f"{share:.1%}",
        "minutes apart": round((other.began_s - one.ended_s) / 60, 1),
        "not accepted": "; ".join(_rejected(run, {*run.accepted, *run.rejected}) for run in (one, other)),
        "median": f"{middle:.2%}", "p90": f"{high:.2%}", "highest": f"{most:.1%}",
        "p90 with grade D": f"{_p90(also_d) if also_d else 1.0:.2%} of {len(also_d)}",
        "goal": f"median <= {QUIET_MEDIAN:.0%}, p90 <= {QUIET_P90:.0%} of >= {ACCEPTED_SHARE:.0%} of all",
        "met": share >= ACCEPTED_SHARE and middle <= QUIET_MEDIAN and high <= QUIET_P90,
    }  # fmt: skip


def _p90(apart: Sequence[float]) -> float:
    return quantiles(apart, n=10)[-1] if len(apart) > 1 else max(apart)


def _rejected(run: Run, names: Collection[str]) -> str:
    """Which share of the names was not accepted, and why."""
    reasons = Counter(run.rejected[name] for name in names if name in run.rejected)
    share = sum(reasons.values()) / len(names) if names else 0.0
    return " ".join(
        [
            f"{share:.1%}",
            *(f"({reason} {count})" for reason, count in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))),
        ]
    )


def beside_load(quiet: Mapping[str, Run], loaded: Mapping[str, Run]) -> list[Row]:
    """A run beside busy loops against the quiet one right before it, short workloads and long ones apart."""
    return [row for engine in quiet for row in _loaded_rows(engine, quiet[engine], loaded[engine])]


def _loaded_rows(engine: str, quiet: Run, loaded: Run) -> Iterator[Row]:
    for short in (True, False):
        names = [name for name, ms in quiet.accepted.items() if (ms < SHORT_MS) == short]
        apart = {name: _apart(ms, quiet.accepted[name]) for name, ms in loaded.accepted.items() if name in names}
        told = [(name, ms) for name, (_, ms) in loaded.graded.items() if name in names and name not in apart]
        off_d = sum(_apart(ms, quiet.accepted[name]) > LONG_MAX for name, ms in told)
        share = len(apart) / len(names) if names else 0.0
        middle, most = (median(apart.values()), max(apart.values())) if apart else (0.0, 0.0)
        accepted = share >= ACCEPTED_SHARE and middle <= LOADED_MEDIAN and most <= LOADED_MAX
        # nobody reuses grade D, but it is a number all the same: a long workload is right or inconclusive
        met = accepted if short else most <= LONG_MAX and not off_d
        minutes = (loaded.ended_s - quiet.began_s) / 60
        yield {
            "engine": engine, "workloads": f"{len(names)} {'below' if short else 'above'} {SHORT_MS:g} ms",
            "accepted": f"{share:.1%}", "not accepted": _rejected(loaded, names),
            "median": f"{middle:.2%}", "highest": f"{most:.1%}",
            "farthest": max(apart, key=lambda name: apart[name], default=""),
            "grade D": f"{off_d} of {len(told)} beyond {LONG_MAX:.0%}",
            "not accepted when quiet, of any length": _rejected(quiet, {*quiet.accepted, *quiet.rejected}),
            "minutes since quiet, at most": round(minutes, 1),
            "goal": f">= {ACCEPTED_SHARE:.0%} accepted, median <= {LOADED_MEDIAN:.0%}, none beyond {LOADED_MAX:.0%}"
            if short else f"each within {LONG_MAX:.0%} or inconclusive",
            "met": met and minutes <= QUIET_BEFORE_MIN,
        }  # fmt: skip


def _apart(one_ms: float, other_ms: float) -> float:
    return abs(one_ms / other_ms - 1)


def run_engine(client: Client, engine: str, given: argparse.Namespace) -> Run:
    """Drawn kernels and the models, measured anew."""
    models = tuple(GeneratedModelRequest(name=name) for name in MODELS)
    drawn: tuple[KernelRequest | GeneratedModelRequest, ...] = kernels(SEED, given.kernels)
    began_s = time.monotonic()
    items = measure(client, drawn + models, engine, 1, protocol=ProtocolRequest(name=given.protocol))
    accepted, rejected = dict[str, float](), dict[str, str]()
    graded = dict[str, tuple[str, float]]()
    for item in items:
        if item.summary is not None and item.summary.normalised_ms is not None:
            graded[item.label] = (str(item.summary.grade), item.summary.normalised_ms)
        normalised_ms, why = _judged(item)
        if normalised_ms is None:
            rejected[item.label] = why
        else:
            accepted[item.label] = normalised_ms
    return Run(accepted, rejected, graded, began_s, time.monotonic())


def _judged(item: ItemView) -> tuple[float | None, str]:
    """Normalised ms of what is accepted, else why it is not."""
    if item.summary is None:
        return None, item.failure or str(item.state)
    if not is_reusable(item.summary.grade):
        return None, f"grade {item.summary.grade}"
    return item.summary.normalised_ms, "not normalised"


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
    """Quiet, loaded, a pause, quiet again; two tables, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=("loaded", "apart", "all"))
    parser.add_argument("--apart-min", type=float, default=60.0)
    parser.add_argument("--kernels", type=int, default=100)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--protocol", default=PROTOCOL, choices=(PROTOCOL, "standard"))
    given = parser.parse_args()
    engines = tuple(given.engines.split(","))
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder)) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        before: dict[str, Run] = {}
        loaded: dict[str, Run] = {}
        for engine in engines:  # quiet right before, engine by engine
            before[engine] = run_engine(client, engine, given)
            if given.what != "apart":
                with busy_loops():
                    loaded[engine] = run_engine(client, engine, given)
        rows = beside_load(before, loaded) if loaded else []
        if rows:
            write_section(_section("Beside a busy loop on every core", given), command_run(), rows)
        if given.what != "loaded":
            rows += _again(client, before, given)
    return 0 if all(row["met"] for row in rows) else 1


def _again(client: Client, before: Mapping[str, Run], given: argparse.Namespace) -> list[Row]:
    """The second quiet runs, each `apart_min` after its engine's first."""
    after: dict[str, Run] = {}
    for engine, run in before.items():
        time.sleep(max(0.0, run.ended_s + 60 * given.apart_min - time.monotonic()))
        after[engine] = run_engine(client, engine, given)
    rows = an_hour_apart(before, after)
    write_section(_section("Quiet runs an hour apart", given), command_run(), rows)
    write_section(_section("Quiet runs an hour apart, by grade", given), command_run(), by_grade(before, after))
    return rows


def _section(name: str, given: argparse.Namespace) -> str:
    return name if given.protocol == PROTOCOL else f"{name}, protocol {given.protocol}"


if __name__ == "__main__":
    sys.exit(main())
