"""Board seconds of our protocol against the fixed one of nn-Meter and LitePred, at equal spread.

python -m bench.device_time [--kernels 300] [--engine onnxruntime]

The fixed protocol: 10 warm-ups and 50 runs per launch, their mean, the mean over launches (three, as published;
nn-Meter, MobiSys'21; LitePred, NSDI'24). Both sides visit the same kernels in the same kind of launches, a fresh
process each, bound to the same core; board time is from the start of the first process to the exit of the last.
Kernels are timed decade by decade, so that each decade's time is read off and not shared out. Equal spread: as many
fixed launches as bring the standard deviation of the fixed value between repeats, in the median over the decade's
kernels, down to ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev

from bench.launching import CORES, Files, Ready, Target, measure
from bench.report import command_run, write_section
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, canary_floors, summarise
from benchfarm_core.summaries import Grade, Summary
from benchfarm_engines.launch import launch_environment
from benchfarm_workloads.draws import draw_mixed

SEED = 41
REPEATS = 4
DECADES_MS = ((0.0, 0.01), (0.01, 0.1), (0.1, 1.0), (1.0, 1e9))
FIXED_LAUNCHES = (300, 240, 96, 30)
"""Recorded per decade; the more the shorter the kernels are."""
PUBLISHED_LAUNCHES = 3
FIXED = "from bench.fixed_protocol import main; main()"
GOAL_SUM = 1 / 3
KERNELS_PER_MINUTE = 600
Row = dict[str, object]


def compare(engine: str, kernels: int, folder: Path) -> list[Row]:
    """One row per decade and one for all of it."""
    files, target = Files(folder), Target(engine)
    batch = [files.ready(workload, target) for workload in draw_mixed(SEED, kernels)]
    sizes_ms = _sizes_ms(files, batch, target)
    rows, ours_s, fixed_s, good, all_s = [], 0.0, 0.0, 0, 0.0
    for (low_ms, high_ms), launches in zip(DECADES_MS, FIXED_LAUNCHES, strict=True):
        decade = [one for one, ms in zip(batch, sizes_ms, strict=True) if low_ms <= ms < high_ms]
        if not decade:
            continue
        mine = [_ours(files, decade, target, repeat) for repeat in range(REPEATS)]
        theirs = [_fixed(folder, decade, target) for _ in range(launches)]
        row, equal = _row(f"{low_ms * 1e3:g} us and more", mine, theirs)
        rows.append(row | {"kernels": len(decade)})
        ours_s += mean(wall_s for _, _, wall_s in mine)
        fixed_s += equal * mean(wall_s for _, wall_s in theirs)
        good += sum(sum(grade <= Grade.B for grade in grades.values()) for _, grades, _ in mine)
        all_s += sum(wall_s for _, _, wall_s in mine)
    per_minute = 60 * good / all_s
    rows.append({
        "decade": "all", "kernels": kernels, "ours s": round(ours_s, 1), "fixed s at equal spread": round(fixed_s, 1),
        "ours / fixed": round(ours_s / fixed_s, 3), "grade A or B per minute": round(per_minute),
        "goal": f"<= {GOAL_SUM:.2f} in sum, <= 1 in each decade, >= {KERNELS_PER_MINUTE} a minute",
        "met": ours_s <= GOAL_SUM * fixed_s and per_minute >= KERNELS_PER_MINUTE
        and all(float(str(row["ours / fixed"])) <= 1 for row in rows),
    })  # fmt: skip
    return rows


def _sizes_ms(files: Files, batch: Sequence[Ready], target: Target) -> list[float]:
    found, _, _ = measure(files, batch, target, PROTOCOLS["quick"], seed="sizes")
    return [min(min(one.blocks_ns) / one.iterations for one in found[number]) / 1e6 for number in range(len(batch))]


def _ours(
    files: Files, batch: Sequence[Ready], target: Target, repeat: int
) -> tuple[dict[int, float], dict[int, Grade], float]:
    """Normalised values and grades by position, and board seconds. The canary's own time stands for the reference."""
    protocol = PROTOCOLS["kernel"]
    found, wall_s, _ = measure(files, batch, target, protocol, seed=repeat)
    golden = CanaryGolden(sgemm_ns=1_000_000, mobilenet_ns=1_000_000)
    floors = canary_floors([launch for samples in found.values() for launch in samples])
    beside = CanaryGolden(sgemm_ns=floors.get("sgemm"), mobilenet_ns=floors.get("mobilenet"))
    summaries = {
        number: summarise(samples, protocol=protocol, golden=golden, clock_proof=ClockProof.UNPINNED, beside=beside)
        for number, samples in found.items()
    }
    good = {number: one for number, one in summaries.items() if isinstance(one, Summary)}
    values = {number: one.normalised_ms for number, one in good.items() if one.normalised_ms}
    return values, {number: one.grade for number, one in good.items()}, wall_s


