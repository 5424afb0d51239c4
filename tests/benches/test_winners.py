"""The bench of winners: searches at a small size on the real API, with a board that the test plays; what is told."""

from dataclasses import replace
from typing import Any

import pytest

from bench import winners
from bench.winners import Minutes, Winner
from benchfarm_core.summaries import Grade
from examples.nas_ofa import Genome, Options
from tests.client.conftest import farm, module_database_url, served_farm
from tests.client.test_nas_example import made, searched
from tests.predictor.predictors import PLATFORM

__all__ = ["farm", "made", "module_database_url", "searched", "served_farm"]

SMALL = Options(population=20, generations=4)
GENOME = Genome(224, (2,) * 5, (3,) * 20, (3,) * 20)


def of(count: int, met: int, platforms: int = 3) -> list[Winner]:
    """Measured winners, of whom so many meet their limit."""
    keys = [f"board/{number % platforms}" for number in range(count)]
    return [
        Winner(key, GENOME, 10.0, 0.95, 9.0, 9.5 if number < met else 10.5, Grade.A) for number, key in enumerate(keys)
    ]


def test_winners_are_searched_measured_and_told(searched: Any) -> None:
    with searched.client() as sdk:
        found = winners.searched(sdk, PLATFORM, 4, 2, SMALL, Minutes(5))
        assert 1 <= len(found) <= 4
        assert all(one.probability >= 0.9 and one.predicted_ms < one.limit_ms for one in found)
        assert len({str(one.genome.architecture.genes) for one in found}) == len(found)
        done = winners.measured(sdk, found, searched.measure)
    assert all(one.measured_ms is not None and one.grade is not None for one in done)
    own, other, every = winners.rows_of(done, {"board/x": "not adapted: no rows"})
    assert own["measured"] == len(done) == every["measured"]
    assert other == {"platform": "x", "not measured": "not adapted: no rows"}
    assert every["met"] is False  # they are too few


def test_as_many_are_drawn_at_random_and_held_to_the_upper_end_of_their_intervals(searched: Any) -> None:
    with searched.client() as sdk:
        found = winners.drawn(sdk, PLATFORM, 3)
        assert len(found) == 3
        assert all(one.predicted_ms < one.limit_ms and one.probability == 0.95 for one in found)
        done = winners.measured(sdk, found, searched.measure)
    own, every, own_drawn, all_drawn = winners.rows_of(of(2, 2, 1), {}, done)
    assert (own["platform"], every["platform"]) == ("0", "all")
    assert own_drawn["platform"] == f"{PLATFORM.partition('/')[2]}, drawn at random"
    assert own_drawn["measured"] == all_drawn["measured"] == 3
    assert "met" not in all_drawn


def test_without_time_nothing_is_searched(searched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with searched.client() as sdk:
        assert winners.searched(sdk, PLATFORM, 4, 2, SMALL, Minutes(0)) == []
    assert "no time for a search" in capsys.readouterr().err


def test_what_does_not_come_in_time_is_told_and_no_winner_s_fault(searched: Any) -> None:
    def too_long(_job_id: str) -> None:
        raise TimeoutError

    with searched.client() as sdk:
        found = winners.searched(sdk, PLATFORM, 1, 1, SMALL, Minutes(5))
        (late,) = winners.measured(sdk, found, too_long)
    assert late.measured_ms is None
    assert late.failure
    assert winners.all_row([late])["met"] is False


@pytest.mark.parametrize(
    ("found", "is_met"),
    [(of(60, 60), True), (of(60, 52), True), (of(60, 51), False), (of(59, 59), False), (of(60, 60, 2), False)],
)
def test_the_goal_is_nine_tenths_less_one_standard_error(found: list[Winner], is_met: bool) -> None:
    assert winners.all_row(found)["met"] is is_met


def lost(count: int) -> list[Winner]:
    """Winners whose measurement failed."""
    return [replace(one, measured_ms=None, grade=None, failure="inconclusive") for one in of(count, 0)]


@pytest.mark.parametrize(
    ("met", "gone", "is_met"),
    [(60, 0, True), (60, 5, True), (60, 9, True), (60, 10, False), (54, 0, True), (54, 3, False)],
)
def test_the_goal_holds_with_the_lost_as_missing_too(met: int, gone: int, is_met: bool) -> None:
    """A lost winner neither meets nor misses: who loses those that miss reaches no goal by it."""
    found = [*of(60, met), *lost(gone)]
    every = winners.all_row(found)
    assert every["met"] is is_met
    assert (every["measured"], every["lost"], every["meet"]) == (60, gone, met)
    assert str(every["share (95 % interval)"]).startswith(f"{100 * met / 60:.1f} %")
    assert str(every["share, the lost as missing"]).startswith(f"{100 * met / (60 + gone):.1f} %")


def test_without_winners_there_is_no_share() -> None:
    none, gone = winners.all_row([]), winners.all_row(lost(2))
    assert (none["share (95 % interval)"], none["share, the lost as missing"], none["met"]) == ("", "", False)
    assert (gone["share (95 % interval)"], gone["lost"], gone["met"]) == ("", 2, False)
    assert str(gone["share, the lost as missing"]).startswith("0.0 %")
