"""Who pays for a failed attempt, and when an attempt was the last."""

import pytest

from benchfarm_core.failures import FailureCode
from benchfarm_core.leases import pays_attempt
from benchfarm_core.measurements import MOMENTARY_CODES, MeasurementState, Tries, after_failure, rests_s, runs_alone


def test_user_and_farm_faults_are_final_at_once() -> None:
    for code in (FailureCode.WRONG_RESULT, FailureCode.UNSUPPORTED_OPERATOR, FailureCode.ENGINE_ERROR):
        verdict = after_failure(code, Tries())
        assert (verdict.state, verdict.failure) == (MeasurementState.FAILED, code)


@pytest.mark.parametrize("loss", [FailureCode.LEASE_LOST, FailureCode.BOARD_LOST])
def test_what_takes_boards_down_runs_alone_after_two_and_is_poison_after_three(loss: FailureCode) -> None:
    first = after_failure(loss, Tries())
    assert (first.state, first.tries) == (MeasurementState.WANTED, Tries(1, 1, 0))
    assert not runs_alone(first.tries.losses)
    second = after_failure(loss, first.tries)
    assert second.state is MeasurementState.WANTED
    assert runs_alone(second.tries.losses)
    third = after_failure(loss, second.tries)
    assert (third.state, third.failure) == (MeasurementState.FAILED, FailureCode.POISON)
    assert loss in third.reason


def test_other_attempts_end_too_but_are_no_poison() -> None:
    died = after_failure(FailureCode.RUNNER_DIED, Tries())
    again = after_failure(FailureCode.DISK_FULL, died.tries)
    assert not runs_alone(again.tries.losses)
    last = after_failure(FailureCode.LEASE_LOST, again.tries)
    assert (last.state, last.failure) == (MeasurementState.FAILED, FailureCode.LEASE_LOST)


def test_three_inconclusive_attempts_end_and_cost_no_attempt() -> None:
    tries = Tries()
    for expected in (MeasurementState.WANTED, MeasurementState.WANTED, MeasurementState.FAILED):
        verdict = after_failure(FailureCode.CONTENDED, tries)
        tries = verdict.tries
        assert verdict.state is expected
        assert tries.attempts == 0
    assert verdict.failure is FailureCode.INCONCLUSIVE


def test_rests_grow_from_try_to_try() -> None:
    assert rests_s(5.0) == (5.0, 30.0, 120.0)
    assert rests_s(0) == (0, 0, 0)


def test_what_lies_in_the_kernel_as_much_as_in_the_moment_does_not_rest() -> None:
    assert {
        FailureCode.CONTENDED,
        FailureCode.CANARY_DRIFT,
        FailureCode.NOISY,
        FailureCode.THROTTLED,
    } == MOMENTARY_CODES


@pytest.mark.parametrize(
    ("lost", "running", "pays"), [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
)
def test_only_what_was_running_pays(lost: bool, running: bool, pays: bool) -> None:
    assert pays_attempt(lost=lost, running=running) is pays
