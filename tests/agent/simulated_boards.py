"""Simulated boards for tests: the sample profile with changes, and a clock that passes when somebody waits for it."""

import asyncio
from typing import Any

from benchfarm_agent.boards.simulated import ScaledClock, SimulatedBoard, SimulatedClock, Unit
from benchfarm_agent.boards.simulated_profile import SimulatedProfile, read_profile
from benchfarm_core.failures import FailureCode

BEGAN_UNIX_S = 1_700_000_000.0
_FAULTS = {
    "segfault": FailureCode.RUNNER_DIED,
    "exit": FailureCode.RUNNER_DIED,
    "hang-in-child": FailureCode.RUNNER_DIED,
    "bad-alloc": FailureCode.OUT_OF_MEMORY,
    "hang": FailureCode.TIMEOUT,
    "long-line": FailureCode.RUNNER_GARBAGE,
    "flood": FailureCode.RUNNER_GARBAGE,
}
"""What a stand-in runner does on request, as the failure of a profile that comes to the same."""


class SteppedClock:
    """Time stands still but for those who wait: it jumps to the moment that they wait for."""

    def __init__(self) -> None:
        self.moment_s = 0.0

    def now_s(self) -> float:
        return self.moment_s

    def unix_s(self) -> float:
        return BEGAN_UNIX_S + self.moment_s

    async def sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(0)
        self.moment_s = max(self.moment_s, moment_s)


def profile_with(**parts: Any) -> SimulatedProfile:
    """The sample without failures; `parts` change tables, or replace what is no table."""
    document = read_profile(None).model_dump(mode="json") | {"failures": {}}
    for name, given in parts.items():
        document[name] = document[name] | given if isinstance(given, dict) else given
    return SimulatedProfile.model_validate(document, strict=False)


def simulated_board(
    profile: SimulatedProfile, clock: SimulatedClock | None = None, *, number: int = 1, seed: int = 0
) -> SimulatedBoard:
    """One unit, in stepped time where no clock is given."""
    return SimulatedBoard(profile, Unit("tests", number, seed), clock or SteppedClock())


def simulated_board_with(*faults: str) -> SimulatedBoard:
    """In real time, with what comes to the same as a stand-in runner's faults, in every visit."""
    codes = [_FAULTS[fault.partition("@")[0]] for fault in faults if fault.partition("@")[0] in _FAULTS]
    profile = profile_with(latency={"import_ms": 5.0, "open_ms": 0.1}, failures=dict.fromkeys(codes, 1.0))
    return simulated_board(profile, ScaledClock())
