"""What a board does next, and how much of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.scheduling import BATCH_LIMIT_S, Candidate, Group, choose_group, decay, fill_batch, is_full

HERE, THERE = 1, 2
RANKS = {"low": 0, "normal": 1, "high": 2}


def group(platform_id: int, *, priority: str = "normal", waited_s: float = 10, used_s: float = 0) -> Group:
    return Group(platform_id, platform_id, RANKS[priority], waited_s, used_s)


def test_class_then_fair_share_then_age() -> None:
    assert choose_group([group(1), group(2, priority="high")]) == group(2, priority="high")
    assert choose_group([group(1, used_s=5), group(2, used_s=1)]) == group(2, used_s=1)
    assert choose_group([group(1), group(2, waited_s=60)]) == group(2, waited_s=60)
    assert choose_group([]) is None


def test_waiting_raises_the_class() -> None:
    patient = group(1, priority="low", waited_s=31 * 60)
    assert choose_group([patient, group(2, priority="normal")]) == patient


def test_a_board_stays_a_minute_on_its_platform_then_leaves_if_another_waits() -> None:
    groups = [group(HERE, waited_s=1, used_s=9), group(THERE, waited_s=50)]
    assert choose_group(groups, current_platform_id=HERE, stayed_s=59) == groups[0]
    assert choose_group(groups, current_platform_id=HERE, stayed_s=61) == groups[1]
    assert choose_group(groups[:1], current_platform_id=HERE, stayed_s=3600) == groups[0]


def test_a_higher_class_does_not_wait_for_the_minute() -> None:
    groups = [group(HERE), group(THERE, priority="high")]
    assert choose_group(groups, current_platform_id=HERE, stayed_s=0) == groups[1]


@given(st.lists(st.floats(0.01, 60), max_size=60))
def test_batches_are_bounded_and_never_empty_while_something_waits(lengths: list[float]) -> None:
    candidates = [Candidate(measurement_id=n, expected_s=s, alone=False) for n, s in enumerate(lengths)]
    batch = fill_batch(candidates)
    assert bool(batch) == bool(candidates)
    total = sum(lengths[n] for n in batch)
    assert total <= BATCH_LIMIT_S or len(batch) == 1
    assert batch == sorted(batch)


def test_what_took_two_boards_down_runs_alone() -> None:
    def one(number: int, alone: bool) -> Candidate:
        return Candidate(measurement_id=number, expected_s=0.1, alone=alone)

    assert fill_batch([one(1, True), one(2, False)]) == [1]
    assert fill_batch([one(1, False), one(2, True), one(3, False)]) == [1, 3]


def test_uploads_and_generated_workloads_share_no_batch() -> None:
    kinds = {1: True, 2: False, 3: True, 4: False}
    waiting = [
        Candidate(measurement_id=number, expected_s=0.1, alone=False, uploaded=uploaded)
        for number, uploaded in kinds.items()
    ]
    assert fill_batch(waiting) == [1, 3]
    assert fill_batch(waiting[1:]) == [2, 4]


def test_repeats_share_no_batch() -> None:
    """Of one workload timed alone thrice and in situ once, and of another one twice."""
    of = [(7, "alone"), (7, "alone"), (7, "in_situ"), (8, "alone"), (7, "alone"), (8, "alone")]
    waiting = [Candidate(number, 0.1, alone=False, repeats=one) for number, one in enumerate(of)]
    batches = []
    while waiting:
        batches.append(fill_batch(waiting))
        assert not is_full(waiting, batches[-1]), "others of the queue may join them"
        waiting = [one for one in waiting if one.measurement_id not in batches[-1]]
    assert batches == [[0, 2, 3], [1, 5], [4]]


def test_a_batch_that_left_more_than_repeats_is_full() -> None:
    waiting = [Candidate(number, 9.0, alone=False, repeats=(number // 2, "alone")) for number in range(8)]
    batch = fill_batch(waiting)
    assert batch == [0, 2]
    assert is_full(waiting, batch)
    assert not is_full([], [])


def test_use_is_forgotten_by_half_an_hour() -> None:
    assert decay(8.0, 3600) == pytest.approx(4.0)
    assert decay(8.0, 0) == 8.0
