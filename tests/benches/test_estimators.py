"""The row of the farm's own rule is what the farm would store."""

import pytest

from bench.estimators import confirmed, farm_rule, floors, visited
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, canary_floors, summarise
from benchfarm_core.summaries import Summary
from tests.core.test_quality import beside_canary, launch

LONG_VISITS = [[round(1_000_000 * floor)] * 12 + [700_000] * 48 for floor in (1.03, 1.0, 1.02, 1.01, 1.04)]
"""What was recorded of five launches: visits of 60 ms, whose later blocks a visit of 10 ms would not have seen."""


@pytest.mark.parametrize("slow", [(), (1,), (1, 3)], ids=["all quiet", "the fastest beside neighbours", "two of them"])
def test_it_is_the_normalised_time_of_the_same_visits(slow: tuple[int, ...]) -> None:
    recorded = [_recorded(number, number in slow) for number in range(len(LONG_VISITS))]
    seen = canary_floors(recorded)
    lease = CanaryGolden(sgemm_ns=seen["sgemm"], mobilenet_ns=seen["mobilenet"])
    stored = summarise(
        [visited(one, PROTOCOLS["kernel"].visit_ms) for one in recorded],
        protocol=PROTOCOLS["kernel"], golden=lease, clock_proof=ClockProof.UNPINNED, beside=lease,
    )  # fmt: skip
    assert isinstance(stored, Summary)
    assert stored.normalised_ms is not None
    assert farm_rule(recorded, recorded) * seen["sgemm"] / 1e6 == pytest.approx(stored.normalised_ms)
    if slow:
        assert farm_rule(recorded, recorded) > confirmed(floors(recorded, 10)) / seen["sgemm"]


def _recorded(number: int, is_slow: bool) -> LaunchSamples:
    one = launch(number, LONG_VISITS[number])
    return beside_canary(one, 600_000) if is_slow else one
