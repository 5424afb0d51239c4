"""Canaries between the blocks: what a workload's time is when each block stands beside the clock of its millisecond.

python -m bench.between_blocks [--runs 3] [--kernels 24] [--keep FOLDER] [--only-judge]

A run is six launches of drawn kernels on five engines, with visits of 16 ms and a canary point after every millisecond.
The same samples are judged by several rules, and each rule by how far two runs of a kernel lie apart; the farm's rule
is the first of them. Tables go to docs/measurement.md.
"""

import argparse
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Final, NamedTuple

from bench.estimators import ENGINES, MEASUREMENT, Records, Row, cut, low, read, record_run
from bench.launching import Files
from bench.report import command_run, write_section
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CLOCK_CANARY, DELAY_FLOOR_NS, DELAY_SHARE, FLOORS_CONFIRMED, clean_blocks
from benchfarm_core.quiet_blocks import quiet_time
from benchfarm_workloads.draws import draw_mixed

SEED: Final = 20
LAUNCHES: Final = 6
PROTOCOL: Final = PROTOCOLS["kernel"].model_copy(
    update={"visit_ms": 16, "blocks_min": 5, "canary_every_ms": 1, "quiet_wait_ms": None}
)
FARM_VISIT_MS: Final = 10
NEEDED_BLOCKS: Final = 4
"""Of all launches of a workload together, beside canaries that count; with fewer there is no answer."""
Launches = Sequence[LaunchSamples]
Rule = Callable[[Launches, int], float | None]
"""The time of a workload in units of the clock; the other argument is the fastest canary of the lease in ns."""


class Block(NamedTuple):
    """A clean block: ns of one iteration, and the fastest canary run before and behind its stretch."""

    ns: float
    before_ns: int
    behind_ns: int

    @property
    def beside_ns(self) -> float:
        """What the clock was meanwhile: the geometric mean of both."""
        return math.sqrt(self.before_ns * self.behind_ns)


def blocks_of(one: LaunchSamples) -> Iterator[Block]:
    """The undisturbed blocks of a launch that have canaries on both sides."""
    points: dict[int, list[int]] = defaultdict(list)
    for place, ns in one.canaries.get(CLOCK_CANARY, ()):
        points[place].append(ns)
    for begin, end in pairwise(sorted(points)):
        for place in range(begin, end):
            ns = one.blocks_ns[place]
            if one.switches[place] == 0 and one.delays_ns[place] <= max(DELAY_FLOOR_NS, DELAY_SHARE * ns):
                yield Block(ns / one.iterations, min(points[begin]), min(points[end]))


def quiet_blocks(found: Launches, clock_ns: int) -> float | None:
    """As the farm has it, of all launches; without an answer where the farm has none of its own."""
    told = quiet_time([(one, clean_blocks(one)) for one in found], PROTOCOLS["kernel"], clock_ns)
    return told.time_ns / clock_ns if told is not None and told.enough else None


def floors_confirmed(found: Launches, clock_ns: int) -> float | None:
    """As the farm has it without clock points: the mean of the two lowest floors of launches."""
    seen = [cut(one, FARM_VISIT_MS).clean for one in found]
    floors = sorted(low(clean) for clean in seen if len(clean) >= NEEDED_BLOCKS)
    return mean(floors[:FLOORS_CONFIRMED]) / clock_ns if floors else None


def fastest(found: Launches, clock_ns: int) -> float | None:
    """The fastest clean block of all launches."""
    clean = [ns for one in found for ns in cut(one, math.inf).clean]
    return min(clean) / clock_ns if clean else None


def beside(share: float, within: float, *, divided: bool = True) -> Rule:
    """What a share of the blocks stays below, of those both of whose canaries lay within so much of the fastest one.

    divided: each by its own canaries, else all by the fastest one.
    """

    def rule(found: Launches, clock_ns: int) -> float | None:
        limit_ns = (1 + within) * clock_ns
        near = [one for launch in found for one in blocks_of(launch) if max(one.before_ns, one.behind_ns) <= limit_ns]
        if len(near) < NEEDED_BLOCKS:
            return None
        return low([one.ns / (one.beside_ns if divided else clock_ns) for one in near], share)

    return rule