def _fixed(folder: Path, batch: Sequence[Ready], target: Target) -> tuple[list[float], float]:
    """Mean of 50 runs in ms by position, and the launch's seconds from start to exit."""
    request = {
        "engine": target.engine,
        "precision": target.precision,
        "core": CORES[-1],
        "visits": [{key: one.visit[key] for key in ("artifact", "inputs", "edges")} for one in batch],
    }
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", FIXED], input=json.dumps(request), text=True, capture_output=True,
        check=True, env={**launch_environment(str(folder)), "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )  # fmt: skip
    return json.loads(done.stdout), time.monotonic() - begun


def _row(
    name: str,
    mine: Sequence[tuple[Mapping[int, float], Mapping[int, Grade], float]],
    theirs: Sequence[tuple[list[float], float]],
) -> tuple[Row, int]:
    common = sorted(set.intersection(*(set(values) for values, _, _ in mine)))
    wanted = median(_spread([values[number] for values, _, _ in mine]) for number in common)
    equal, reached = _launches_needed(theirs, common, wanted)
    ours_s, launch_s = mean(wall_s for _, _, wall_s in mine), mean(wall_s for _, wall_s in theirs)
    return {
        "decade": name,
        "kernels": 0,
        "our spread": f"{wanted:.2%}",
        "fixed spread, 3 launches": f"{_fixed_spread(theirs, common, PUBLISHED_LAUNCHES):.2%}",
        "ours s": round(ours_s, 1),
        "fixed s, 3 launches": round(PUBLISHED_LAUNCHES * launch_s, 1),
        "fixed launches at equal spread": f"{equal}" if reached else f"more than {equal}",
        "fixed s at equal spread": round(equal * launch_s, 1),
        "ours / fixed": round(ours_s / (equal * launch_s), 3),
    }, equal


def _launches_needed(
    theirs: Sequence[tuple[list[float], float]], numbers: Sequence[int], wanted: float
) -> tuple[int, bool]:
    """The fewest fixed launches whose spread is no more than ours; the most that can be judged when none is enough."""
    most = len(theirs) // 3
    for launches in range(PUBLISHED_LAUNCHES, most + 1):
        if _fixed_spread(theirs, numbers, launches) <= wanted:
            return launches, True
    return most, False


def _fixed_spread(theirs: Sequence[tuple[list[float], float]], numbers: Sequence[int], launches: int) -> float:
    """Between repeats of that many launches each, the median over kernels."""
    groups = [theirs[start : start + launches] for start in range(0, len(theirs) - launches + 1, launches)]
    return median(_spread([mean(values[number] for values, _ in group) for group in groups]) for number in numbers)


def _spread(values: Sequence[float]) -> float:
    return stdev(values) / mean(values)


def main() -> int:
    """Runs the comparison and writes its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=int, default=300)
    parser.add_argument("--engine", default="onnxruntime")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder:
        rows = compare(given.engine, given.kernels, Path(folder))
    title = f"Board time against a fixed protocol, {given.engine}"
    write_section(title, command_run(), rows)
    return 0 if rows[-1]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
