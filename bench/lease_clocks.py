"""Which clock a lease had: what its times are divided by, told in three ways from the same launches.

python -m bench.lease_clocks [--rounds 4] [--engines onnxruntime,openvino,litert,ncnn,mnn] [--kernels 100]

Rounds are as leases: the same kernels, launches as an agent makes them. Each is judged by the farm's rule, with its
canaries' floors told as what a twentieth of their runs stay below (rule versions 1 to 7), as the fastest run (since
8), and with the times as they are. Compared are each round and the next one. A last table tells pairs by how far the
fastest of a kernel's own canaries lay above the lease's, which decided whether it had drifted before the lease's did.
The tables go to docs/measurement.md.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from bench.estimators import MEASUREMENT
from bench.launching import Files, Target, measure
from bench.report import command_run, write_section
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, CanaryName, canary_floors, summarise
from benchfarm_core.summaries import Grade, Summary
from benchfarm_workloads.draws import draw_mixed

SEED = 37
KERNEL = PROTOCOLS["kernel"]
UNIT_NS = 1_000_000
TWENTIETH = 0.05
BANDS = (0.0, 0.02, 0.05, 0.08, 0.15)
_NAMES: tuple[CanaryName, CanaryName] = ("sgemm", "mobilenet")
Row = dict[str, object]
Found = Mapping[int, Sequence[LaunchSamples]]
Graded = dict[int, tuple[Grade, float]]


def by_twentieth(launches: Sequence[LaunchSamples]) -> CanaryGolden:
    """What a twentieth of the lease's runs stay below."""
    runs = {name: sorted(ns for one in launches for _, ns in one.canaries.get(name, ())) for name in _NAMES}
    return CanaryGolden(**{f"{name}_ns": ns[int(TWENTIETH * len(ns))] for name, ns in runs.items() if ns})


def by_rule(launches: Sequence[LaunchSamples]) -> CanaryGolden:
    """The farm's own floors."""
    return CanaryGolden(**{f"{name}_ns": ns for name, ns in canary_floors(launches).items()})


def undivided(launches: Sequence[LaunchSamples]) -> CanaryGolden:
    """A clock that never changes; what is quiet is told by the farm's own floors."""
    return by_rule(launches).model_copy(update={"sgemm_ns": UNIT_NS})


WAYS: Mapping[str, Callable[[Sequence[LaunchSamples]], CanaryGolden]] = {
    "a twentieth": by_twentieth,
    "fastest": by_rule,
    "undivided": undivided,
}


def answers(found: Found, way: Callable[[Sequence[LaunchSamples]], CanaryGolden]) -> Graded:
    """Grade and normalised ms of every kernel of a round that has an answer."""
    clock = way([launch for samples in found.values() for launch in samples])
    judged = {
        number: summarise(
            samples,
            protocol=KERNEL,
            golden=CanaryGolden(sgemm_ns=UNIT_NS),
            clock_proof=ClockProof.UNPINNED,
            beside=clock,
        )
        for number, samples in found.items()
    }
    return {
        number: (one.grade, one.normalised_ms)
        for number, one in judged.items()
        if isinstance(one, Summary) and one.normalised_ms
    }


def apart(made: Sequence[Found], way: str) -> dict[Grade, list[float]]:
    """How far answers of a round and the next are apart, by the worse of their grades: those of the farm's rule, so
    that all ways are told of the same pairs."""
    told: dict[Grade, list[float]] = defaultdict(list)
    for one, other in pairwise((answers(found, WAYS[way]), answers(found, by_rule)) for found in made):
        for number in set.intersection(*(set(found) for found in (*one, *other))):
            grade = max(one[1][number][0], other[1][number][0])
            told[grade].append(abs(one[0][number][1] / other[0][number][1] - 1))
    return told


