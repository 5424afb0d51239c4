"""Regions of whole models: rows are scored where they would be answered, every row is, and strangers are called so."""

from functools import cache

import numpy as np

from benchfarm_core.predictors import ModelRow
from benchfarm_predictor.combined import Regional
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.training.kernel_sums import kernel_models
from benchfarm_predictor.training.model_candidates import all_bases, fold_numbers, joint_candidates, model_problem
from benchfarm_predictor.training.model_donors import ModelView, PlatformDonor, model_views
from benchfarm_predictor.training.platform_fit import LEVEL, donor_of, fit_model, judge
from benchfarm_predictor.training.platform_rows import PlatformRows, measured_models
from benchfarm_predictor.training.regions import RegionalChoice, regional_choice
from benchfarm_predictor.training.strangers import UNTRIED, error_bound
from tests.predictor.training.farm_rows import MOBILE, RESNET, Platform, model_rows, training_rows

PLATFORM = Platform(1)
BORROWER = Platform(2, likeness=PLATFORM)
PROXYLESS, BIGNAS, FBNET = "proxylessnas", "bignas", "fbnet_v3"
MOBILES = (BIGNAS, FBNET, MOBILE, PROXYLESS)


def rows_of(platform: Platform, **counts: int) -> PlatformRows:
    """So many architectures of each space."""
    models = [row for space, count in counts.items() for row in model_rows(platform, space, count)]
    return PlatformRows.of(training_rows(platform, models))


def choice_of(rows: PlatformRows, views: tuple[ModelView, ...] = ()) -> RegionalChoice:
    models, sums = rows.whole_models(), kernel_models(rows, (), 0)
    problem = model_problem(models, fold_numbers(models, 0), 0)
    bases = all_bases(problem, sums, views)
    found = joint_candidates(problem, bases)
    return regional_choice(problem, bases, found, kernels=rows, sums=sums, views=views)


@cache
def lender() -> PlatformDonor:
    return donor_of(rows_of(PLATFORM, **{MOBILE: 20, RESNET: 20}))


def lent_views(rows: PlatformRows) -> tuple[ModelView, ...]:
    return model_views([lender()], rows.models, 0)


def spaces_of(choice: RegionalChoice) -> np.ndarray:
    return np.array(choice.problem.rows.spaces)


def test_where_no_space_has_enough_rows_everybody_is_a_stranger() -> None:
    rows = rows_of(PLATFORM, **{MOBILE: 3, PROXYLESS: 2, BIGNAS: 2, FBNET: 2, RESNET: 2})
    fit = fit_model(rows)
    said = answer(fit.predictor, rows.models.lists)
    assert all(any("like no measured" in each for each in outside) for outside in said.outside)
    assert (said.high_ms >= said.latency_ms * np.exp(UNTRIED) * (1 - 1e-9)).all()
    assert not said.coverage.any(), "nothing is promised of strangers"
    assert {name.split(":")[0] for name in fit.chosen} == {"elsewhere"}


def twins(start: int, count: int) -> list[ModelRow]:
    """Two spaces that draw the same networks, and of which one takes longer for a reason that no kernel tells."""
    rows = model_rows(PLATFORM, MOBILE, 2 * count, start=start)
    slower = [
        row.model_copy(update={"space": "twin", "normalised_ms": 1.3 * row.normalised_ms}) for row in rows[count:]
    ]
    return [*rows[:count], *slower]


def test_rows_are_scored_in_the_region_where_they_are_answered() -> None:
    rows = PlatformRows.of(training_rows(PLATFORM, twins(0, 20)))
    choice = choice_of(rows)
    model = choice.model(choice.intervals(LEVEL)[1])
    assert isinstance(model, Regional)
    assert choice.places.tolist() == model.places(rows.models.lists).tolist()
    labels = [list(model.regions).index(space) if space in model.regions else -1 for space in spaces_of(choice)]
    assert labels != choice.places.tolist()
    fit, met = fit_model(rows), judge(fit_model(rows).predictor, training_rows(PLATFORM, twins(40, 20)))
    assert fit.unseen is not None
    assert met.mape > 0.05
    assert fit.unseen.mape > 0.85 * met.mape, "by the spaces' names each network would be known to a percent"


def test_four_mobile_spaces_keep_what_they_promise() -> None:
    fit = fit_model(rows_of(PLATFORM, **dict.fromkeys(MOBILES, 24)))
    new = [row for space in MOBILES for row in model_rows(PLATFORM, space, 20, start=24)]
    met = judge(fit.predictor, training_rows(PLATFORM, new))
    assert fit.unseen is not None
    assert met.mape < 1.4 * fit.unseen.mape + 0.002
    assert met.coverage > 0.8


def test_rows_outside_all_regions_are_scored_and_bound_what_is_said_there() -> None:
    rows = rows_of(PLATFORM, **{MOBILE: 20, RESNET: 6})
    fit, choice = fit_model(rows), choice_of(rows)
    assert fit.unseen is not None
    assert fit.unseen.count == 26
    is_outside = spaces_of(choice) == RESNET
    assert (choice.places[is_outside] == len(choice.regions)).all()
    intervals, widenings = choice.intervals(LEVEL)
    assert np.log(intervals.widths[0] * widenings[-1]) >= error_bound(choice.errors[is_outside], LEVEL)
    known = choice.errors[~is_outside]
    assert np.log(intervals.widths[0]) < 1.5 * error_bound(known, LEVEL), "those inside are as sure as they were"


def test_rows_of_a_lent_region_are_scored_by_what_answers_there() -> None:
    rows = rows_of(BORROWER, **{MOBILE: 14, RESNET: 5})
    choice = choice_of(rows, lent_views(rows))
    assert ([each.name for each in choice.regions], [each.name for each in choice.lent]) == ([MOBILE], [RESNET])
    there = choice.places == 1
    assert (spaces_of(choice)[there] == RESNET).all()
    assert there.sum() == 5
    lent = choice.elsewhere.lent
    assert lent is not None
    assert choice.unseen[there].tolist() == lent.unseen[there].tolist()
    fit = fit_model(rows, [lender()])
    assert fit.unseen is not None
    assert fit.unseen.count == 19


def test_a_lent_region_takes_no_row_of_a_space_that_was_measured() -> None:
    donor = donor_of(rows_of(PLATFORM, **dict.fromkeys((BIGNAS, FBNET, PROXYLESS), 16)))
    rows = rows_of(BORROWER, **{MOBILE: 16})
    choice = choice_of(rows, model_views([donor], rows.models, 0))
    assert [each.name for each in choice.regions] == [MOBILE]
    assert not choice.places.any()
    lists = measured_models(model_rows(BORROWER, MOBILE, 16, start=16)).lists
    model = choice.model(choice.intervals(LEVEL)[1])
    assert isinstance(model, Regional)
    assert (model.places(lists) == 0).mean() > 0.8
