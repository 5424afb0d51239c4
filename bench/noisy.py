"""Neighbours whom no witness sees: what the rule on noisy leases keeps out, and what it lets pass.

python -m bench.noisy [--rounds 6] [--engines onnxruntime,ncnn,litert] [--kernels 40]

Rounds are as leases: the same kernels, launches as an agent makes them. Every other round has a process on the core
that is not measured, which copies memory all the time: it takes no processor from anybody, so the witness sees nothing,
and yet caches and memory are shared. Each round is judged with the lowest that each canary took in any round. What a
kernel takes is the median of its results in rounds without that process. The table goes to docs/measurement.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median, quantiles

from bench.estimators import MEASUREMENT
from bench.launching import CORES, Files, Target, measure
from bench.report import command_run, write_section
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, canary_floors, is_noisy, summarise
from benchfarm_core.summaries import Summary, is_reusable
from benchfarm_workloads.draws import draw_mixed

SEED = 29
KERNEL = PROTOCOLS["kernel"]
UNIT = CanaryGolden(sgemm_ns=1_000_000, mobilenet_ns=1_000_000)
COPY = "import numpy as np\na = np.ones(1 << 23); b = np.empty_like(a)\nprint(flush=True)\nwhile True: b[:] = a"
"""Copies 64 MB for as long as it lives; says when it has begun."""
Row = dict[str, object]


@dataclass(frozen=True)
class Round:
    """What one round found, by workload, and the canaries' floors in it."""

    beside: bool
    found: Mapping[int, Sequence[LaunchSamples]]
    floors: CanaryGolden


@contextmanager
def neighbour() -> Iterator[None]:
    """A process on the first core, which launches on one core leave alone."""
    with subprocess.Popen([sys.executable, "-c", COPY], stdout=subprocess.PIPE) as process:
        os.sched_setaffinity(process.pid, {CORES[0]})
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def rounds(engine: str, kernels: int, count: int, folder: Path) -> list[Round]:
    """Rounds without and with a neighbour, in turn."""
    files, target = Files(folder), Target(engine)
    batch = [files.ready(workload, target) for workload in draw_mixed(SEED, kernels)]
    made = []
    for number in range(count):
        beside = number % 2 == 1
        with neighbour() if beside else nullcontext():
            found, wall_s, _ = measure(files, batch, target, KERNEL, seed=number)
        floors = canary_floors([launch for samples in found.values() for launch in samples])
        print(engine, "beside" if beside else "quiet", f"{wall_s:.1f} s", floors, file=sys.stderr, flush=True)
        golden = CanaryGolden(sgemm_ns=floors.get("sgemm"), mobilenet_ns=floors.get("mobilenet"))
        made.append(Round(beside, found, golden))
    return made


def judged(engine: str, made: Sequence[Round]) -> list[Row]:
    """A row for rounds alone and one for those beside the neighbour."""
    quiet = CanaryGolden(
        sgemm_ns=min(one.floors.sgemm_ns or sys.maxsize for one in made),
        mobilenet_ns=min(one.floors.mobilenet_ns or sys.maxsize for one in made),
    )
    answers = [(one, _answers(one)) for one in made]
    rows: list[Row] = []
    truth = {
        number: median(ms)
        for number in made[0].found
        if (ms := [answer[number] for one, answer in answers if not one.beside and number in answer])
    }
    for beside in (False, True):
        kept, noisy = list[float](), list[float]()
        count = lost = 0
        for one, found in answers:
            if one.beside != beside:
                continue
            count += len(one.found)
            lost += len(one.found) - len(found)
            for number in found.keys() & truth.keys():
                is_kept = not is_noisy(one.found[number], KERNEL, quiet, one.floors)
                (kept if is_kept else noisy).append(abs(found[number] / truth[number] - 1))
        near = [_ratio(one.floors) / _ratio(quiet) for one, _ in answers if one.beside == beside]
        rows.append({
            "engine": engine, "beside them": "a process that copies memory" if beside else "nobody",
            "MobileNet over the quietest": ", ".join(f"{ratio:.3f}" for ratio in near),
            "not reusable anyway": f"{lost / count:.1%}",
            "noisy by the rule": f"{len(noisy) / count:.1%}", "those off: median / 90th": _off(noisy),
            "kept off: median / 90th": _off(kept),
        })  # fmt: skip
    return rows


def _answers(one: Round) -> dict[int, float]:
    """Normalised ms of what would be reused, with the canary's own time as reference."""
    found = {
        number: summarise(samples, protocol=KERNEL, golden=UNIT, clock_proof=ClockProof.UNPINNED, beside=one.floors)
        for number, samples in one.found.items()
    }
    return {
        number: one.normalised_ms
        for number, one in found.items()
        if isinstance(one, Summary) and is_reusable(one.grade) and one.normalised_ms
    }


def _ratio(floors: CanaryGolden) -> float:
    """MobileNet over SGEMM."""
    return (floors.mobilenet_ns or nan) / (floors.sgemm_ns or nan)


def _off(apart: Sequence[float]) -> str:
    if len(apart) < 2:
        return "-"
    return f"{median(apart):.2%} / {quantiles(apart, n=10)[-1]:.2%}"


def main() -> None:
    """Runs the rounds and writes their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--engines", default="onnxruntime,ncnn,litert")
    parser.add_argument("--kernels", type=int, default=40)
    given = parser.parse_args()
    if len(CORES) < 2:
        parser.error("a neighbour wants a core of its own: this needs two")
    rows: list[Row] = []
    for engine in given.engines.split(","):
        with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder:
            rows += judged(engine, rounds(engine, given.kernels, given.rounds, Path(folder)))
    write_section("A noisy minute", command_run(), rows, path=MEASUREMENT)


if __name__ == "__main__":
    main()
