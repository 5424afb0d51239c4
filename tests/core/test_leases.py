"""After which leases that their agents call done a board rests."""

import pytest

from benchfarm_core.failures import FailureCode
from benchfarm_core.leases import BOARD_AT_FAULT, ailment_by, why_rest


@pytest.mark.parametrize("code", sorted(BOARD_AT_FAULT))
def test_a_board_is_ailing_that_could_begin_nothing_by_a_fault_of_its_own(code: FailureCode) -> None:
    assert ailment_by([code, code]) == code
    assert why_rest([code, code], has_launched=False) == "ailing"
    assert why_rest([code, code], has_launched=True) is None, "a workload may have done it"
    assert why_rest([code, "ok"], has_launched=False) is None
    assert why_rest([code, FailureCode.CONVERSION_FAILED], has_launched=False) is None


@pytest.mark.parametrize("outcomes", [[], ["ok"], [FailureCode.UNSUPPORTED_OPERATOR], [FailureCode.BOARD_LOST]])
def test_what_the_workloads_or_nobody_did_is_no_ailment(outcomes: list[str]) -> None:
    assert ailment_by(outcomes) is None
    assert why_rest(outcomes, has_launched=False) is None


def test_most_of_a_lease_is_noisy_before_its_board_rests() -> None:
    assert why_rest([FailureCode.NOISY, FailureCode.NOISY, "ok"], has_launched=True) == "noisy"
    assert why_rest([FailureCode.NOISY, "ok"], has_launched=True) is None