RULES: Final[Mapping[str, Rule]] = {
    "the farm's: quiet blocks": quiet_blocks,
    "two lowest floors of launches": floors_confirmed,
    "fastest block": fastest,
    "each over its canaries, which lay within 12 %; a quarter": beside(0.25, 0.12),
    "within 15 %; a quarter": beside(0.25, 0.15),
    "within 20 %; a quarter": beside(0.25, 0.20),
    "wherever they lay; a quarter": beside(0.25, math.inf),
    "within 12 %; the middle": beside(0.5, 0.12),
    "within 12 %, not divided; a quarter": beside(0.25, 0.12, divided=False),
    "within 15 %, not divided; a quarter": beside(0.25, 0.15, divided=False),
    "within 15 %, not divided; the middle": beside(0.5, 0.15, divided=False),
}


def record(folder: Path, runs: int, kernels: int) -> None:
    """Runs of every engine in turn, as JSON lines."""
    files, wanted = Files(folder), draw_mixed(SEED, kernels)
    with (folder / "records.jsonl").open("a") as out:
        for run in map(str, range(runs)):
            for engine in ENGINES:
                record_run(files, engine, run, out.write, wanted=wanted, protocol=PROTOCOL, launches=LAUNCHES)


def judged(records: Records) -> list[Row]:
    """Of each rule how far two runs of a kernel lie apart: median, 90th percentile, and pairs that it cannot tell."""
    clocks = {(engine, run): _clock_ns(found) for engine, runs in records.items() for run, found in runs.items()}
    return [{"rule": name} | _row(records, rule, clocks) for name, rule in RULES.items()]


def _row(records: Records, rule: Rule, clocks: Mapping[tuple[str, str], int]) -> Row:
    row: Row = {}
    all_off: list[float] = []
    for engine, runs in records.items():
        values = [
            {place: rule(found, clocks[engine, run]) for place, found in places.items()} for run, places in runs.items()
        ]
        pairs = [(one.get(place), other.get(place)) for one, other in combinations(values, 2) for place in one]
        off = [abs(one / other - 1) for one, other in pairs if one is not None and other is not None]
        row[engine] = _told(off, len(pairs))
        all_off += off
    return row | {"all": _told(all_off, None)}


def _told(off: Sequence[float], pairs: int | None) -> str:
    if len(off) < 2:
        return f"none of {pairs}"
    missing = "" if pairs in (None, len(off)) else f", {len(off)} of {pairs}"
    ninetieth = quantiles(off, n=10, method="inclusive")[-1]
    return f"{median(off):.2%} / {ninetieth:.1%}{missing}"


def _clock_ns(run: Mapping[int, Launches]) -> int:
    """The fastest canary of a run."""
    return min(ns for found in run.values() for one in found for _, ns in one.canaries.get(CLOCK_CANARY, ()))


def clocks(records: Records) -> list[Row]:
    """What the canary took in each run: the share of its runs that lay so near to the fastest one."""
    rows: list[Row] = []
    for engine, runs in records.items():
        for run, places in runs.items():
            seen = [ns for all_ in places.values() for one in all_ for _, ns in one.canaries.get(CLOCK_CANARY, ())]
            near = {
                f"within {within:.0%}": f"{sum(ns <= (1 + within) * min(seen) for ns in seen) / len(seen):.0%}"
                for within in (0.02, 0.05, 0.12, 0.2, 0.5)
            }
            rows.append({"engine": engine, "run": run, "fastest us": f"{min(seen) / 1e3:.1f}", **near})
    return rows


def main() -> int:
    """Record, judge, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kernels", type=int, default=24)
    parser.add_argument("--keep", type=Path, help="a folder for the records; a temporary one by default")
    parser.add_argument("--only-judge", action="store_true", help="judge what the folder holds already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not given.only_judge:
            record(folder, given.runs, given.kernels)
        records = read(folder)
    write_section("Canaries between the blocks", command_run(), judged(records), path=MEASUREMENT)
    write_section("What the canary took between the blocks", command_run(), clocks(records), path=MEASUREMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
