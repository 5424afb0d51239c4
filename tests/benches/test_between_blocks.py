"""Canaries between the blocks: a time beside its own canaries does not follow the processor's mode, a floor does."""

import pytest

from bench.between_blocks import beside, blocks_of, floors_confirmed, judged
from benchfarm_core.measurements import LaunchSamples
from tests.core.test_quality import launch

CLOCK_NS = 76_500
WORK_NS = 1_000_000


def a_launch(number: int, modes: list[float]) -> LaunchSamples:
    """One block for each mode, so many times as long as in the fast one, and three canary runs on both sides of it."""
    one = launch(number, [round(WORK_NS * mode) for mode in modes])
    ends = [*modes, modes[-1]]
    points = tuple((place, round(CLOCK_NS * mode)) for place, mode in enumerate(ends) for _ in range(3))
    return one.model_copy(update={"canaries": {"sgemm": points}})


FAST = [a_launch(number, [1.0] * 12) for number in range(3)]
SLOW = [a_launch(number, [1.08] * 12) for number in range(3)]
CROWDED = [a_launch(number, [1.3] * 12) for number in range(3)]


def test_a_block_has_the_canaries_on_both_of_its_sides() -> None:
    blocks = list(blocks_of(a_launch(0, [1.0, 1.1, 1.2])))
    found = [(one.ns, one.before_ns, one.behind_ns) for one in blocks]
    iterations = launch(0, [1]).iterations
    assert found == [
        (WORK_NS / iterations, CLOCK_NS, 84_150),
        (1.1 * WORK_NS / iterations, 84_150, 91_800),
        (1.2 * WORK_NS / iterations, 91_800, 91_800),
    ]


def test_floors_follow_the_mode_and_quotients_do_not() -> None:
    floors = [floors_confirmed(found, CLOCK_NS) for found in (FAST, SLOW)]
    quotients = [beside(0.25, 0.12)(found, CLOCK_NS) for found in (FAST, SLOW)]
    assert None not in (*floors, *quotients)
    assert floors[1] == pytest.approx(1.08 * (floors[0] or 0))
    assert quotients[1] == pytest.approx(quotients[0])
    assert beside(0.25, 0.12, divided=False)(SLOW, CLOCK_NS) == pytest.approx(floors[1])


def test_beside_slower_canaries_there_is_no_answer() -> None:
    assert beside(0.25, 0.12)(CROWDED, CLOCK_NS) is None
    assert beside(0.25, 0.5)(CROWDED, CLOCK_NS) is not None


def test_the_table_tells_each_rule_and_what_it_cannot_tell() -> None:
    fast = dict.fromkeys(range(5), FAST)
    rows = {row["rule"]: row for row in judged({"mnn": {"0": fast, "1": {**fast, 4: CROWDED}}})}
    assert rows["two lowest floors of launches"]["mnn"] == "0.00% / 13.8%"
    assert str(rows["the farm's: quiet blocks"]["mnn"]).endswith(", 4 of 5")
    assert str(rows["within 15 %; a quarter"]["mnn"]).endswith(", 4 of 5")
