"""Of how many canaries the fastest is trusted to be a board's clock for good."""

import pytest

from benchfarm_core.quality import FASTEST_RUNS, tells_fastest
from tests.core.test_quality import launch


@pytest.mark.parametrize(
    ("runs", "tells"), [((FASTEST_RUNS - 1,), False), ((FASTEST_RUNS - 200, 200), True), ((), False)]
)
def test_a_few_canaries_do_not_tell_the_fastest_mode(runs: tuple[int, ...], tells: bool) -> None:
    canaries = [{"sgemm": ((0, 5),) * count, "mobilenet": ((0, 9),) * 900} for count in runs]
    launches = [launch(n, [1]).model_copy(update={"canaries": one}) for n, one in enumerate(canaries)]
    assert tells_fastest(launches) is tells
