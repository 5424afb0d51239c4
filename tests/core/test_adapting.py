"""The rules of adaptations: what stops them, what they ask for, what may answer."""

from datetime import UTC, datetime
from typing import Any

import pytest

from benchfarm_core.adapting import (
    FRUITLESS_ROUNDS,
    LEAST_ROUND_S,
    MAX_GIVEN,
    MAX_HOLDOUTS_IN_ALL,
    MAX_ROUNDS,
    PACE_MAX,
    PACE_MIN,
    PACE_UNKNOWN,
    PAST_MIN,
    PROBE_SHARE,
    ROUND_SHARES,
    AdaptationMeasured,
    AdaptationRequest,
    AdaptationState,
    AdaptationView,
    AdaptedPredictor,
    DonorChoice,
    PastLease,
    Running,
    Standing,
    Target,
    beyond_limit,
    broken_off,
    is_fruitless,
    is_reached,
    limit_s,
    may_be_donor,
    mix_of,
    outcome,
    pace,
    pace_before,
    parse_target,
    round_s,
    why_stop,
)
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.predictors import HoldoutScore
from benchfarm_core.profilers import InSituBy
from benchfarm_core.publishing import HOPELESS, UNJUDGED
from benchfarm_core.workloads import ArchitectureRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def score(within_10: float = 0.9, count: int = 40, mape: float = 0.05, within_5: float = 0.5) -> HoldoutScore:
    return HoldoutScore(count=count, within_5=within_5, within_10=within_10, mape=mape, coverage=0.9)


def standing(*scores: HoldoutScore | None, **changes: object) -> Standing:
    plain = Standing(Target(), 100.0, 20.0, len(scores), scores, scores[-1:], True)
    return plain._replace(**changes)  # type: ignore[arg-type]  # each test names fields of its own


@pytest.mark.parametrize(
    ("text", "share", "percent"), [("0.95@10%", 0.95, 10), ("0.9@5", 0.9, 5), (".5@10%", 0.5, 10), ("1@5%", 1.0, 5)]
)
def test_a_target_is_read(text: str, share: float, percent: int) -> None:
    found = parse_target(text)
    assert (found.share, found.percent) == (share, percent)
    assert parse_target(found.text) == found


