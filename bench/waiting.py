"""Whether blocks that wait for a quiet canary are worth the time: leases of the same kernels with several waits.

python -m bench.waiting [--engines onnxruntime,ncnn] [--kernels 40] [--runs 4] [--waits 0,5,20,80]

A lease is launched as an agent does it. Leases of all waits take turns launch by launch, in an order of chance, so that
they meet the same seconds. Told are visits, board time, the kernels that found no quiet time, and how far two leases of
one wait lie apart. The table goes to docs/measurement.md.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from bench.estimators import MEASUREMENT, Row
from bench.launching import Files, Lease, Target
from bench.report import command_run, write_section
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.protocols import PROTOCOLS, Protocol
from benchfarm_core.quality import clean_blocks, is_noisy, lease_canaries
from benchfarm_core.quiet_blocks import quiet_time
from benchfarm_workloads.draws import draw_mixed

SEED: Final = 20
KERNEL: Final = PROTOCOLS["kernel"]
Found = Mapping[int, Sequence[LaunchSamples]]


@dataclass(frozen=True)
class Outcome:
    """What one lease came to. times: of each kernel in units of the clock, None where too little was quiet."""

    visits: int
    wall_s: float
    canary_s: float
    noisy: int
    times: tuple[float | None, ...]


def waiting(wait_ms: int) -> Protocol:
    """The protocol of kernels with another wait; 0 for none."""
    return KERNEL.model_copy(update={"quiet_wait_ms": wait_ms or None})


def outcome(found: Found, wall_s: float, protocol: Protocol) -> Outcome:
    """What the farm would make of a lease's launches."""
    lease = lease_canaries(launch for samples in found.values() for launch in samples)
    noisy = sum(is_noisy(samples, protocol, lease, lease) for samples in found.values())
    canary_s = sum(launch.canary_ms for samples in found.values() for launch in samples) / 1e3
    times = tuple(_time(samples, protocol, lease.sgemm_ns) for samples in found.values())
    return Outcome(sum(map(len, found.values())), wall_s, canary_s, noisy, times)


def _time(samples: Sequence[LaunchSamples], protocol: Protocol, clock_ns: int | None) -> float | None:
    if clock_ns is None:
        return None
    told = quiet_time([(one, clean_blocks(one)) for one in samples], protocol, clock_ns)
    return told.time_ns / clock_ns if told is not None and told.enough else None


def row(leases: Sequence[Outcome]) -> Row:
    """How the leases of one wait went."""
    kernels = sum(len(one.times) for one in leases)
    pairs = [(a, b) for one, other in combinations(leases, 2) for a, b in zip(one.times, other.times, strict=True)]
    off = [abs(a / b - 1) for a, b in pairs if a is not None and b is not None]
    ninetieth = quantiles(off, n=10, method="inclusive")[-1] if len(off) > 1 else None
    return {
        "leases": len(leases),
        "visits of a kernel": f"{sum(one.visits for one in leases) / kernels:.2f}",
        "board ms of a kernel": f"{sum(one.wall_s for one in leases) / kernels * 1e3:.0f}",
        "of it canaries": f"{sum(one.canary_s for one in leases) / kernels * 1e3:.0f}",
        "noisy": f"{sum(one.noisy for one in leases)} of {kernels}",
        "pairs told": f"{len(off)} of {len(pairs)}",
        "apart, median": f"{median(off):.2%}" if off else "",
        "apart, p90": "" if ninetieth is None else f"{ninetieth:.1%}",
    }


def record(folder: Path, engine: str, kernels: int, runs: int, waits: Sequence[int]) -> dict[int, list[Outcome]]:
    """Leases of each wait, in turns."""
    files, target = Files(folder), Target(engine)
    batch = [files.ready(workload, target) for workload in draw_mixed(SEED, kernels)]
    leases: dict[int, list[Outcome]] = {wait_ms: [] for wait_ms in waits}
    chance = random.Random(engine)
    for run in range(runs):
        under_way = {wait_ms: Lease(files, batch, target, waiting(wait_ms), f"{run}:{wait_ms}") for wait_ms in waits}
        going = set(waits)
        while going:
            going = {one for one in chance.sample(sorted(going), len(going)) if under_way[one].next_launch()}
        for wait_ms, lease in under_way.items():
            leases[wait_ms].append(outcome(lease.found, lease.wall_s, lease.protocol))
        print(engine, run, flush=True)
    return leases


def main() -> int:
    """Record and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="onnxruntime,ncnn")
    parser.add_argument("--kernels", type=int, default=40)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--waits", default="0,5,20,80")
    given = parser.parse_args()
    waits = [int(wait_ms) for wait_ms in given.waits.split(",")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as temporary:
        for engine in given.engines.split(","):
            leases = record(Path(temporary), engine, given.kernels, given.runs, waits)
            rows += [{"engine": engine, "quiet_wait_ms": wait_ms, **row(found)} for wait_ms, found in leases.items()]
    write_section("Blocks that wait", command_run(), rows, path=MEASUREMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
