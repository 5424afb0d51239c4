"""The experiments behind the measurement's rules: raw launches are recorded once, then judged by many rules.

python -m bench.estimators [--runs 3] [--engines onnxruntime,openvino,litert,ncnn,mnn] [--keep FOLDER] [--only-judge]

A run is five launches of 62 workloads (60 drawn kernels, two models) with visits of 60 ms, longer than the farm's, so
that shorter visits can be cut out of them. One run more is made beside a busy loop on every core. Tables go to
docs/measurement.md.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from statistics import mean, median, quantiles, stdev
from typing import NamedTuple

from bench.launching import Files, Target, launch
from bench.repeatability import busy_loops
from bench.report import command_run, write_section
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.protocols import PROTOCOLS, Protocol
from benchfarm_core.quality import (
    DELAY_FLOOR_NS,
    DELAY_SHARE,
    FLOOR_SHARE,
    FLOORS_CONFIRMED,
    judged_floors,
    lease_canaries,
)
from benchfarm_core.workloads import AnySingle
from benchfarm_workloads.draws import draw_mixed
from benchfarm_workloads.models import model_recipe

MEASUREMENT = Path(__file__).resolve().parents[1] / "docs" / "measurement.md"
ENGINES = ("onnxruntime", "openvino", "litert", "ncnn", "mnn")
SEED = 20
LAUNCHES = 5
RECORDED_VISIT_MS = 60
NEEDED_BLOCKS = 3
LOADED = "loaded"
Row = dict[str, object]
Launches = Sequence[LaunchSamples]
Run = Mapping[int, Launches]
"""By workload."""
Estimate = Callable[[Launches, Launches], float]
"""Of a workload's launches, beside all launches of its run."""
Records = dict[str, dict[str, dict[int, list[LaunchSamples]]]]
"""Engine, run, workload."""


# --- recording


def record(folder: Path, engines: Sequence[str], runs: int) -> None:
    """Quiet runs of every engine in turn, then one of each beside busy loops, as JSON lines."""
    files = Files(folder)
    protocol = PROTOCOLS["kernel"].model_copy(
        update={"visit_ms": RECORDED_VISIT_MS, "blocks_min": 10, "quiet_wait_ms": None}
    )
    with (folder / "records.jsonl").open("a") as out:

        def run_once(engine: str, run: str) -> None:
            record_run(files, engine, run, out.write, wanted=workloads(), protocol=protocol, launches=LAUNCHES)

        for run in map(str, range(runs)):
            for engine in engines:
                run_once(engine, run)
        for engine in engines:
            with busy_loops():
                run_once(engine, LOADED)


def record_run(
    files: Files,
    engine: str,
    run: str,
    write: Callable[[str], object],
    *,
    wanted: Sequence[AnySingle],
    protocol: Protocol,
    launches: int,
) -> None:
    """Launches of some workloads on an engine, each in an order of its own, as lines that `read` reads."""
    target = Target(engine)
    batch = [files.ready(workload, target) for workload in wanted]
    for number in range(launches):
        order = list(range(len(batch)))
        random.Random(f"{engine}{run}{number}").shuffle(order)
        found = launch(files, batch, target, protocol, launch_no=number, order=order)
        samples = {place: one.model_dump(mode="json") for place, one in found.samples.items()}
        write(json.dumps({"engine": engine, "run": run, "samples": samples}) + "\n")
    print(engine, run, flush=True)


def workloads() -> list[AnySingle]:
    """What is measured."""
    return [*draw_mixed(SEED, 60), *(model_recipe(name).workload({}) for name in ("mobilenet_v2", "resnet18"))]


def read(folder: Path) -> Records:
    """What was recorded."""
    records: Records = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in (folder / "records.jsonl").read_text().splitlines():
        one = json.loads(line)
        for place, samples in one["samples"].items():
            records[one["engine"]][one["run"]][int(place)].append(LaunchSamples.model_validate(samples))
    return records


# --- what a shorter visit would have seen