@pytest.mark.parametrize(
    "text", ["", "95@10%", "0.95", "0.95@7%", "0@10%", "0.95@10%@5%", "-0.5@10%", "1.1@5%", "nan@5%"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="SHARE@5%") as caught:
        parse_target(text)
    assert caught.value.field == "target"


def test_a_target_is_reached_only_by_rows_that_could_tell_it_from_a_miss() -> None:
    assert not is_reached(Target(share=0.95), [score(1.0, count=19)])
    assert is_reached(Target(share=0.95), [score(1.0, count=20)])
    assert not is_reached(Target(share=0.95), [score(0.94, count=500)])
    assert is_reached(Target(share=1.0), [score(1.0, count=60)]), "no number of rows proves everything"
    assert not is_reached(Target(share=0.9, percent=5), [score(1.0, within_5=0.8)])


def test_a_target_is_reached_in_every_search_space_or_not_at_all() -> None:
    good = score(1.0, count=500)
    assert is_reached(Target(), [good, good])
    for other in (None, score(1.0, count=19), score(0.7, count=100)):
        assert not is_reached(Target(), [good, other])
    assert not is_reached(Target(), []), "nothing tells nothing"
    assert why_stop(standing(good, of_spaces=[good, None])) is None
    found = why_stop(standing(good, of_spaces=[good, None], spent_s=100.0))
    assert found is not None
    assert found.reason.endswith("100 % expected, 0.95@10% was asked for in each search space")


def test_a_target_that_is_reached_stops_whatever_is_left() -> None:
    found = why_stop(standing(score(1.0)))
    assert found is not None
    assert (found.reached, "0.95@10%" in found.reason) == (True, True)


def test_budget_rounds_and_want_of_anything_new_stop_and_say_what_was_missed() -> None:
    worse = score(0.8)
    assert why_stop(standing(worse)) is None
    for changes, told in (
        ({"spent_s": 100 - LEAST_ROUND_S / 2}, "budget is spent"),
        ({"is_more": False}, "nothing left"),
        ({"round": MAX_ROUNDS}, f"after {MAX_ROUNDS} rounds"),
    ):
        found = why_stop(standing(worse, **changes))
        assert found is not None
        assert told in found.reason
        assert "80 % expected, 0.95@10% was asked for" in found.reason
        assert not found.reached


def test_where_nothing_ever_succeeds_no_round_follows() -> None:
    found = why_stop(standing(None, is_hopeless=True))
    assert found is not None
    assert "not one measurement succeeded" in found.reason


def test_without_any_score_rounds_go_on_until_the_budget_is_spent() -> None:
    assert why_stop(standing(None, None, None)) is None
    found = why_stop(standing(None, spent_s=100.0))
    assert found is not None
    assert "expected" not in found.reason


def test_rounds_without_gain_stop() -> None:
    steps = [score(mape=mape) for mape in (0.2, 0.1, 0.099, 0.098)]
    assert not is_fruitless(steps[:FRUITLESS_ROUNDS])
    assert not is_fruitless(steps[:3]), "a tenth against a fifth is a gain"
    assert is_fruitless(steps)
    assert not is_fruitless([*steps, score(mape=0.05)])
    found = why_stop(standing(*steps))
    assert found is not None
    assert "no gain" in found.reason


def test_rounds_share_the_budget_and_never_take_more_than_is_left() -> None:
    assert sum(ROUND_SHARES) == pytest.approx(1)
    assert [round_s(100, 0, number) for number in (1, 2, 5, 9)] == pytest.approx([10, 15, 30, 30])
    assert round_s(100, 95, 5) == 5
    assert round_s(100, 120, 5) == 0


def test_what_was_given_is_measured_once_however_good_the_predictor_is() -> None:
    given = {"is_given": True, "round": 0}
    assert why_stop(standing(score(1.0), **given)) is None
    for changes in ({"is_more": False}, {"round": 1}, {"is_given": False}):
        found = why_stop(standing(score(1.0), **{**given, **changes}))
        assert found is not None
        assert found.reached


def test_what_was_given_may_take_all_that_is_left_at_once() -> None:
    assert [round_s(100, 20, number, is_given=True) for number in (1, 2)] == [80, 80]
    assert limit_s(100, 1, 20, is_given=True) == 100
    assert limit_s(100, 1, 20) < 100


@pytest.mark.parametrize(("count", "judging"), [(1, 0), (2, 1), (9, 4), (16, 8), (17, 6), (32, 8), (MAX_GIVEN, 8)])
def test_every_second_one_of_what_is_given_judges_up_to_a_number_and_from_all_of_it(count: int, judging: int) -> None:
    given = (ArchitectureRequest(space="a", genes={"hw": 1}),) * count
    request = AdaptationRequest(spaces=("a",), architectures=given, holdouts=8)
    places = range(count)[request.judging]
    assert request.judged_by == len(places) == judging
    assert 0 not in places, "the best one teaches"
    assert not places or count - places[-1] <= places.step + 1


def test_no_more_is_given_than_a_round_may_hold() -> None:
    given = (ArchitectureRequest(space="a", genes={"hw": 1}),) * (MAX_GIVEN + 1)
    with pytest.raises(ValueError, match=str(MAX_GIVEN)):
        AdaptationRequest(spaces=("a",), architectures=given)


def test_the_pace_is_what_boards_really_took_within_bounds() -> None:
    assert pace(0, 0, 7.0) == pace(5, 0, 7.0) == 7
    assert pace(3, 2, 7.0) == 1.5
    assert pace(1000, 1, 7.0) == PACE_MAX
    assert pace(0.01, 10, 7.0) == PACE_MIN


def test_before_anything_ran_the_pace_is_that_of_the_nearest_leases_that_are_enough() -> None:
    own, kin, others = ([PastLease(near, took_s, 2.0)] * PAST_MIN for near, took_s in ((0, 6.0), (1, 10.0), (3, 40.0)))
    assert pace_before([]) == PACE_UNKNOWN
    assert pace_before([*own, *kin, *others]) == 3
    assert pace_before([*kin, *others]) == 5
    assert pace_before(own[1:]) == PACE_UNKNOWN, "too few"
    assert pace_before([*own[:1], *others]) == pytest.approx((6 + 120) / 8)


def test_each_round_ends_at_its_share_of_the_budget() -> None:
    assert limit_s(100, 0, 0) == PROBE_SHARE * 100
    assert limit_s(100, 1, 40) == 50
    assert [limit_s(100, 5, 95), limit_s(100, 5, 120)] == [100, 120]


def running(**changes: Any) -> Running:
    return Running(limit_s=10, spent_s=4, due_s=2, pace=2, has_begun=True)._replace(**changes)


def test_what_waits_is_given_up_from_where_it_does_not_fit_any_more() -> None:
    waiting = [(7, 1.0), (5, 1.0), (6, 0.5), (9, 0.1)]
    assert beyond_limit(waiting, running()) == [6, 9]
    assert beyond_limit(waiting, running(spent_s=3)) == [9]
    assert beyond_limit(waiting, running(spent_s=0, due_s=0)) == []
    assert beyond_limit(waiting, running(spent_s=83)) == [7, 5, 6, 9]
    assert beyond_limit([], running(spent_s=83)) == []


def test_the_first_measurement_of_a_round_stays_whatever_it_takes() -> None:
    assert beyond_limit([(1, 1000.0), (2, 0.1)], running(has_begun=False)) == [2]


def test_what_was_wanted_by_the_same_seconds_still_fits_when_it_is_looked_at() -> None:
    each_s = 0.1 * (1 + 1e-6)  # as the store's short numbers have it
    assert beyond_limit([(number, each_s) for number in range(60)], running(spent_s=0, due_s=0, pace=10 / 6)) == []


def test_hold_outs_of_all_spaces_together_are_bounded() -> None:
    each = MAX_HOLDOUTS_IN_ALL // 4
    assert AdaptationRequest(spaces=("a", "b", "c", "d"), holdouts=each).judged_by == MAX_HOLDOUTS_IN_ALL
    assert AdaptationRequest(spaces=("a",), unseen_spaces=("b", "c", "d"), holdouts=each).judged_by == 4 * each
    assert AdaptationRequest(holdouts=200).judged_by == 200
    with pytest.raises(ValueError, match="in all") as caught:
        AdaptationRequest(spaces=("a", "b", "c", "d"), holdouts=each + 1)
    with pytest.raises(ValueError, match="in all"):
        AdaptationRequest(spaces=("a", "b"), unseen_spaces=("c", "d"), holdouts=each + 1)
    assert "holdouts" in str(caught.value)


@pytest.mark.parametrize("has_spaces", [True, False])
@pytest.mark.parametrize("way", ["profiler", "difference", None])
@pytest.mark.parametrize("round_no", [1, 2, 7])
def test_every_mix_uses_the_whole_round_and_asks_for_nothing_that_cannot_be_had(
    has_spaces: bool, way: InSituBy | None, round_no: int
) -> None:
    mix = mix_of(round_no=round_no, has_spaces=has_spaces, in_situ_by=way, whole_models=12)
    assert sum(mix) == pytest.approx(1)
    assert way or mix.in_situ == 0
    assert (mix.in_situ > 0) == (way is not None if not has_spaces else way == "profiler" and round_no == 1)
    assert (mix.architectures > 0) == has_spaces


def test_donors_are_not_oneself_and_kin_only_where_wanted() -> None:
    own, twin, other_engine, other_model = (
        parse_platform_key(f"{model}/c0.t{threads}.free/{engine}-1/fp32".replace("c0.t2", "c0-1.t2"))
        for model, threads, engine in (("m1", 1, "ort"), ("m1", 2, "ort"), ("m1", 1, "ncnn"), ("m2", 1, "ort"))
    )
    found = {
        choice: [may_be_donor(one, own, choice) for one in (own, twin, other_engine, other_model)]
        for choice in DonorChoice
    }
    assert found[DonorChoice.ANY] == [False, True, True, True]
    assert found[DonorChoice.OTHER_FAMILIES] == [False, False, True, True]
    assert not any(found[DonorChoice.NONE])


def test_what_is_worse_than_no_answer_is_told_so() -> None:
    rejected = predictor(is_active=False, detail=f"{HOPELESS}: 133644 % mean error")
    state, reason = outcome(view(rejected))
    assert state == AdaptationState.FAILED, "nothing answers"
    assert reason.startswith("nothing was published; model is worse than no answer: 133644 % mean error; the budget")
    assert "stays" not in reason
    state, reason = outcome(view(rejected, predictor("fc")))
    assert (state, "nothing was published" in reason) == (AdaptationState.SUCCEEDED, False)
    assert reason.endswith("model is worse than no answer: 133644 % mean error")


def test_one_that_learnt_next_to_nothing_has_failed() -> None:
    rejected = predictor(is_active=False, holdout=None, detail=f"{UNJUDGED}: no hold-out of it could be measured")
    state, reason = outcome(view(rejected))
    assert state == AdaptationState.FAILED
    assert reason == (
        "nothing was published; model is judged by too little: no hold-out of it could be measured; the budget is spent"
    )


def predictor(subject: str = "model", **changes: object) -> AdaptedPredictor:
    fields = {"predictor_id": "pr_1", "version": 1, "is_active": True, "detail": "", "holdout": score(0.9, count=20)}
    return AdaptedPredictor.model_validate({"subject": subject, "unseen": None, "before": None, **fields, **changes})


def view(*predictors: AdaptedPredictor) -> AdaptationView:
    return AdaptationView(
        id="a", platform_id="p", platform="k", state=AdaptationState.JUDGING, reason="the budget is spent",
        request=AdaptationRequest(), author="ann", round=3, board_s=1, holdout_board_s=1,
        measured=AdaptationMeasured(wanted=9, done=5, failed=4, known=0, holdouts=20, holdouts_done=20),
        expected=None, donors=[], curve=[], predictors=list(predictors), created_at=NOW, changed_at=NOW,
        finished_at=None,
    )  # fmt: skip


def test_the_end_says_why_it_stopped_how_good_it_is_and_what_was_kept() -> None:
    found = outcome(view(predictor(), predictor("fc", is_active=False)))
    assert found == (
        AdaptationState.SUCCEEDED,
        "the budget is spent; 90 % of 20 hold-outs are within 10 %; what answered before stays for fc",
    )


@pytest.mark.parametrize(("within_10", "told"), [(0.95, ""), (0.7, "not by the hold-outs: ")])
def test_a_target_that_hold_outs_deny_is_not_told_as_reached(within_10: float, told: str) -> None:
    reached = view(predictor(holdout=score(within_10, count=20))).model_copy(
        update={"reason": "the target 0.95@10% is reached by cross-validation"}
    )
    _, reason = outcome(reached)
    assert reason == f"{reached.reason}; {told}{within_10 * 100:.0f} % of 20 hold-outs are within 10 %"


def test_where_what_answered_stays_for_all_it_says_why() -> None:
    worse: dict[str, Any] = {"is_active": False, "detail": "what answers is no worse: 8.00 % against 2.00 % mean error"}
    state, reason = outcome(view(predictor(**worse), predictor("fc", is_active=False, detail="no hold-out")))
    assert state == AdaptationState.SUCCEEDED
    assert reason == (
        "nothing was published; what answered before stays for model, fc; model: what answers is no worse: 8.00 %"
        " against 2.00 % mean error; the budget is spent; 90 % of 20 hold-outs are within 10 %"
    )


def test_what_was_published_before_the_end_is_named() -> None:
    assert broken_off("cancelled by ann", [predictor(is_active=False)]) == "cancelled by ann"
    found = [predictor(), predictor("fc", is_active=False), predictor("gelu")]
    assert broken_off("cancelled by ann", found) == "cancelled by ann; published before that: model, gelu"
    many = broken_off("x" * 900, [predictor(f"kernel-{number:030}") for number in range(20)])
    assert many.endswith(" and 16 more")
    assert len(many) <= 500


def test_without_a_predictor_it_failed() -> None:
    state, reason = outcome(view(predictor(predictor_id=None, version=None, is_active=False)))
    assert state == AdaptationState.FAILED
    assert reason == "5 measurements succeeded and 4 failed"
    _, reason = outcome(view(predictor(predictor_id=None, version=None, is_active=False, detail="all take 3 ms")))
    assert reason == "5 measurements succeeded and 4 failed: all take 3 ms"


@pytest.mark.parametrize(
    "wrong",
    [{"budget_s": 0}, {"budget_s": 1e9}, {"holdouts": 1}, {"spaces": ["x"] * 11}, {"target": {"share": 0}},
     {"target": {"share": 0.9, "percent": 7}}, {"seed": "a b"}, {"donors": "mine"}, {"stranger": 1}],
)  # fmt: skip
def test_requests_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        AdaptationRequest.model_validate(wrong)
