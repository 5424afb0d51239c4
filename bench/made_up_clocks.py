"""Made-up processors and what the rule of quiet blocks tells of them, by how much is measured in one lease.

python -m bench.made_up_clocks [--workloads 120] [--print]

A processor changes between modes as often as one of a shared host. Its canary follows them wholly, a kernel with the
power 0.8, and launches go on as the agent has it. All kernels take as long, so every difference is the rule's own: of
leases that saw more or less of the clock, of a canary that was once too fast, of launches that opened well. Seeded; it
takes seconds and measures nothing. The table goes to docs/measurement.md.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean, median, quantiles
from typing import Final

from bench.report import ROOT, command_run, options, write_section
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, is_noisy, lease_canaries, summarise, wants_more_launches
from benchfarm_core.summaries import Summary

SEED: Final = 17
SIZES: Final = (1, 10, 60)
"""Workloads in a lease."""
KERNEL: Final = PROTOCOLS["kernel"]
BLOCK_NS: Final = 210_000
CANARY_NS: Final = 80_000
MOBILENET_NS: Final = 500_000
ITERATIONS: Final = 10
FOLLOWS: Final = 0.8
BLOCK_NOISE: Final = 0.005
CANARY_NOISE: Final = 0.02
STAYS_NS: Final = 5_000_000
"""A mode lasts so long on average."""
BETWEEN_NS: Final = 16_000_000
"""From the end of a visit to the next one of its launch."""
STEADY: Final = ((1.0, 1.0),)


@dataclass(frozen=True)
class Host:
    """A made-up processor. modes: how many times as slow as usual, and for which share of the time.

    once_ns: one canary of each lease takes so long, whatever its mode. well_opened: how many times as long every
    fourth launch of a workload takes, by chance.
    """

    name: str
    modes: tuple[tuple[float, float], ...] = STEADY
    once_ns: int | None = None
    well_opened: float = 1.0


HOSTS: Final = (
    Host("steady"),
    Host("8 % faster for 3 % of the time, 25 % slower for 30 %", ((1 / 1.08, 0.03), (1.0, 0.67), (1.25, 0.3))),
    Host("25 % faster for 1 %", ((0.8, 0.01), (1.0, 0.99))),
    Host("25 % faster for 10 %", ((0.8, 0.1), (1.0, 0.9))),
    Host("steady, one canary of a lease 10 % too fast", once_ns=72_000),
    Host("steady, one canary of a lease 20 % too fast", once_ns=64_000),
    Host("steady, a launch in four 7 % faster", well_opened=0.93),
)


class Clock:
    """The mode that a processor is in, as time goes on."""

    def __init__(self, host: Host, chance: Random) -> None:
        self.slowness = 1.0
        self._host, self._chance, self._left_ns = host, chance, 0.0

    def take(self, usual_ns: float, *, follows: float, noise: float) -> int:
        """Some work: how long it takes in the mode that it begins in, in ns. noise: as a share, only ever added."""
        if self._left_ns <= 0:
            slowness, shares = zip(*self._host.modes, strict=True)
            (self.slowness,) = self._chance.choices(slowness, shares)
            self._left_ns = self._chance.expovariate(1 / STAYS_NS)
        slower = math.pow(self.slowness, follows) * (1 + abs(self._chance.gauss(0, noise)))
        taken_ns = round(usual_ns * slower)
        self._left_ns -= taken_ns
        return taken_ns

    def canary(self) -> int:
        """One run of SGEMM behind an untimed one, in ns."""
        self.take(CANARY_NS, follows=1, noise=0)
        return self.take(CANARY_NS, follows=1, noise=CANARY_NOISE)


def visit(clock: Clock, number: int, opened: float) -> LaunchSamples:
    """A visit as a runner makes it: rows of a millisecond with clock points between them and behind the last."""
    clock.take(BETWEEN_NS, follows=0, noise=0)
    points, blocks = [(0, clock.canary()) for _ in range(3)], list[int]()
    mobilenet = clock.take(MOBILENET_NS, follows=1, noise=CANARY_NOISE)
    while sum(blocks) < KERNEL.visit_ms * 1_000_000:
        row_ns = 0
        while row_ns < 1_000_000 and sum(blocks) < KERNEL.visit_ms * 1_000_000:
            blocks.append(clock.take(BLOCK_NS * opened, follows=FOLLOWS, noise=BLOCK_NOISE))
            row_ns += blocks[-1]
        points.append((len(blocks), clock.canary()))
    nothing = (0,) * len(blocks)
    return LaunchSamples(
        launch_no=number,
        iterations=ITERATIONS,
        blocks_ns=tuple(blocks),
        delays_ns=nothing,
        switches=nothing,
        canaries={"sgemm": tuple(points), "mobilenet": ((0, mobilenet),)},
        open_ms=1,
        first_ms=1,
        warmup_runs=3,
        gate_relative_l2=0,
        timed_ms=sum(blocks) / 1e6,
        canary_ms=1,
    )


def leased(host: Host, workloads: int, chance: Random) -> list[list[LaunchSamples]]:
    """The launches of every workload of one lease."""
    clock = Clock(host, chance)
    found: list[list[LaunchSamples]] = [[] for _ in range(workloads)]
    for number in range(KERNEL.launches_max):
        lease = lease_canaries(launch for launches in found for launch in launches)
        for launches in [one for one in found if wants_more_launches(one, KERNEL, lease=lease)]:
            opened = host.well_opened if chance.random() < 1 / 4 else 1.0
            launches.append(visit(clock, number, opened))
            if host.once_ns is not None and number == 0 and launches is found[0]:
                launches[0] = _with_canary(launches[0], host.once_ns)
    return found


def _with_canary(one: LaunchSamples, ns: int) -> LaunchSamples:
    """The launch, the last of whose points took so long."""
    *points, (place, _) = one.canaries["sgemm"]
    return one.model_copy(update={"canaries": {**one.canaries, "sgemm": (*points, (place, ns))}})


@dataclass(frozen=True)
class Told:
    """What the farm says of one workload: its normalised time in ms, None where it was noisy; its launches."""

    time_ms: float | None
    launches: int


def told(found: Sequence[Sequence[LaunchSamples]]) -> Iterator[Told]:
    """Each workload of a lease, by a reference of the usual clock."""
    lease, golden = lease_canaries(one for launches in found for one in launches), CanaryGolden(sgemm_ns=CANARY_NS)
    for launches in found:
        said = summarise(launches, protocol=KERNEL, golden=golden, clock_proof=ClockProof.UNPINNED, beside=lease)
        noisy = is_noisy(launches, KERNEL, CanaryGolden(), lease)
        yield Told(said.normalised_ms if isinstance(said, Summary) and not noisy else None, len(launches))


def measured(host: Host, size: int, workloads: int) -> list[Told]:
    """So many workloads, by leases of a size."""
    chance = Random(f"{SEED}:{host.name}:{size}")
    return [one for _ in range(workloads // size) for one in told(leased(host, size, chance))]


def rows_of(host: Host, workloads: int) -> Iterator[Mapping[str, object]]:
    """A row for each size of a lease."""
    by_size = {size: measured(host, size, workloads) for size in SIZES}
    times = {size: [one.time_ms for one in all_ if one.time_ms is not None] for size, all_ in by_size.items()}
    for size, all_ in by_size.items():
        row: dict[str, object] = {"processor": host.name, "in a lease": size}
        row["launches"] = f"{mean(one.launches for one in all_):.1f}"
        row["noisy"] = f"{1 - len(times[size]) / len(all_):.0%}"
        if len(times[size]) > 1:
            middle = median(times[size])
            off = [abs(one / middle - 1) for one in times[size]]
            row["apart"] = f"{median(off):.2%} / {quantiles(off, n=10, method='inclusive')[-1]:.1%}"
            row["against what it takes"] = f"{middle / (BLOCK_NS / ITERATIONS / 1e6) - 1:+.1%}"
        yield row


def main() -> int:
    """Draw, judge, write the table."""
    parser = options(__doc__)
    parser.add_argument("--workloads", type=int, default=120, help="of each processor and size of a lease")
    given = parser.parse_args()
    rows = [row for host in HOSTS for row in rows_of(host, given.workloads)]
    if given.print:
        for row in rows:
            print(row)
    else:
        write_section("Made-up clocks", command_run(), rows, path=ROOT / "docs" / "measurement.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
