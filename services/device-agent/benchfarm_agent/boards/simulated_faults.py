"""Which failures a simulated board meets, by chance and again the same for the same seed."""

from collections.abc import Mapping
from random import Random
from typing import Any, Final

from benchfarm_agent.boards.simulated_profile import SIMULATED_FAILURES, SimulatedProfile
from benchfarm_core.failures import FailureCode, fault_of

_OF_A_LEASE: Final = FailureCode.PIN_NOT_VERIFIED
OF_WORKLOADS: Final = (
    FailureCode.ENGINE_ERROR,
    *(code for code in SIMULATED_FAILURES if fault_of(code) == "user"),
)
"""They meet a workload wherever and however often it is tried."""
OF_VISITS: Final = tuple(code for code in SIMULATED_FAILURES if code not in (*OF_WORKLOADS, _OF_A_LEASE))


def fault_of_visit(
    profile: SimulatedProfile, request: Mapping[str, Any], visit: Mapping[str, Any], chance: Random
) -> FailureCode | None:
    """What goes wrong in a visit; None where it goes well. chance: that of the launch."""
    return _fault_of_workload(profile, request, visit) or _thrown(profile, OF_VISITS, chance)


def fails_to_pin(profile: SimulatedProfile, chance: Random) -> bool:
    """Whether the board does not obey in this lease."""
    return _thrown(profile, (_OF_A_LEASE,), chance) is not None


def _fault_of_workload(
    profile: SimulatedProfile, request: Mapping[str, Any], visit: Mapping[str, Any]
) -> FailureCode | None:
    if not any(profile.failures.get(code) for code in OF_WORKLOADS):
        return None
    key = (profile.model, request.get("engine"), request.get("precision"), visit.get("artifact", visit["visit"]))
    return _thrown(profile, OF_WORKLOADS, Random("/".join(map(str, key))))


def _thrown(profile: SimulatedProfile, codes: tuple[FailureCode, ...], chance: Random) -> FailureCode | None:
    """At most one of some failures; one number of the chance whatever comes of it."""
    drawn, below = chance.random(), 0.0
    for code in codes:
        below += profile.failures.get(code, 0.0)
        if drawn < below:
            return code
    return None
