"""What a launch's evidence proves of the clock, and which launches are rejected."""

from typing import Any

import pytest
from pydantic import ValidationError

from benchfarm_core.clock_proof import ClockEvidence, is_throttled, proof, proof_of_launches, unthrottled, weakest
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import accepted_launches

KERNEL = PROTOCOLS["kernel"]
PINNED = {"asked_khz": (1_800_000,), "watched_s": 4.0}


def evidence(**changes: Any) -> ClockEvidence:
    return ClockEvidence.model_validate({**PINNED, "residency": 1.0, "throttle_events": 0, **changes})


def launch(number: int) -> LaunchSamples:
    return LaunchSamples(
        launch_no=number,
        iterations=1,
        blocks_ns=(1000,) * 10,
        delays_ns=(0,) * 10,
        switches=(0,) * 10,
        canaries={"sgemm": ((0, 1000),)},
        open_ms=1,
        first_ms=1,
        warmup_runs=1,
        gate_relative_l2=None,
        timed_ms=1,
        canary_ms=1,
    )


@pytest.mark.parametrize(
    ("changes", "proven"),
    [
        ({}, "verified"),
        ({"residency": 0.99, "watched_s": 1.0}, "verified"),
        ({"throttle_events": None}, "verified"),
        ({"residency": 0.989}, "unpinned"),
        ({"watched_s": 0.99}, "unpinned"),
        ({"throttle_events": 1}, "unpinned"),
        ({"cores_lost": True}, "unpinned"),
        ({"asked_khz": ()}, "unpinned"),
        ({"residency": 0.5, "samples": 100}, "unpinned"),
        ({"residency": None, "samples": 20}, "bounded"),
        ({"residency": None, "samples": 19}, "unpinned"),
        ({"residency": None, "samples": 200, "samples_off": 1}, "unpinned"),
        ({"residency": None, "samples": 200, "throttle_events": 2}, "unpinned"),
        ({"residency": None}, "unpinned"),
    ],
)
def test_what_proves_a_clock(changes: dict[str, Any], proven: str) -> None:
    assert proof(evidence(**changes)) == proven


@pytest.mark.parametrize(
    ("changes", "throttled"),
    [
        ({}, False),
        ({"throttle_events": None}, False),
        ({"throttle_events": 3}, True),
        ({"cores_lost": True}, True),
        ({"residency": 0.1}, False),
    ],
)
def test_which_launches_are_throttled(changes: dict[str, Any], throttled: bool) -> None:
    assert is_throttled(evidence(**changes)) is throttled


@pytest.mark.parametrize(
    "damage", [{"residency": 1.1}, {"residency": -0.1}, {"samples": -1}, {"samples": 2**53}, {"asked_khz": (0,)}]
)
def test_garbage_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        evidence(**damage)


def test_the_weakest_launch_speaks_for_a_result() -> None:
    bounded = evidence(residency=None, samples=40)
    launches = [launch(number) for number in range(3)]
    assert proof_of_launches(launches, dict.fromkeys(range(3), evidence())) is ClockProof.VERIFIED
    assert proof_of_launches(launches, {0: evidence(), 1: bounded, 2: evidence()}) is ClockProof.BOUNDED
    assert proof_of_launches(launches, {0: evidence(), 1: evidence()}) is ClockProof.UNPINNED, "one told nothing"
    assert proof_of_launches([], {}) is weakest([]) is ClockProof.UNPINNED


def test_throttled_launches_are_rejected_and_too_few_left_are_no_answer() -> None:
    hot = evidence(throttle_events=1)
    launches = [launch(number) for number in range(KERNEL.launches_min + 1)]
    assert unthrottled(launches, {0: hot, 1: evidence()}) == launches[1:]
    assert accepted_launches(launches, {0: hot}, KERNEL) == launches[1:]
    assert accepted_launches(launches, {0: hot, 1: hot}, KERNEL) is FailureCode.THROTTLED
    assert accepted_launches(launches[:1], {}, KERNEL) == launches[:1], "too few, and not for the heat"