class Cut(NamedTuple):
    """The beginning of a visit: clean blocks in ns per iteration, the time that all its blocks took, how many."""

    clean: list[float]
    spent_ms: float
    blocks: int


def cut(one: LaunchSamples, visit_ms: float, merged: int = 1, witness: float = 1.0, aftermath: bool = True) -> Cut:
    """What a visit of `visit_ms` would have seen.

    merged: so many blocks taken as one. witness: factor on the thresholds of a clean block. aftermath: the block
    behind one that is not clean is not clean either.
    """
    clean: list[float] = []
    spent_ns = taken = 0
    was_quiet = True
    for start in range(0, len(one.blocks_ns) - merged + 1, merged):
        block = sum(one.blocks_ns[start : start + merged])
        delay, switches = sum(one.delays_ns[start : start + merged]), sum(one.switches[start : start + merged])
        spent_ns += block
        taken = start + merged
        is_quiet = switches == 0 and delay <= witness * max(DELAY_FLOOR_NS, DELAY_SHARE * block)
        if is_quiet and (was_quiet or not aftermath):
            clean.append(block / one.iterations / merged)
        was_quiet = is_quiet
        if sum(clean) * one.iterations * merged >= visit_ms * 1e6 and len(clean) >= PROTOCOLS["kernel"].blocks_min:
            break
        if spent_ns >= 4 * visit_ms * 1e6:
            break
    return Cut(clean, spent_ns / 1e6, taken)


def visited(one: LaunchSamples, visit_ms: float) -> LaunchSamples:
    """The launch as a visit of that length would have left it."""
    end = cut(one, visit_ms).blocks
    kept = {name: getattr(one, name)[:end] for name in ("blocks_ns", "delays_ns", "switches")}
    canaries = {name: tuple(pair for pair in pairs if pair[0] <= end) for name, pairs in one.canaries.items()}
    return one.model_copy(update=kept | {"canaries": canaries})


def farm_rule(launches: Launches, all_: Launches) -> float:
    """What the farm derives: floors of the quiet launches, over the SGEMM canary's of the whole run."""
    quiet_ns = lease_canaries(all_).mobilenet_ns
    lowest = judged_floors([visited(one, 10) for one in launches], PROTOCOLS["kernel"], quiet_ns)
    return confirmed(lowest) / canary_ns(all_, "sgemm")


def low(times: Sequence[float], share: float = FLOOR_SHARE) -> float:
    """The time that leaves a share of all below it; 0 for the very fastest."""
    return sorted(times)[int(share * len(times))]


def floors(launches: Launches, visit_ms: float, share: float = FLOOR_SHARE, **how: float) -> list[float]:
    """The floor of each launch that has clean blocks enough, lowest first."""
    seen = [cut(one, visit_ms, **how).clean for one in launches]  # type: ignore[arg-type]
    return sorted(low(clean, share) for clean in seen if len(clean) >= NEEDED_BLOCKS)


def confirmed(lowest: Sequence[float]) -> float:
    """The mean of the lowest floors, as many as the rule takes. Raises ValueError without any."""
    if not lowest:
        raise ValueError("no launch had enough clean blocks")
    return mean(lowest[:FLOORS_CONFIRMED])


def canary_ns(launches: Launches, name: str, share: float = FLOOR_SHARE) -> float:
    """The canary's floor."""
    runs = [ns for one in launches for known, pairs in one.canaries.items() if known == name for _, ns in pairs]
    return low(runs, share)


def canary_median_ns(one: LaunchSamples, name: str) -> float:
    """The canary's median in one launch."""
    return median(ns for known, pairs in one.canaries.items() if known == name for _, ns in pairs)


def _median_of_medians(launches: Launches, _: Launches) -> float:
    return median(median(cut(one, 10).clean or one.blocks_ns) for one in launches)


def _over_mobilenet(launches: Launches, _: Launches) -> float:
    return median(median(cut(one, 10).clean or one.blocks_ns) / canary_median_ns(one, "mobilenet") for one in launches)


def _fastest(launches: Launches) -> float:
    return min(floors(launches, 10, 0))


