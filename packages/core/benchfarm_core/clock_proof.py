"""What was seen of the clock during one launch, and what that proves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

from pydantic import Field

from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import CLOCK_PROOF_ORDER, MAX_CORES, ClockProof
from benchfarm_core.values import Value

RESIDENCY_MIN: Final = 0.99
"""Share of a launch that the clock must have been the asked one, by the kernel's own time-in-state."""
WATCHED_MIN_S: Final = 1.0
"""A shorter launch proves nothing: time-in-state counts in ticks of 10 ms."""
SAMPLES_MIN: Final = 20
"""Looks at the current frequency that bound the clock: a second of them at 20 Hz."""

_Count = Annotated[int, Field(ge=0, lt=2**53)]


class ClockEvidence(Value):
    """What a board told about its clock over one launch; null is what it does not tell.

    `asked_khz`: one per cluster of the operating point, empty where nothing was asked. `residency`: the lowest share,
    over the point's clusters, of the launch's time at the asked frequency, at the least. `watched_s`: how long the
    launch took, as far as it was watched; what was watched around it does not count. `samples` of the current
    frequency, and how many of them were another: where there is no residency. `throttle_events`: how often the board
    slowed itself down. `cores_lost`: a core of the point went offline.
    """

    asked_khz: tuple[Annotated[int, Field(gt=0, lt=2**31)], ...] = Field(default=(), max_length=MAX_CORES)
    residency: float | None = Field(default=None, ge=0, le=1)
    watched_s: float = Field(default=0.0, ge=0, lt=2**31)
    samples: _Count = 0
    samples_off: _Count = 0
    throttle_events: _Count | None = None
    cores_lost: bool = False


def proof(evidence: ClockEvidence) -> ClockProof:
    """What a launch's evidence proves; nothing where no frequency was asked.

    Where the kernel counts time in state, that count decides: samples beside it prove nothing more.
    """
    if not evidence.asked_khz or is_throttled(evidence):
        return ClockProof.UNPINNED
    if evidence.residency is not None:
        proven = evidence.residency >= RESIDENCY_MIN and evidence.watched_s >= WATCHED_MIN_S
        return ClockProof.VERIFIED if proven else ClockProof.UNPINNED
    bounded = evidence.samples >= SAMPLES_MIN and not evidence.samples_off
    return ClockProof.BOUNDED if bounded else ClockProof.UNPINNED


def is_throttled(evidence: ClockEvidence) -> bool:
    """Whether the board slowed itself down or lost a core during the launch: then the launch is rejected."""
    return bool(evidence.throttle_events) or evidence.cores_lost


def weakest(proofs: Iterable[ClockProof]) -> ClockProof:
    """What several launches prove together; nothing where there are none."""
    return min(proofs, key=CLOCK_PROOF_ORDER.__getitem__, default=ClockProof.UNPINNED)


def unthrottled(launches: Sequence[LaunchSamples], clocks: Mapping[int, ClockEvidence]) -> list[LaunchSamples]:
    """The launches that were not throttled. `clocks` by launch number; one without evidence was not."""
    throttled = {number for number, evidence in clocks.items() if is_throttled(evidence)}
    return [launch for launch in launches if launch.launch_no not in throttled]


def proof_of_launches(launches: Iterable[LaunchSamples], clocks: Mapping[int, ClockEvidence]) -> ClockProof:
    """What the clock of a result is proven as: by its weakest launch. One without evidence proves nothing."""
    found = (clocks.get(launch.launch_no) for launch in launches)
    return weakest(ClockProof.UNPINNED if evidence is None else proof(evidence) for evidence in found)
