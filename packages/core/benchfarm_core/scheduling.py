"""What a board does next: one platform group, by priority class, fair share of device-seconds, age."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from benchfarm_core.jobs import PriorityClass

AGE_STEP_S: Final = 15 * 60.0
HALF_LIFE_S: Final = 3600.0
STAY_S: Final = 60.0
"""Staying on one operating point ends after this when another group waits."""
BATCH_TARGET_S: Final = 10.0
BATCH_LIMIT_S: Final = 30.0

_RANK: Final = {PriorityClass.LOW: 0, PriorityClass.NORMAL: 1, PriorityClass.HIGH: 2}


# No messages: a decision makes a hundred of these from the store's own rows, which need no checks.
@dataclass(frozen=True, slots=True)
class Group:
    """What waits for one platform, protocol, account and priority class."""

    platform_id: str
    protocol_id: str
    account_id: str
    priority: PriorityClass
    oldest_at: datetime
    account_device_s: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One waiting measurement of the chosen group."""

    measurement_id: int
    expected_s: float
    alone: bool
    uploaded: bool = False


def aged_rank(priority: PriorityClass, waited_s: float) -> int:
    """The class, one step higher per 15 minutes waited."""
    return _RANK[priority] + int(max(0.0, waited_s) // AGE_STEP_S)


def choose_group(
    groups: Sequence[Group],
    *,
    now: datetime,
    current_platform_id: str | None = None,
    current_since: datetime | None = None,
) -> Group | None:
    """The group to serve next. A board stays on its platform for up to 60 s unless a higher class waits."""
    if not groups:
        return None
    stay = current_since is not None and (now - current_since).total_seconds() < STAY_S
    leave = current_platform_id if not stay else None

    def order(group: Group) -> tuple[object, ...]:
        rank = aged_rank(group.priority, (now - group.oldest_at).total_seconds())
        here = group.platform_id == current_platform_id
        return (
            -rank,
            0 if stay and here else 1,
            1 if group.platform_id == leave else 0,
            group.account_device_s,
            group.oldest_at,
            group.platform_id,
            group.protocol_id,
        )

    return min(groups, key=order)


def fill_batch(
    candidates: Sequence[Candidate], *, target_s: float = BATCH_TARGET_S, limit_s: float = BATCH_LIMIT_S
) -> list[int]:
    """Measurement ids for one lease: about `target_s`, never above `limit_s` unless the first needs more.

    Uploads share no lease with generated workloads: a stranger's file in the process could bend their numbers, which
    all accounts reuse. The first decides which kind it is.
    """
    chosen: list[int] = []
    total_s = 0.0
    for candidate in candidates:
        if candidate.uploaded != candidates[0].uploaded:
            continue
        if candidate.alone:
            if not chosen:
                return [candidate.measurement_id]
            continue
        if chosen and (total_s >= target_s or total_s + candidate.expected_s > limit_s):
            break
        chosen.append(candidate.measurement_id)
        total_s += candidate.expected_s
    return chosen


def decay(device_s: float, since_s: float, half_life_s: float = HALF_LIFE_S) -> float:
    """An account's use of boards, forgotten by half every hour."""
    return float(device_s * 0.5 ** (max(0.0, since_s) / half_life_s))
