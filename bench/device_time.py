"""Board seconds of our protocol against the fixed one of nn-Meter and LitePred, at equal spread.

python -m bench.device_time [--kernels 300] [--engine onnxruntime]

The fixed protocol: 10 warm-ups and 50 runs per launch, their mean, the mean over launches (three, as published;
nn-Meter, MobiSys'21; LitePred, NSDI'24). Both sides visit the same kernels in the same kind of launches, a fresh
process each, bound to the same core; board time is from the start of the first process to the exit of the last.
Kernels are timed decade by decade, so that each decade's time is read off and not shared out. Within a decade both
sides take turns (ours, fixed, fixed, ours, ...), so that drift counts alike on both. Equal spread: as many fixed
launches as bring the standard deviation of the fixed value between repeats, in the median over the decade's kernels,
down to ours. That is asked twice: with what both sides' clocks said and no canary in either's values (ours: the mean
of the two lowest floors of launches), and with the farm's value, in which each block is held to the canaries around it,
and the fixed one both divided by the same canary, ours of the turn, whose runs cost the fixed side nothing. Either way
is held to the goal.
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
from typing import NamedTuple

from bench.launching import CORES, Files, Ready, Target, measure
from bench.report import command_run, write_section
from benchfarm_core.measurements import MAX_NOISY, LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import (
    FLOORS_CONFIRMED,
    CanaryGolden,
    canary_floors,
    is_noisy,
    judged_floors,
    lease_canaries,
    summarise,
)
from benchfarm_core.summaries import Grade, Summary, as_noisy
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
JUDGED_SHARE = 0.95
Row = dict[str, object]
Side = Sequence[Mapping[int, float]]
"""The values of one side, by repeat or launch, then by position of the kernel."""


class Ours(NamedTuple):
    """One repeat of ours: by position the farm's values in ms, floors that no canary touched, and grades; the canary's
    floor in ns, seconds of the board."""

    values_ms: Mapping[int, float]
    floors_ms: Mapping[int, float]
    grades: Mapping[int, Grade]
    canary_ns: int
    wall_s: float


class Fixed(NamedTuple):
    """One fixed launch: means in ms by position, the canary's floor in our repeat of the same turn, seconds."""

    means_ms: Mapping[int, float]
    canary_ns: int
    wall_s: float


class Equal(NamedTuple):
    """What the fixed protocol needs for our spread. `reached`: at these launches; else they are a lower bound."""

    our_spread: float
    published_spread: float
    launches: int
    reached: bool


WAYS = ("", ", both over the canary")
"""How values are compared, as columns say it: as they are, or each over the canary of its turn."""


def compare(engine: str, kernels: int, folder: Path) -> list[Row]:
    """One row per decade and one for all of it."""
    files, target = Files(folder), Target(engine)
    batch = [files.ready(workload, target) for workload in draw_mixed(SEED, kernels)]
    sizes_ms = _sizes_ms(files, batch, target)
    decades: list[tuple[str, list[Ours], list[Fixed]]] = []
    for (low_ms, high_ms), launches in zip(DECADES_MS, FIXED_LAUNCHES, strict=True):
        decade = [one for one, ms in zip(batch, sizes_ms, strict=True) if low_ms <= ms < high_ms]
        if decade:
            decades.append((f"{low_ms * 1e3:g} us and more", *_in_turn(files, decade, target, launches)))
            print(decades[-1][0], len(decade), file=sys.stderr, flush=True)
    return table(decades)


def _in_turn(files: Files, decade: Sequence[Ready], target: Target, launches: int) -> tuple[list[Ours], list[Fixed]]:
    """Both sides of a decade, `launches` fixed ones in all."""
    mine: list[Ours] = []
    theirs: list[Fixed] = []
    for repeat, (ours_first, count) in enumerate(turns(launches)):
        if ours_first:
            mine.append(_ours(files, decade, target, repeat))
        launched = [_fixed(files.folder, decade, target) for _ in range(count)]
        if not ours_first:
            mine.append(_ours(files, decade, target, repeat))
        theirs += [Fixed(means_ms, mine[-1].canary_ns, wall_s) for means_ms, wall_s in launched]
    return mine, theirs


