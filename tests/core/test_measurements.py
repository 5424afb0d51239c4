"""Who pays for a failed attempt, and when an attempt was the last."""

import pytest

from benchfarm_core.failures import FailureCode
from benchfarm_core.leases import pays_attempt
from benchfarm_core.measurements import MeasurementState, after_failure, runs_alone


def test_user_and_farm_faults_are_final_at_once() -> None:
    for code in (FailureCode.WRONG_RESULT, FailureCode.UNSUPPORTED_OPERATOR, FailureCode.ENGINE_ERROR):
        verdict = after_failure(code, attempts=0, inconclusive=0)
        assert (verdict.state, verdict.failure) == (MeasurementState.FAILED, code)


def test_transient_ones_try_again_and_a_third_lost_lease_is_poison() -> None:
    first = after_failure(FailureCode.LEASE_LOST, attempts=0, inconclusive=0)
    assert (first.state, first.attempts) == (MeasurementState.WANTED, 1)
    assert not runs_alone(first.attempts)
    second = after_failure(FailureCode.LEASE_LOST, attempts=1, inconclusive=0)
    assert second.state is MeasurementState.WANTED
    assert runs_alone(second.attempts)
    third = after_failure(FailureCode.LEASE_LOST, attempts=2, inconclusive=0)
    assert (third.state, third.failure) == (MeasurementState.FAILED, FailureCode.POISON)


@pytest.mark.parametrize("last", [FailureCode.LEASE_LOST, FailureCode.BOARD_LOST])
def test_what_takes_boards_down_three_times_is_poison(last: FailureCode) -> None:
    verdict = after_failure(last, attempts=2, inconclusive=0)
    assert (verdict.state, verdict.failure) == (MeasurementState.FAILED, FailureCode.POISON)
    assert last in verdict.reason


def test_three_inconclusive_attempts_end_and_cost_no_attempt() -> None:
    counts = (0, 0)
    for expected in (MeasurementState.WANTED, MeasurementState.WANTED, MeasurementState.FAILED):
        verdict = after_failure(FailureCode.CONTENDED, attempts=counts[0], inconclusive=counts[1])
        counts = (verdict.attempts, verdict.inconclusive)
        assert verdict.state is expected
        assert verdict.attempts == 0
    assert verdict.failure is FailureCode.INCONCLUSIVE


@pytest.mark.parametrize(
    ("started", "finished", "pays"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_only_what_was_running_pays(started: bool, finished: bool, pays: bool) -> None:
    assert pays_attempt(started=started, finished=finished) is pays