ESTIMATORS: Mapping[str, Estimate] = {
    "median of launch medians": _median_of_medians,
    "the same over the MobileNet canary beside it": _over_mobilenet,
    "fastest block": lambda found, _: _fastest(found),
    "over the SGEMM canary's fastest run beside it": lambda found, _: _fastest(found) / canary_ns(found, "sgemm", 0),
    "over the MobileNet canary's": lambda found, _: _fastest(found) / canary_ns(found, "mobilenet", 0),
    "over the geometric mean of both": lambda found, _: (
        _fastest(found) / math.sqrt(canary_ns(found, "sgemm", 0) * canary_ns(found, "mobilenet", 0))
    ),
    "over SGEMM's fastest run of the whole run": lambda found, all_: _fastest(found) / canary_ns(all_, "sgemm", 0),
    "lowest floor over SGEMM's of the whole run": lambda found, all_: floors(found, 10)[0] / canary_ns(all_, "sgemm"),
    "two lowest floors over SGEMM's of the whole run": lambda found, all_: (
        confirmed(floors(found, 10)) / canary_ns(all_, "sgemm")
    ),
    "the farm's rule: the same of the quiet launches": farm_rule,
    "two lowest floors over SGEMM's floor beside it": lambda found, _: (
        confirmed(floors(found, 10)) / canary_ns(found, "sgemm")
    ),
}


# --- judging


def estimators(records: Records) -> list[Row]:
    """How far runs of the same workload lie apart by each estimator, loaded from quiet ones; five visits of 10 ms."""
    rows: list[Row] = []
    for name, estimate in ESTIMATORS.items():
        row: Row = {"estimate": name}
        for engine, runs in records.items():
            row |= {engine: _apart(runs, estimate), f"{engine}, loaded": _loaded(runs, estimate)}
        rows.append(row)
    return rows


def visits(records: Records) -> list[Row]:
    """How far floors lie apart by visit length and launches, and what that costs."""
    rows: list[Row] = []
    for visit_ms, launches in ((60, 3), (60, 5), (30, 5), (20, 5), (10, 3), (10, 5), (5, 5)):

        def floor(all_: Launches, run: Launches, visit_ms: float = visit_ms, launches: int = launches) -> float:
            return confirmed(floors(all_[:launches], visit_ms)) / canary_ns(run, "sgemm")

        timed = [
            sum(cut(one, visit_ms).spent_ms for one in all_[:launches])
            for runs in records.values() for run, found in runs.items() if run != LOADED for all_ in found.values()
        ]  # fmt: skip
        cost: Row = {
            "visit ms": visit_ms,
            "launches": launches,
            "timed ms per workload": round(sum(timed) / len(timed)),
        }
        rows.append(cost | {engine: _apart(runs, floor) for engine, runs in records.items()})
    return rows


def block_lengths(records: Records) -> list[Row]:
    """Longer blocks, made of the recorded ones: quiet runs apart, and loaded against quiet, five visits of 20 ms."""
    rows: list[Row] = []
    for merged in (1, 2, 5, 10):

        def floor(all_: Launches, run: Launches, merged: int = merged) -> float:
            return confirmed(floors(all_, 20, merged=merged)) / canary_ns(run, "sgemm")

        row: Row = {"blocks of": f"{200 * merged} us"}
        for engine, runs in records.items():
            row |= {engine: _apart(runs, floor), f"{engine}, loaded": _loaded(runs, floor)}
        rows.append(row)
    return rows


def witness_thresholds(records: Records) -> list[Row]:
    """The witness' thresholds times a factor: what stays clean, and how far loaded floors lie from quiet ones."""
    rows: list[Row] = []
    for factor, aftermath in (
        (0.25, True),
        (0.5, True),
        (1.0, True),
        (1.0, False),
        (2.0, True),
        (5.0, True),
        (1e9, True),
    ):

        def floor(all_: Launches, run: Launches, factor: float = factor, aftermath: bool = aftermath) -> float:
            return confirmed(floors(all_, 20, witness=factor, aftermath=aftermath)) / canary_ns(run, "sgemm")

        said = "" if aftermath else ", and the block behind a disturbed one counts"
        row: Row = {"thresholds times": f"{factor:g}{said}" if factor < 1e6 else "no threshold"}
        for engine, runs in records.items():
            shares = [_clean_share(one, factor, aftermath) for all_ in runs[LOADED].values() for one in all_]
            row |= {f"{engine}: clean": f"{median(shares):.0%}", f"{engine}: loaded": _loaded(runs, floor)}
        rows.append(row)
    return rows


