"""A few slow canaries are a board's that changed, unless as few were as slow now and then."""

import pytest

from benchfarm_core.drift import is_of_a_moment, misses_clock, slowest_ns
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden
from tests.core.test_quality import launch

HISTORY = CanaryGolden(sgemm_ns=100_000)
KERNEL = PROTOCOLS["kernel"]
RUNS = 3
"""Of the canary, in one launch."""


def measured(*runs_ns: int) -> list[LaunchSamples]:
    """A measurement with these runs of the canary, three in each launch."""
    shares = [runs_ns[at : at + RUNS] for at in range(0, len(runs_ns), RUNS)]
    made = [launch(number, [1_000_000] * 10) for number in range(len(shares))]
    return [
        one.model_copy(update={"canaries": {"sgemm": tuple((0, ns) for ns in share)}})
        for one, share in zip(made, shares, strict=True)
    ]


def quiet(count: int) -> list[list[LaunchSamples]]:
    """Measurements that met the clock now and then."""
    return [measured(130_000, 140_000, 100_000, 130_000, 150_000, 120_000) for _ in range(count)]


@pytest.mark.parametrize(("loud", "is_moment"), [(0, False), (1, False), (2, False), (3, True), (40, True)])
def test_a_moment_is_what_a_twentieth_of_earlier_measurements_met(loud: int, is_moment: bool) -> None:
    earlier = [*quiet(40 - loud), *[measured(130_000, 160_000, 131_000)] * loud]
    assert is_of_a_moment(measured(130_000, 135_000, 140_000), earlier, HISTORY) is is_moment


def test_slower_than_the_loudest_moment_is_the_board() -> None:
    earlier = [*quiet(10), *[measured(130_000, 160_000, 131_000)] * 30]
    assert not is_of_a_moment(measured(131_000, 135_000, 140_000), earlier, HISTORY)


def test_few_runs_are_held_to_as_few() -> None:
    """What came to the clock in its fourth launch had not in its first three."""
    late = measured(*[130_000] * 9, 100_000, 100_000, 100_000)
    assert is_of_a_moment(measured(*[129_000] * 9), [late], HISTORY)
    assert not is_of_a_moment(measured(*[129_000] * 12), [late], HISTORY)
    in_another_order = list(reversed(late))
    assert is_of_a_moment(measured(*[129_000] * 9), [in_another_order], HISTORY)


@pytest.mark.parametrize("own_ns", [70_000, 100_000, 115_000])
def test_neighbours_make_nothing_faster_and_what_is_near_the_history_moved_for_another_reason(own_ns: int) -> None:
    assert not is_of_a_moment(measured(*[own_ns] * 3), [measured(*[150_000] * 3)] * 20, HISTORY)


def test_where_nothing_is_known_nothing_is_excused() -> None:
    slow = measured(*[130_000] * 3)
    assert not is_of_a_moment(slow, [], HISTORY)
    assert not is_of_a_moment(slow, [[launch(0, [1_000_000] * 10).model_copy(update={"canaries": {}})]], HISTORY)
    assert not is_of_a_moment(slow, [slow], CanaryGolden())
    assert not is_of_a_moment([], [slow], HISTORY)


def test_the_limit_is_that_of_drift() -> None:
    assert slowest_ns(HISTORY, ClockProof.UNPINNED) == 115_000
    assert slowest_ns(HISTORY, ClockProof.VERIFIED) == 103_000
    assert slowest_ns(CanaryGolden(), ClockProof.UNPINNED) is None


def test_launches_go_on_until_one_has_met_the_clock_or_none_is_left() -> None:
    slow = [130_000] * 3
    assert misses_clock(measured(*slow * 3), KERNEL, 115_000)
    assert not misses_clock(measured(*slow * 3, 115_000), KERNEL, 115_000)
    assert not misses_clock(measured(*slow * KERNEL.launches_max), KERNEL, 115_000)
    assert not misses_clock(measured(*slow), KERNEL, None)
    assert not misses_clock([], KERNEL, 115_000)
