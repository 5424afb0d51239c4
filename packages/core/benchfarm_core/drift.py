"""What the few canaries beside an upload say against their board's history.

The history holds the fastest canary of whole leases, out of hundreds of runs. An upload has a few dozen runs of its
own, within a second or two, since its lease tells nothing that anybody is judged by. That these are slower than
`quality.drifted` allows may lie in the board, whose clock changed, or in the moment. So more launches are asked for
while there are any, and then they are held to as few runs of earlier measurements: where those were as slow now and
then, it was the moment. Neither gives an answer while tries are left, for a moment passes. After the last one what a
moment slowed is an answer all the same, marked as noisy kernels are (decision 0049). What a board gave that may have
changed is one only where a later lease shows that it had not.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import Protocol
from benchfarm_core.quality import CLOCK_CANARY, HISTORY_LIMITS, CanaryGolden, canary_floors

LOUD_SHARE: Final = 0.05
"""Of earlier measurements this share was in moments as loud as any that one meets; what only fewer saw is none."""


def slowest_ns(history: CanaryGolden, clock_proof: ClockProof) -> int | None:
    """The slowest that the fastest run of the clock's canary may be, in ns, before the board has drifted; None where
    nothing is known."""
    known_ns = history.of(CLOCK_CANARY)
    return None if known_ns is None else round(known_ns * (1 + HISTORY_LIMITS[clock_proof]))


def misses_clock(launches: Sequence[LaunchSamples], protocol: Protocol, limit_ns: int | None) -> bool:
    """Whether launches are left, and those that there are never met the board's clock. `limit_ns`: `slowest_ns`."""
    return len(launches) < protocol.launches_max and is_late(launches, limit_ns)


def is_late(launches: Sequence[LaunchSamples], limit_ns: int | None) -> bool:
    """Whether launches never met the board's clock. `limit_ns`: `slowest_ns`."""
    own_ns = canary_floors(launches).get(CLOCK_CANARY)
    return limit_ns is not None and own_ns is not None and own_ns > limit_ns


def is_of_a_moment(
    launches: Sequence[LaunchSamples], earlier: Iterable[Sequence[LaunchSamples]], history: CanaryGolden
) -> bool:
    """Whether canaries that are slower than the history allows a free clock were so in a moment such as others met.

    earlier: measurements of the same board and platform, of each of which as many runs count as there are in
    `launches`, its first ones. False for faster ones: neighbours only ever add time.
    """
    own, limit_ns = _runs(launches), slowest_ns(history, ClockProof.UNPINNED)
    if not own or limit_ns is None or min(own) <= limit_ns:
        return False
    floors = sorted(min(runs[: len(own)]) for each in earlier if (runs := _runs(each)))
    return bool(floors) and min(own) <= floors[-1 - int(LOUD_SHARE * len(floors))]


def _runs(launches: Iterable[LaunchSamples]) -> list[int]:
    """Every run of the clock's canary in ns, launch by launch."""
    in_order = sorted(launches, key=lambda launch: launch.launch_no)
    return [ns for launch in in_order for _, ns in launch.canaries.get(CLOCK_CANARY, ())]
