"""When predictors are made anew."""

from math import log

import pytest

from benchfarm_core.refreshing import (
    DRIFT,
    LOOK_ROWS,
    NEW_ROWS_MIN,
    RefreshReason,
    Since,
    drift,
    is_drifted,
    may_have_drifted,
    why_due,
)


@pytest.mark.parametrize(
    ("since", "why", "is_looked_at"),
    [
        (Since(100, LOOK_ROWS - 1, True), None, False),
        (Since(100, LOOK_ROWS, True), RefreshReason.GENERATION, True),
        (Since(100, LOOK_ROWS, False), None, True),
        (Since(10, NEW_ROWS_MIN - 1, False), None, True),
        (Since(10, NEW_ROWS_MIN, False), RefreshReason.ROWS, True),
        (Since(1000, NEW_ROWS_MIN, False), None, True),
        (Since(1000, 200, False), RefreshReason.ROWS, True),
    ],
)
def test_it_takes_enough_rows_or_another_generation(
    since: Since, why: RefreshReason | None, is_looked_at: bool
) -> None:
    assert (why_due(since), may_have_drifted(since)) == (why, is_looked_at)


def test_drift_is_what_most_new_rows_say_and_few_say_nothing() -> None:
    slower = [log(1 + 2 * DRIFT)] * LOOK_ROWS
    assert drift(slower) == pytest.approx(2 * DRIFT)
    assert is_drifted(slower)
    assert is_drifted([-one for one in slower])
    assert drift(slower[1:]) is None
    assert not is_drifted(slower[1:])
    assert not is_drifted([*slower, *[0.0] * (LOOK_ROWS + 1)]), "half of them are where they were"