def turns(launches: int, repeats: int = REPEATS) -> list[tuple[bool, int]]:
    """For each repeat of ours whether it stands before its share of the fixed launches, and how many these are.

    A B B A: what drifts on and on weighs on neither side.
    """
    ends = [launches * repeat // repeats for repeat in range(repeats + 1)]
    return [(repeat % 2 == 0, ends[repeat + 1] - ends[repeat]) for repeat in range(repeats)]


def table(decades: Sequence[tuple[str, Sequence[Ours], Sequence[Fixed]]]) -> list[Row]:
    """A row for each decade, by its name, and one for all; the goal is missed where too few of a decade were judged."""
    rows = [decade_row(*decade) for decade in decades]
    judged_rows = [row for row in rows if row["judged"]]
    ours_s = sum(float(str(row["ours s"])) for row in judged_rows)
    fixed_s = {way: sum(float(str(row[f"fixed s at equal spread{way}"])) for row in judged_rows) for way in WAYS}
    good = sum(grade <= Grade.B for _, mine, _ in decades for one in mine for grade in one.grades.values())
    per_minute = 60 * good / sum(one.wall_s for _, mine, _ in decades for one in mine)
    ratios = [float(str(row[f"ours / fixed{way}"])) for row in judged_rows for way in WAYS]
    every: Row = {
        "decade": "all",
        "kernels": sum(int(str(row["kernels"])) for row in rows),
        "judged": sum(int(str(row["judged"])) for row in rows),
        "ours s": ours_s,
        "grade A or B per minute": round(per_minute),
        "goal": f"<= {GOAL_SUM:.2f} in sum, <= 1 in each decade, >= {KERNELS_PER_MINUTE} a minute",
        "met": all(int(str(row["judged"])) >= JUDGED_SHARE * int(str(row["kernels"])) for row in rows)
        and all(ours_s <= GOAL_SUM * fixed_s[way] for way in WAYS)
        and per_minute >= KERNELS_PER_MINUTE
        and max(ratios) <= 1,
    }
    for way in WAYS if judged_rows else ():
        every |= {f"fixed s at equal spread{way}": fixed_s[way], f"ours / fixed{way}": ours_s / fixed_s[way]}
    return [*rows, every]


def _sizes_ms(files: Files, batch: Sequence[Ready], target: Target) -> list[float]:
    found, _, _ = measure(files, batch, target, PROTOCOLS["quick"], seed="sizes")
    return [min(min(one.blocks_ns) / one.iterations for one in found[number]) / 1e6 for number in range(len(batch))]


def _ours(files: Files, batch: Sequence[Ready], target: Target, repeat: int) -> Ours:
    """As the farm measures: what was noisy is measured again, twice at the most, and all of it costs board time."""
    found, wall_s, _ = measure(files, batch, target, PROTOCOLS["kernel"], seed=repeat)
    for again in range(MAX_NOISY):
        numbers = noisy(found)
        if not numbers:
            break
        anew, more_s, _ = measure(
            files, [batch[number] for number in numbers], target, PROTOCOLS["kernel"], seed=f"{repeat}.{again}"
        )
        found |= {numbers[place]: launches for place, launches in anew.items()}
        wall_s += more_s
    values_ms, grades, canary_ns = judged(found)
    floors_ms = {number: raw_floor_ms(found[number]) for number in values_ms}
    return Ours(values_ms, floors_ms, grades, canary_ns, wall_s)


def raw_floor_ms(launches: Sequence[LaunchSamples]) -> float:
    """The mean of the two lowest floors of launches in ms: no value of theirs is divided by a canary."""
    floors_ns = judged_floors(launches, PROTOCOLS["kernel"])[:FLOORS_CONFIRMED]
    return mean(floors_ns) / 1e6


def noisy(found: Mapping[int, Sequence[LaunchSamples]]) -> list[int]:
    """Positions of what never met a quiet moment, or too few, by the canaries of the lease itself."""
    lease = lease_canaries(launch for samples in found.values() for launch in samples)
    return [number for number, samples in found.items() if is_noisy(samples, PROTOCOLS["kernel"], lease, lease)]


def judged(found: Mapping[int, Sequence[LaunchSamples]]) -> tuple[dict[int, float], dict[int, Grade], int]:
    """The farm's values in ms and grades by position, as it judges a lease, and the clock canary's floor in ns.

    Raises ValueError where no canary ran: nothing could be divided by it.
    """
    floors = canary_floors([launch for samples in found.values() for launch in samples])
    if "sgemm" not in floors:
        raise ValueError("no canary ran beside the kernels")
    # the reference is the canary's own floor: a normalised time is then the one at the lease's own clock
    beside = CanaryGolden(sgemm_ns=floors["sgemm"], mobilenet_ns=floors.get("mobilenet"))
    protocol, proof = PROTOCOLS["kernel"], ClockProof.UNPINNED
    summaries = {
        number: summarise(samples, protocol=protocol, golden=beside, clock_proof=proof, beside=beside)
        for number, samples in found.items()
    }
    loud = set(noisy(found))
    good = {n: as_noisy(one) if n in loud else one for n, one in summaries.items() if isinstance(one, Summary)}
    values_ms = {number: one.normalised_ms for number, one in good.items() if one.normalised_ms}
    return values_ms, {number: one.grade for number, one in good.items()}, floors["sgemm"]


def _fixed(folder: Path, batch: Sequence[Ready], target: Target) -> tuple[dict[int, float], float]:
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
    return dict(enumerate(json.loads(done.stdout))), time.monotonic() - begun


def decade_row(name: str, mine: Sequence[Ours], theirs: Sequence[Fixed]) -> Row:
    """Both sides of a decade, as they are and over the canary. Judged are the kernels that each repeat of ours has."""
    common = sorted(set.intersection(*(set(one.values_ms) for one in mine)))
    ours_s, launch_s = _mean_s(mine), _mean_s(theirs)
    row: Row = {
        "decade": name,
        "kernels": len(theirs[0].means_ms),
        "judged": len(common),
        "ours s": ours_s,
        "fixed s, 3 launches": PUBLISHED_LAUNCHES * launch_s,
    }
    for way in WAYS if common else ():
        equal = _equal(*_sides(mine, theirs, divided=way != WAYS[0]), common)
        row |= {
            f"our spread{way}": f"{equal.our_spread:.2%}",
            f"fixed spread, 3 launches{way}": f"{equal.published_spread:.2%}",
            f"fixed launches at equal spread{way}": f"{'' if equal.reached else 'more than '}{equal.launches}",
            f"fixed s at equal spread{way}": equal.launches * launch_s,
            f"ours / fixed{way}": ours_s / (equal.launches * launch_s),
        }
    return row


def _sides(mine: Sequence[Ours], theirs: Sequence[Fixed], *, divided: bool) -> tuple[Side, Side]:
    return (
        [_over(one.values_ms, one.canary_ns) if divided else one.floors_ms for one in mine],
        [_over(one.means_ms, one.canary_ns if divided else 1) for one in theirs],
    )


def _over(values: Mapping[int, float], by: float) -> dict[int, float]:
    return {number: value / by for number, value in values.items()}


def _mean_s(side: Sequence[Ours] | Sequence[Fixed]) -> float:
    return mean(one.wall_s for one in side)


def _equal(mine: Side, theirs: Side, numbers: Sequence[int]) -> Equal:
    """The fewest fixed launches whose spread is no more than ours; the most that can be judged when none is enough."""
    wanted = median(_spread([values[number] for values in mine]) for number in numbers)
    published, most = _fixed_spread(theirs, numbers, PUBLISHED_LAUNCHES), len(theirs) // 3
    for launches in range(PUBLISHED_LAUNCHES, most + 1):
        if _fixed_spread(theirs, numbers, launches) <= wanted:
            return Equal(wanted, published, launches, reached=True)
    return Equal(wanted, published, most, reached=False)


def _fixed_spread(theirs: Side, numbers: Sequence[int], launches: int) -> float:
    """Between repeats of that many launches each, the median over kernels."""
    groups = [theirs[start : start + launches] for start in range(0, len(theirs) - launches + 1, launches)]
    return median(_spread([mean(values[number] for values in group) for group in groups]) for number in numbers)


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
