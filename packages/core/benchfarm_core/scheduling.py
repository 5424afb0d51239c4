"""What a board does next: one platform group, by priority class, fair share of device-seconds, age."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

AGE_STEP_S: Final = 15 * 60.0
HALF_LIFE_S: Final = 3600.0
STAY_S: Final = 60.0
"""Staying on one operating point ends after this when another group waits."""
BATCH_TARGET_S: Final = 10.0
BATCH_LIMIT_S: Final = 30.0


# No messages but plain tuples: a decision makes a hundred of these from the store's own rows, which need no checks.
class Group(NamedTuple):
    """What waits for one platform, protocol, account and priority class."""

    queue_id: int
    platform_id: int
    rank: int
    """Place of the priority class, 0 for the lowest."""
    waited_s: float
    """Age of the oldest."""
    account_device_s: float


class Candidate(NamedTuple):
    """One waiting measurement of the chosen group."""

    measurement_id: int
    expected_s: float
    alone: bool
    uploaded: bool = False
    repeats: tuple[int, str] | None = None
    """Which workload and timing it measures: others with the same are its repeats. None: it has none."""


def choose_group(
    groups: Iterable[Group], *, current_platform_id: int | None = None, stayed_s: float = math.inf
) -> Group | None:
    """The group to serve next. A board stays on its platform for up to 60 s unless a higher class waits.

    A class counts one step higher per 15 minutes waited.
    """
    stay = stayed_s < STAY_S
    leave = current_platform_id if not stay else None

    def order(group: Group) -> tuple[float, ...]:
        return (
            -(group.rank + max(0.0, group.waited_s) // AGE_STEP_S),
            not (stay and group.platform_id == current_platform_id),
            group.platform_id == leave,
            group.account_device_s,
            -group.waited_s,
            group.queue_id,
        )

    return min(groups, key=order, default=None)


def fill_batch(candidates: Sequence[Candidate]) -> list[int]:
    """Measurement ids for one lease: about `BATCH_TARGET_S`, never above `BATCH_LIMIT_S` unless the first needs more.

    Uploads share no lease with generated workloads: a stranger's file in the process could bend their numbers, which
    all accounts reuse. The first decides which kind it is. Nor do repeats: what they share, its processes, canaries
    and minute, would make them agree.
    """
    chosen: list[int] = []
    taken: set[tuple[int, str]] = set()
    total_s = 0.0
    for candidate in candidates:
        if candidate.uploaded != candidates[0].uploaded or candidate.repeats in taken:
            continue
        if candidate.alone:
            if not chosen:
                return [candidate.measurement_id]
            continue
        if chosen and (total_s >= BATCH_TARGET_S or total_s + candidate.expected_s > BATCH_LIMIT_S):
            break
        chosen.append(candidate.measurement_id)
        if candidate.repeats is not None:
            taken.add(candidate.repeats)
        total_s += candidate.expected_s
    return chosen


def is_full(candidates: Sequence[Candidate], batch: Sequence[int]) -> bool:
    """Whether a batch left out more of its candidates than repeats of what it holds."""
    return len(batch) < len({one.repeats or (one.measurement_id,) for one in candidates})


def decay(device_s: float, since_s: float) -> float:
    """An account's use of boards, forgotten by half every hour."""
    return float(device_s * 0.5 ** (max(0.0, since_s) / HALF_LIFE_S))
