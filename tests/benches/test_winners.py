"""The bench of winners: searches at a small size on the real API, with a board that the test plays; what is told."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from bench import winners
from bench.winners import Given, Known, Minutes, Winner
from benchfarm import InvalidRequest
from benchfarm_core.adapting import AdaptationView
from benchfarm_core.summaries import Grade
from benchfarm_predictor.combined import Scaled
from examples.nas_ofa import Genome, Options
from tests.client.conftest import farm, module_database_url, served_farm
from tests.client.test_adaptations import advance
from tests.client.test_nas_example import made, searched
from tests.client.test_predictions import publish
from tests.client.test_taught_searches import player
from tests.predictor.predictors import PLATFORM

__all__ = ["farm", "made", "module_database_url", "searched", "served_farm"]

SMALL = Options(population=20, generations=4)
GIVEN = Given(60, 4, 8, SMALL)
UNKNOWN = Known(None)
GENOME = Genome(224, (2,) * 5, (3,) * 20, (3,) * 20)


def of(count: int, met: int, platforms: int = 3) -> list[Winner]:
    """Measured winners, of whom so many meet their limit."""
    keys = [f"board/{number % platforms}" for number in range(count)]
    return [
        Winner(key, GENOME, 10.0, 0.95, 9.0, 9.5 if number < met else 10.5, Grade.A) for number, key in enumerate(keys)
    ]


def found_of(sdk: Any, count: int, limits: int, known: Known = UNKNOWN) -> list[Winner]:
    some, _ = winners.limits_ms(sdk, PLATFORM, limits)
    return winners.searched(sdk, PLATFORM, count, some, known, GIVEN, Minutes(5))


def test_winners_are_searched_measured_and_told(searched: Any) -> None:
    with searched.client() as sdk:
        found = found_of(sdk, 4, 2)
        assert 1 <= len(found) <= 4
        assert all(one.probability >= 0.9 and one.predicted_ms < one.limit_ms for one in found)
        assert len({str(one.genome.architecture.genes) for one in found}) == len(found)
        done = winners.measured(sdk, found, searched.measure)
    assert all(one.measured_ms is not None and one.grade is not None for one in done)
    own, other, every = winners.rows_of(done, {"board/x": "not adapted: no rows"})
    assert own["measured"] == len(done) == every["measured"]
    assert other == {"platform": "x", "not measured": "not adapted: no rows"}
    assert every["met"] is False  # they are too few


def test_who_was_measured_is_no_winner_though_a_pinned_search_predicts_him(searched: Any) -> None:
    with searched.client() as sdk:
        (limit_ms,), pin = winners.limits_ms(sdk, PLATFORM, 1)
        (best,) = winners.winners_of(sdk, PLATFORM, limit_ms, 1, Known(pin), SMALL)
        measured = Known(pin, measured=frozenset([winners.genes_of(best.genome)]))
        (other,) = winners.winners_of(sdk, PLATFORM, limit_ms, 1, measured, SMALL)
    assert winners.genes_of(other.genome) != winners.genes_of(best.genome)


def test_a_platform_whose_first_winners_were_lost_has_no_verdict(searched: Any) -> None:
    with searched.client() as sdk:
        first = found_of(sdk, 4, 2)
        with pytest.raises(InvalidRequest, match="rounds of winners"):
            winners.checked(sdk, first, winners.limits_ms(sdk, PLATFORM, 2)[1], lambda _: None)


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
        assert winners.searched(sdk, PLATFORM, 4, [1e6, 2e6], UNKNOWN, GIVEN, Minutes(0)) == []
    assert "no time for a search" in capsys.readouterr().err


def test_what_does_not_come_in_time_is_told_and_no_winner_s_fault(searched: Any) -> None:
    def too_long(_job_id: str) -> None:
        raise TimeoutError

    with searched.client() as sdk:
        found = found_of(sdk, 1, 1)
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


def test_an_adaptation_of_which_nothing_changes_is_given_up_and_any_other_is_waited_for(
    searched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winners, "STILL_S", 0.01)
    with searched.client() as sdk:
        assert "not adapted: " in winners.adapted(sdk, PLATFORM, 60)
        (left,) = sdk.adaptations.list()
        assert left.state == "cancelled"
        goes_on = sdk.adaptations.start(PLATFORM, left.request)
        states = iter(("probing", "training"))

        def wait(adaptation_id: str, **_: object) -> AdaptationView:
            if (state := next(states, None)) is None:
                ended: AdaptationView = sdk.adaptations.cancel(adaptation_id)
                return ended
            advance(searched, adaptation_id, state)
            raise TimeoutError

        monkeypatch.setattr(sdk.adaptations, "wait", wait)
        assert winners.followed(sdk, goes_on.id).state == "cancelled"
        assert next(states, None) is None


def test_while_adaptations_go_on_the_minutes_stand_still() -> None:
    now_s = [100.0]
    minutes = Minutes(1, lambda: now_s[0])
    with minutes.standing_still():
        now_s[0] += 3600
    assert minutes.left_s == 60
    now_s[0] += 20
    assert minutes.left_s == 40


@pytest.mark.slow
def test_the_bench_goes_the_way_of_a_user(searched: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that teach, first searches, their winners measured in rounds, searches that know them: a board that takes
    a tenth longer than is predicted is found out before anybody is said to meet a limit there."""
    publish(searched, replace(made, model=Scaled(made.model, 1 / 1.1)))
    with searched.client() as sdk:
        monkeypatch.setattr(sdk, "wait", lambda job_id, **_: searched.measure(job_id))
        play = player(searched)
        monkeypatch.setattr(sdk.adaptations, "wait", lambda adaptation_id, **_: play(adaptation_id))
        done = winners.measured_on(sdk, PLATFORM, 6, Minutes(5), GIVEN)
    assert len(done.first) > len({one.limit_ms for one in done.first}) >= 4
    assert all(one.measured_ms is not None for one in [*done.first, *done.winners, *done.drawn])
    assert 1 <= len(done.drawn) <= len(done.winners)  # some may be measured by another test
    off = fmean(one.measured_ms / one.predicted_ms for one in done.winners if one.measured_ms is not None)
    assert abs(off - 1) < 0.05, "the predictor has learnt what the board takes"
    known = {str(one.genome.architecture.genes) for one in done.first}
    assert not known & {str(one.genome.architecture.genes) for one in done.winners}, "what was measured is no winner"
    rows = winners.rows_of(done.winners, {}, done.drawn, done.first)
    assert [row["platform"] for row in rows if "met" in row] == ["all"]
    assert [row["platform"] for row in rows][-1] == "all, of first searches"
