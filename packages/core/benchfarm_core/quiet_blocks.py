"""Blocks that lie between two quiet canaries, and the time of a workload that they tell.

A processor whose cores are shared has a fast mode for moments, its usual one, and slow ones, and changes between them
within milliseconds; no witness sees it. With clock points (`Protocol.clock_every_ms`) every block lies between two runs
of the clock's canary, a millisecond or so apart. Where both came near the lease's fastest nobody was beside the block,
and what is left of the clock can be divided out. On a shared host such blocks repeat two to five times as well from run
to run as floors of launches do (docs/measurement.md, "Canaries between the blocks"), and where there are none, a floor
says nothing but how loud it was.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Final, NamedTuple

from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.protocols import Protocol

CLOCK_LIMIT: Final = 1.2
"""A block was quiet when the canaries on both its sides took at most so many times the lease's fastest."""
CLOCK_WEIGHT: Final = 0.6
"""The power of its canaries by which a block is divided. One run of 0.1 ms is noisy itself and part of a kernel waits
for memory, which has a clock of its own: by the full power numbers repeat less well."""
QUIET_SHARE: Final = 0.25
"""The time is what this share of the quiet blocks stay below: some of the others had a neighbour between two points."""
TIME_SHARE: Final = 0.2
"""Quiet blocks tell a time when together they last this share of what `launches_min` visits are to last."""
CLOCK_RUNS_PER_ROW: Final = 12
"""Where the canary is slow, a point follows after so many times its run: else points took longer than the blocks."""
SPEAKING_BLOCKS: Final = 2
"""Quiet blocks with which a launch has a time of its own."""
SPEAKING_LAUNCHES: Final = 2
"""Launches that must have one; one, where a protocol asks for one launch."""

PATIENT_MEASUREMENTS: Final = 10
"""A lease waits for quiet moments as if it had so many measurements at least: starting another one takes as long."""


@dataclass(frozen=True)
class QuietTime:
    """What quiet blocks say of a workload: `time_ns` of one iteration at the clock of the lease, by all of them;
    `launches_ns` by those of each launch that has enough, lowest first. `enough`: whether they are enough to tell."""

    time_ns: float
    launches_ns: tuple[float, ...]
    enough: bool


def has_clock_points(launches: Iterable[LaunchSamples], protocol: Protocol) -> bool:
    """Whether blocks lie between canaries. A runner that is older than clock points brings none of them."""
    return any(True for launch in launches for _ in _rows(launch, protocol))


def quiet_time(
    launches: Iterable[tuple[LaunchSamples, Sequence[bool]]], protocol: Protocol, clock_ns: int
) -> QuietTime | None:
    """The time by quiet blocks; None where there are none at all.

    launches: each with which of its blocks are clean. clock_ns: the fastest run of the clock's canary in the lease.
    """
    by_launch = [list(_quiet(launch, clean, protocol, clock_ns)) for launch, clean in launches]
    times_ns = [time_ns for found in by_launch for time_ns, _ in found]
    if not times_ns:
        return None
    lasted_ns = sum(block_ns for found in by_launch for _, block_ns in found)
    speaking = sorted(_low([t for t, _ in found]) for found in by_launch if len(found) >= SPEAKING_BLOCKS)
    needed_ns = TIME_SHARE * protocol.launches_min * protocol.visit_ms * 1_000_000
    enough = lasted_ns >= needed_ns and len(speaking) >= min(SPEAKING_LAUNCHES, protocol.launches_min)
    return QuietTime(_low(times_ns), tuple(speaking), enough)


def patience_ms(protocol: Protocol, measurements: int, waited_ms: float) -> int:
    """How long the launches that a lease has left wait for quiet moments, all together, after `waited_ms` of waiting.

    A loud second is waited for once, by whoever meets it, and not given up by every visit in it: what is timed
    meanwhile says nothing, and comes again in another launch.
    """
    if protocol.quiet_wait_ms is None:
        return 0
    visits = protocol.launches_max * max(PATIENT_MEASUREMENTS, measurements)
    return max(0, int(protocol.quiet_wait_ms * visits - waited_ms))


def _low(times_ns: Sequence[float]) -> float:
    return sorted(times_ns)[int(QUIET_SHARE * len(times_ns))]


def _quiet(
    launch: LaunchSamples, clean: Sequence[bool], protocol: Protocol, clock_ns: int
) -> Iterator[tuple[float, int]]:
    """Of each quiet block the time of one iteration at the lease's clock, and how long the block was; both in ns."""
    for row in _rows(launch, protocol):
        if max(row.before_ns, row.behind_ns) > CLOCK_LIMIT * clock_ns:
            continue
        faster = (clock_ns / sqrt(row.before_ns * row.behind_ns)) ** CLOCK_WEIGHT
        for place in range(row.begin, row.end):
            if clean[place]:
                yield launch.blocks_ns[place] / launch.iterations * faster, launch.blocks_ns[place]


class _Row(NamedTuple):
    """Blocks `begin` to before `end`, and the runs of the clock's canary right before and right behind them, in ns."""

    begin: int
    end: int
    before_ns: int
    behind_ns: int


def _rows(launch: LaunchSamples, protocol: Protocol) -> Iterator[_Row]:
    """The blocks between each two points. Where they last longer than the protocol says points were lost, or never
    taken, and nobody knows what was beside them. A point behind more blocks than there are is none. Where blocks waited
    for quiet several runs stand at one place: the first is what the blocks before it met, the last what those behind
    it begin with."""
    if protocol.clock_every_ms is None:
        return
    points: dict[int, list[int]] = {}
    for place, ns in launch.canaries.get("sgemm", ()):
        if place <= len(launch.blocks_ns):
            points.setdefault(place, []).append(ns)
    for (begin, before), (end, behind) in pairwise(sorted(points.items())):
        longest_ns = max(protocol.clock_every_ms * 1_000_000, CLOCK_RUNS_PER_ROW * before[-1])
        if sum(launch.blocks_ns[begin : end - 1]) < longest_ns:
            yield _Row(begin, end, before[-1], behind[0])
