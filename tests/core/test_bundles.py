"""What of a bundle shares launches."""

import pytest

from benchfarm_core.bundles import ITEMS_PER_PART, launched_together

A, B, C = ("w_a", "w_b", "w_c")
MANY = [f"w_{number}" for number in range(ITEMS_PER_PART + 5)]


@pytest.mark.parametrize(
    ("workloads", "groups"),
    [
        ([], []),
        ([A], [[0]]),
        ([A, B, C], [[0, 1, 2]]),
        ([A, A, A], [[0], [1], [2]]),
        ([A, B, A, B, A], [[0, 1], [2, 3], [4]]),
        ([A, B, C, C, A], [[0, 1, 2], [3, 4]]),
    ],
)
def test_repeats_share_no_launches(workloads: list[str], groups: list[list[int]]) -> None:
    assert launched_together(workloads) == groups


def test_a_part_is_no_larger_than_results_may_be() -> None:
    groups = launched_together(MANY + MANY)
    assert [len(group) for group in groups] == [20, 20, 10]
    assert sorted(place for group in groups for place in group) == list(range(2 * len(MANY)))