def row_of(name: str, made: Sequence[Sequence[Found]], grades: Sequence[Grade]) -> Row:
    """Answers of some grades in all rounds of some engines, in each way."""
    told = {way: [apart(rounds, way) for rounds in made] for way in WAYS}
    seen = {way: [value for one in found for grade in grades for value in one[grade]] for way, found in told.items()}
    pairs = {"pairs": len(seen["fastest"])}
    return {"engine": name, "grades": "".join(grades), **pairs, **{way: _off(values) for way, values in seen.items()}}


def missed(found: Found) -> dict[int, float]:
    """By how much a kernel's own fastest SGEMM lies above that of its lease, of those that have some."""
    lease_ns = by_rule([launch for samples in found.values() for launch in samples]).sgemm_ns or 1
    own = {number: by_rule(samples).sgemm_ns for number, samples in found.items()}
    return {number: own_ns / lease_ns - 1 for number, own_ns in own.items() if own_ns}


def missed_rows(made: Sequence[Sequence[Found]]) -> list[Row]:
    """How far reusable answers of a round and the next are apart, by the larger of their misses."""
    told: dict[float, list[float]] = defaultdict(list)
    for one, other in (pair for rounds in made for pair in pairwise(rounds)):
        answered, again = answers(one, by_rule), answers(other, by_rule)
        miss, miss_again = missed(one), missed(other)
        for number in answered.keys() & again.keys() & miss.keys() & miss_again.keys():
            if max(answered[number][0], again[number][0]) < Grade.D:
                band = max(low for low in BANDS if low <= max(miss[number], miss_again[number]))
                told[band].append(abs(answered[number][1] / again[number][1] - 1))
    return [
        {"own canaries above the lease's": f"{low:.0%} or more", "pairs": len(told[low]), "apart": _off(told[low])}
        for low in BANDS
    ]


def clocks_row(engine: str, made: Sequence[Found]) -> Row:
    """The clock of each round in us, in both ways."""
    rounds = [[launch for samples in found.values() for launch in samples] for found in made]
    told = {way: ", ".join(f"{(WAYS[way](one).sgemm_ns or 0) / 1e3:.1f}" for one in rounds) for way in list(WAYS)[:2]}
    return {"engine": engine, "SGEMM in us": "of each round", **told}


def _off(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    return f"{median(values):.2%} / {quantiles(values, n=10)[-1]:.2%}"


def rounds_of(engine: str, kernels: int, count: int, folder: Path) -> list[Found]:
    """The same kernels in some leases of one engine."""
    files, target = Files(folder), Target(engine)
    batch = [files.ready(workload, target) for workload in draw_mixed(SEED, kernels)]
    made: list[Found] = []
    for number in range(count):
        found, wall_s, _ = measure(files, batch, target, KERNEL, seed=number)
        print(f"{engine}: {wall_s:.1f} s", file=sys.stderr, flush=True)
        made.append(found)
    return made


def main() -> None:
    """Measures the rounds and writes their two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--engines", default="onnxruntime,openvino,litert,ncnn,mnn")
    parser.add_argument("--kernels", type=int, default=100)
    given = parser.parse_args()
    made: dict[str, list[Found]] = {}
    for engine in given.engines.split(","):
        with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder:
            made[engine] = rounds_of(engine, given.kernels, given.rounds, Path(folder))
    reusable, everything = (Grade.A, Grade.B, Grade.C), list(made.values())
    rows = [row_of(engine, [found], reusable) for engine, found in made.items()]
    rows += [row_of("all", everything, (grade,)) for grade in Grade]
    write_section("Which clock a lease had", command_run(), rows, path=MEASUREMENT)
    clocks = [clocks_row(engine, found) for engine, found in made.items()]
    write_section("Which clock a lease had, round by round", command_run(), clocks, path=MEASUREMENT)
    missing = "What a kernel's own canaries say of its number"
    write_section(missing, command_run(), missed_rows(everything), path=MEASUREMENT)


if __name__ == "__main__":
    main()