def crowds(records: Records) -> list[Row]:
    """Loaded runs, workloads below 1 ms: how far off those are whose floors confirm each other, and the others."""
    rows: list[Row] = []
    for engine, runs in records.items():
        off: dict[bool, list[float]] = {True: [], False: []}
        for place, all_ in runs[LOADED].items():
            quiet = [runs[run][place] for run in runs if run != LOADED]
            known, seen = [floors(one, 20) for one in quiet], floors(all_, 10)[:3]
            if len(seen) < NEEDED_BLOCKS or not all(known) or min(map(min, known)) > 1e6:
                continue
            expected = median(min(found) for found in known)
            off[stdev(seen) / median(seen) <= 0.05].append(abs(seen[0] / expected - 1))
        rows.append({"engine": engine} | _crowd_row(off))
    return rows


def _crowd_row(off: Mapping[bool, Sequence[float]]) -> Row:
    confirmed, others = off[True], off[False]
    return {
        "confirmed": len(confirmed),
        "their median": f"{median(confirmed):.2%}" if confirmed else "",
        "their highest": f"{max(confirmed):.1%}" if confirmed else "",
        "not confirmed": len(others),
        "highest of those": f"{max(others):.1%}" if others else "",
    }


def _clean_share(one: LaunchSamples, factor: float, aftermath: bool) -> float:
    clean = cut(one, math.inf, witness=factor, aftermath=aftermath).clean
    return len(clean) / len(one.blocks_ns)


def _apart(runs: Mapping[str, Run], estimate: Estimate) -> str:
    """Median and 90th percentile of the differences between quiet runs, over workloads and pairs of runs."""
    apart: list[float] = []
    quiet = [_values(found, estimate) for run, found in runs.items() if run != LOADED]
    for place in set.intersection(*map(set, quiet)):
        apart += [abs(math.log(a / b)) for a, b in combinations([values[place] for values in quiet], 2)]
    return f"{median(apart):.2%} / {quantiles(apart, n=10)[-1]:.1%}"


def _loaded(runs: Mapping[str, Run], estimate: Estimate) -> str:
    """Median and highest difference of the loaded run from the quiet ones, and how many workloads have any."""
    quiet = [_values(found, estimate) for run, found in runs.items() if run != LOADED]
    apart: list[float] = []
    for place, seen in _values(runs[LOADED], estimate).items():
        known = [values[place] for values in quiet if place in values]
        if known:
            apart.append(abs(math.log(seen / median(known))))
    return f"{median(apart):.2%} / {max(apart):.0%} of {len(apart)}" if apart else "none"


def _values(run: Run, estimate: Estimate) -> dict[int, float]:
    """The estimates of a run, by workload; none where no launch had enough clean blocks."""
    all_ = [launch for launches in run.values() for launch in launches]
    values: dict[int, float] = {}
    for place, launches in run.items():
        with suppress(ValueError, IndexError):
            values[place] = estimate(launches, all_)
    return values


TABLES: Mapping[str, Callable[[Records], list[Row]]] = {
    "Estimators": estimators,
    "Visit length and launches": visits,
    "Block length": block_lengths,
    "Thresholds of the witness": witness_thresholds,
    "Beside a busy loop": crowds,
}


def main() -> int:
    """Record, judge, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--keep", type=Path, help="a folder for the records; a temporary one by default")
    parser.add_argument("--only-judge", action="store_true", help="judge what the folder holds already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not given.only_judge:
            record(folder, given.engines.split(","), given.runs)
        records = read(folder)
    for name, judge in TABLES.items():
        write_section(name, command_run(), judge(records), path=MEASUREMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
