"""What takes the place of what answers: what is shown to be better, however few rows judge."""

import random
from statistics import fmean
from typing import Any

import pytest

from benchfarm_core.predictors import HoldoutScore
from benchfarm_core.publishing import HOPELESS, ROWS_MIN, UNJUDGED, Compared, First, is_better, is_shown, verdict


def score(within_10: float = 0.9, count: int = 40, mape: float = 0.05, within_5: float = 0.5) -> HoldoutScore:
    return HoldoutScore(count=count, within_5=within_5, within_10=within_10, mape=mape, coverage=0.9)


CLEAR = [0.01, 0.02] * 20
"""Gains of forty rows of which each is nearer."""


def test_better_is_nearer_and_not_farther_for_more_than_one_row() -> None:
    active = score(0.9, mape=0.05)
    assert is_better(score(0.9, mape=0.035), active, CLEAR)
    assert not is_better(score(1.0, mape=0.05), active, [0.0] * 40), "no nearer"
    assert is_better(score(0.875, mape=0.035), active, CLEAR), "one of forty"
    assert not is_better(score(0.85, mape=0.035), active, CLEAR)


def test_few_rows_decide_by_more_than_their_mean() -> None:
    lucky = [0.10, 0.001, -0.001, 0.0, -0.002]
    assert fmean(lucky) > 0, "by their mean the new one would answer"
    assert not is_shown(lucky), "one row of five says it all"
    assert is_shown([0.03, 0.04, 0.05, 0.03, 0.04]), "five that agree suffice"
    assert not is_shown([0.5]), "one row shows nothing"
    assert not is_shown([])
    assert not is_shown([0.0, 0.0, 0.0])


@pytest.mark.parametrize("count", [5, 12, 60])
def test_versions_that_are_equally_good_seldom_take_turns(count: int) -> None:
    drawn = random.Random(count)
    taken = sum(is_shown([drawn.gauss(0.0, 0.02) for _ in range(count)]) for _ in range(2000))
    assert 40 <= taken <= 150, "one of twenty by chance, where their mean alone would take half of them"


def test_what_answers_stays_unless_the_new_one_is_shown_to_be_better() -> None:
    good, bad = score(0.95, mape=0.02), score(0.8, mape=0.08)
    assert verdict(bad, None, has_active=False).activate, "anything is better than nothing"
    unseen = verdict(None, None, has_active=False, first=First(score(), 0.01))
    assert (unseen.activate, unseen.reason) == (True, "the first one; no hold-out of it could be measured")
    assert not verdict(None, None, has_active=True).activate
    assert verdict(good, None, has_active=True).activate, "what answers cannot be read any more"
    assert verdict(good, bad, has_active=True, gains=[0.05, 0.07] * 20).activate
    lost = verdict(bad, good, has_active=True, gains=[-0.05, -0.07] * 20)
    assert (lost.activate, lost.reason) == (
        False,
        "what answers is no worse: 8.00 % against 2.00 % mean error on the same 40 hold-outs",
    )
    unsure = verdict(score(mape=0.04, count=5), score(count=5), has_active=True, gains=[0.06, 0.0, -0.01, 0.0, 0.0])
    assert (unsure.activate, unsure.reason) == (
        False,
        "not shown to be better: 4.00 % against 5.00 % mean error on the same 5 hold-outs",
    )


def test_what_was_picked_does_not_pay_for_what_is_lost_elsewhere() -> None:
    elsewhere = [-0.01, -0.03] * 5
    judged: dict[str, Any] = {"new": score(mape=0.04, count=18), "before": score(mape=0.08, count=18)}
    fields: dict[str, Any] = {"has_active": True, "gains": [0.10, 0.12] * 4 + elsewhere}
    assert verdict(**judged, **fields).activate, "all in all it is nearer"
    drawn = Compared(score(mape=0.05, count=10, within_5=0.3), score(mape=0.03, count=10), elsewhere)
    found = verdict(**judged, **fields, drawn=drawn)
    assert (found.activate, found.reason) == (
        False,
        "worse where nobody picked: 5.00 % against 3.00 % mean error on the same 10 hold-outs",
    )
    even = drawn._replace(gains=[0.01, -0.01] * 5)
    assert verdict(**judged, **fields, drawn=even).activate, "it need not be better there, nor is chance a loss"
    near = drawn._replace(new=score(mape=0.05, count=10, within_5=0.4))
    assert verdict(**judged, **fields, drawn=near).activate, "farther, and yet near enough"
    assert verdict(**judged, **fields, drawn=even._replace(new=score(0.8, count=10))).activate, "one row is none"
    assert not verdict(**judged, **fields, drawn=even._replace(new=score(0.7, count=10))).activate
    assert not verdict(**judged, **{**fields, "gains": even.gains}, drawn=even).activate, "and better it must be"


@pytest.mark.parametrize(
    ("mape", "least", "answers"), [(0.9, 0.4, True), (1.0, 0.5, True), (1.01, 0.01, False), (0.9, 0.51, False)]
)
def test_a_first_version_that_is_off_by_factors_does_not_answer(mape: float, least: float, answers: bool) -> None:
    first = First(score(0.0, mape=mape), least)
    found = verdict(None, None, has_active=False, first=first)
    assert found.activate is answers
    assert found.reason.startswith(HOPELESS) is not answers
    gains = [1.9, 2.0] * 20
    assert verdict(score(), score(mape=2.0), has_active=True, gains=gains, first=first).activate


@pytest.mark.parametrize(("rows", "answers"), [(0, False), (2, False), (ROWS_MIN - 1, False), (ROWS_MIN, True)])
def test_a_first_version_that_next_to_nothing_judges_does_not_answer(rows: int, answers: bool) -> None:
    first = First(score(1.0, count=rows, mape=0.001), 0.0) if rows else None
    found = verdict(None, None, has_active=False, first=first)
    assert found.activate is answers
    assert found.reason.startswith(f"{UNJUDGED}: no hold-out of it could be measured, and {rows} rows") is not answers
    holdout = score(count=5)
    assert verdict(holdout, None, has_active=False, first=First(holdout, 0.01)).activate, "hold-outs were declared"


def test_what_cannot_be_read_is_not_replaced_by_what_is_worse_than_it_was() -> None:
    was = score(0.95)
    assert not verdict(score(0.9), None, has_active=True, recorded=was).activate, "two of forty are lost"
    kept = verdict(score(0.925), None, has_active=True, recorded=was)
    assert (kept.activate, "not to be read" in kept.reason) == (True, True)
    assert not verdict(None, None, has_active=True, recorded=was).activate
