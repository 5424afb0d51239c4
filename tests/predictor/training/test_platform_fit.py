"""Predictors of a platform: near enough from few rows, sure of how near, the same again, and refused with a reason."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, ModelRow, TrainingRows
from benchfarm_core.shares import binomial_interval
from benchfarm_core.summaries import Grade
from benchfarm_predictor.combined import Regional
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.predictor_file import MAX_FILE_BYTES, read
from benchfarm_predictor.training import absent
from benchfarm_predictor.training.model_donors import PlatformDonor
from benchfarm_predictor.training.platform_fit import LEVEL, PlatformFit, donor_of, fit_kernel, fit_model, judge
from benchfarm_predictor.training.platform_rows import PlatformRows, measured_models
from tests.predictor.training.farm_rows import (
    MOBILE,
    RESNET,
    TOKENS,
    Platform,
    in_situ_rows,
    kernel_rows,
    later,
    model_rows,
    training_rows,
)

PLATFORM = Platform(1)
HELD = 100
TRAINED = 80


def held_out(platform: Platform, *spaces: str, count: int = HELD) -> TrainingRows:
    """Architectures behind those that are trained on."""
    rows = [
        row for space in spaces for row in model_rows(platform, space, count, start=TRAINED, purpose=Purpose.HOLDOUT)
    ]
    return training_rows(platform, rows)


def of_spaces(platform: Platform, count: int, *spaces: str) -> list[ModelRow]:
    return [row for space in spaces for row in model_rows(platform, space, count)]


@cache
def three_spaces() -> PlatformFit:
    return fit_model(PlatformRows.of(training_rows(PLATFORM, of_spaces(PLATFORM, TRAINED, MOBILE, RESNET, TOKENS))))


@cache
def lender() -> PlatformDonor:
    """The platform of which ``borrower`` is a relative."""
    rows = training_rows(PLATFORM, of_spaces(PLATFORM, TRAINED, MOBILE), in_situ_rows(PLATFORM, MOBILE, 20, 30))
    return donor_of(PlatformRows.of(rows))


BORROWER = Platform(2, likeness=PLATFORM)


@pytest.mark.parametrize("space", [MOBILE, RESNET, TOKENS])
def test_a_known_space_is_within_ten_percent_from_eighty_architectures(space: str) -> None:
    score = judge(three_spaces().predictor, held_out(PLATFORM, space))
    assert score.count == HELD
    assert score.within_10 == 1
    assert score.within_5 >= 0.99


def test_a_space_is_as_good_beside_others_as_by_itself() -> None:
    alone = fit_model(PlatformRows.of(training_rows(PLATFORM, of_spaces(PLATFORM, TRAINED, MOBILE))))
    held = held_out(PLATFORM, MOBILE)
    assert judge(three_spaces().predictor, held).mape < 1.2 * judge(alone.predictor, held).mape + 0.001


def test_architectures_are_met_in_the_region_of_their_space() -> None:
    model = three_spaces().predictor.model
    assert isinstance(model, Regional)
    assert model.regions == tuple(sorted((MOBILE, RESNET, TOKENS)))
    for number, space in enumerate(model.regions):
        lists = measured_models(held_out(PLATFORM, space).models).lists
        assert (model.places(lists) == number).mean() > 0.95, space


def test_the_score_by_cross_validation_is_that_of_new_architectures() -> None:
    fit = three_spaces()
    assert fit.unseen is not None
    met = judge(fit.predictor, held_out(PLATFORM, MOBILE, RESNET, TOKENS))
    assert fit.unseen.count == 3 * TRAINED
    assert 0.9 * met.mape < fit.unseen.mape < 1.2 * met.mape


def test_intervals_cover_what_they_promise() -> None:
    fit = three_spaces()
    assert is_covered(judge(fit.predictor, held_out(PLATFORM, MOBILE, RESNET, TOKENS)), 0.95)
    assert fit.unseen is not None
    assert is_covered(fit.unseen, 0.95)
    for space in (MOBILE, RESNET, TOKENS):
        assert is_covered(judge(fit.predictor, held_out(PLATFORM, space)), 0.99), space


def is_covered(score: HoldoutScore, confidence: float) -> bool:
    """Whether so many rows inside their intervals are what intervals of that level would have."""
    low, high = binomial_interval(round(score.coverage * score.count), score.count, confidence)
    return low <= LEVEL <= high


def test_a_space_that_was_never_sampled_is_said_to_be_strange() -> None:
    rows = training_rows(PLATFORM, model_rows(PLATFORM, "proxylessnas", 20, purpose=Purpose.HOLDOUT))
    lists = measured_models(rows.models).lists
    fit = fit_model(PlatformRows.of(training_rows(PLATFORM, of_spaces(PLATFORM, 40, RESNET, TOKENS))))
    known = answer(fit.predictor, measured_models(held_out(PLATFORM, RESNET, count=20).models).lists)
    strange = answer(fit.predictor, lists)
    assert all(any("like no measured" in said for said in outside) for outside in strange.outside)
    assert not any("like no measured" in said for outside in known.outside for said in outside)
    assert np.median(strange.high_ms / strange.latency_ms) > 1.25
    assert judge(fit.predictor, rows).coverage >= 0.9


def test_a_donor_spares_measurements() -> None:
    held = held_out(BORROWER, MOBILE)
    rows = PlatformRows.of(training_rows(BORROWER, of_spaces(BORROWER, 15, MOBILE)))
    scratch, helped = fit_model(rows), fit_model(rows, [lender()])
    alone, better = judge(scratch.predictor, held), judge(helped.predictor, held)
    assert better.mape < 0.8 * alone.mape
    assert better.within_10 > 0.95
    assert helped.donors == (PLATFORM.key,)
    assert not scratch.donors
    assert any(PLATFORM.key in name for name in helped.chosen)


def test_a_space_that_a_donor_knows_is_answered_before_it_is_measured() -> None:
    donor = donor_of(PlatformRows.of(training_rows(PLATFORM, of_spaces(PLATFORM, 30, MOBILE, RESNET))))
    rows = PlatformRows.of(training_rows(BORROWER, of_spaces(BORROWER, 12, MOBILE)))
    fit, without = fit_model(rows, [donor]), fit_model(rows)
    held = held_out(BORROWER, RESNET, count=20)
    score = judge(fit.predictor, held)
    assert score.mape < 0.5 * judge(without.predictor, held).mape
    assert score.coverage > 0.9
    said = answer(fit.predictor, measured_models(held.models).lists)
    assert not any("like no measured" in each for outside in said.outside for each in outside)
    assert any(name.startswith(f"{RESNET}: {PLATFORM.key}") for name in fit.chosen)


def test_elsewhere_donors_say_nothing_where_kernels_are_summed() -> None:
    """A donor knows every space that could be held back to judge it."""
    donor = donor_of(PlatformRows.of(training_rows(PLATFORM, of_spaces(PLATFORM, 20, MOBILE, RESNET))))
    rows = training_rows(BORROWER, of_spaces(BORROWER, 12, MOBILE, RESNET), in_situ_rows(BORROWER, MOBILE, 5, 12))
    strange = [name for name in fit_model(PlatformRows.of(rows), [donor]).chosen if name.startswith("elsewhere")]
    assert strange
    assert not any(PLATFORM.key in name for name in strange)


def test_kernels_in_situ_spare_whole_models() -> None:
    held = held_out(PLATFORM, MOBILE)
    models = of_spaces(PLATFORM, 12, MOBILE)
    with_kernels = training_rows(PLATFORM, models, in_situ_rows(PLATFORM, MOBILE, 20, 40))
    scratch = judge(fit_model(PlatformRows.of(training_rows(PLATFORM, models))).predictor, held)
    fit = fit_model(PlatformRows.of(with_kernels))
    assert judge(fit.predictor, held).mape < 0.8 * scratch.mape
    assert any("kernels in situ" in name for name in fit.chosen)
    assert fit.rows["in_situ"] > 100


def test_without_whole_models_kernels_are_summed() -> None:
    held = held_out(PLATFORM, MOBILE)
    rows = training_rows(PLATFORM, of_spaces(PLATFORM, 4, MOBILE), in_situ_rows(PLATFORM, MOBILE, 20, 40))
    fit = fit_model(PlatformRows.of(rows))
    assert (fit.chosen, fit.unseen, len(fit.unseen_ms)) == (("kernels in situ",), None, 0)
    assert isinstance(fit.predictor.model, KernelSum)
    score = judge(fit.predictor, held)
    assert score.within_10 > 0.8
    assert score.coverage == 1, "nothing was left to calibrate on, so that intervals are wide"
    none = fit_model(PlatformRows.of(training_rows(PLATFORM, [], list(rows.kernels))))
    assert judge(none.predictor, held).mape < 0.15


def test_without_anything_else_a_donor_is_scaled() -> None:
    rows = PlatformRows.of(training_rows(BORROWER, of_spaces(BORROWER, 3, MOBILE)))
    fit = fit_model(rows, [lender()])
    assert (fit.chosen, fit.donors) == ((f"{PLATFORM.key} x factor",), (PLATFORM.key,))
    assert judge(fit.predictor, held_out(BORROWER, MOBILE)).mape < 0.2


def test_the_same_rows_give_the_same_file_whatever_their_order() -> None:
    kernels = in_situ_rows(PLATFORM, MOBILE, 3, 11)
    models = of_spaces(PLATFORM, 11, MOBILE, RESNET)
    rows = training_rows(PLATFORM, models, kernels)
    turned = rows.model_copy(update={"models": rows.models[::-1], "kernels": rows.kernels[::-1]})
    files = [fit_model(PlatformRows.of(each), [lender()], seed=3).file() for each in (rows, rows, turned)]
    assert files[0] == files[1] == files[2]


def test_the_file_says_the_same_again() -> None:
    fit = three_spaces()
    data = fit.file()
    assert len(data) < MAX_FILE_BYTES / 8
    again = read(data)
    lists = measured_models(held_out(PLATFORM, MOBILE, TOKENS, count=20).models).lists
    one, other = answer(fit.predictor, lists), answer(again, lists)
    assert other.latency_ms.tolist() == one.latency_ms.tolist()
    assert other.high_ms.tolist() == one.high_ms.tolist()
    assert other.outside == one.outside


def test_a_fit_names_what_it_was_made_of() -> None:
    fit = three_spaces()
    header = fit.predictor.header
    assert (header.kernel_type, header.platform) == (WHOLE_MODEL, PLATFORM.key)
    assert header.lineage.rule_version == 6
    score = judge(fit.predictor, held_out(PLATFORM, MOBILE, count=10))
    evidence = fit.evidence(board_s=12.5, holdout=score, adaptation_id="a_1")
    assert (evidence.board_s, evidence.holdout, evidence.adaptation_id) == (12.5, score, "a_1")
    assert evidence.rows == {"alone": 0, "in_situ": 0, "models": 3 * TRAINED}
    assert {name.split(":")[0] for name in evidence.chosen} == {MOBILE, RESNET, TOKENS, "elsewhere"}


def test_hold_outs_change_nothing() -> None:
    models = of_spaces(PLATFORM, 16, MOBILE)
    held = [row.model_copy(update={"purpose": Purpose.HOLDOUT}) for row in models[:4]]
    slow = [later(row, 1, 10.0) for row in held]
    files = [
        fit_model(
            PlatformRows.of(training_rows(PLATFORM, models[4:] + given).model_copy(update={"data_hash": "x"}))
        ).file()
        for given in ([], held, slow)
    ]
    assert files[0] == files[1] == files[2]


def test_a_kernel_is_fitted_alone_and_covered() -> None:
    rows = PlatformRows.of(training_rows(PLATFORM, [], kernel_rows(PLATFORM, "linear", 80)))
    fit = fit_kernel(rows, "linear")
    held = training_rows(PLATFORM, [], kernel_rows(PLATFORM, "linear", 150, seed=9, purpose=Purpose.HOLDOUT))
    score = judge(fit.predictor, held)
    assert score.within_10 > 0.8
    assert 0.8 < score.coverage <= 1
    assert (fit.rows, fit.predictor.header.kernel_type) == ({"alone": 80}, "linear")
    assert read(fit.file()).header == fit.predictor.header


def test_a_donor_helps_a_kernel() -> None:
    donor = donor_of(PlatformRows.of(training_rows(PLATFORM, [], kernel_rows(PLATFORM, "linear", 80))))
    rows = PlatformRows.of(training_rows(BORROWER, [], kernel_rows(BORROWER, "linear", 12)))
    held = training_rows(BORROWER, [], kernel_rows(BORROWER, "linear", 100, seed=9))
    scratch, helped = fit_kernel(rows, "linear"), fit_kernel(rows, "linear", [donor])
    assert judge(helped.predictor, held).mape < judge(scratch.predictor, held).mape
    assert helped.donors == (PLATFORM.key,)


def test_without_scikit_learn_trees_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "find_spec", lambda _: None)
    rows = PlatformRows.of(training_rows(PLATFORM, [], kernel_rows(PLATFORM, "linear", 40)))
    fit = fit_kernel(rows, "linear", with_networks=True)
    assert not any("trees" in name or "network" in name for name in fit.chosen)


def test_whole_models_need_numpy_alone() -> None:
    code = (
        "import sys\n"
        "import benchfarm_predictor.training.platform_fit, benchfarm_predictor.training.informative\n"
        "sys.exit(', '.join({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr.strip() == ""


def test_donors_without_a_common_kernel_are_left_aside() -> None:
    strange = donor_of(PlatformRows.of(training_rows(PLATFORM, of_spaces(PLATFORM, 12, TOKENS))))
    rows = PlatformRows.of(training_rows(BORROWER, of_spaces(BORROWER, 12, MOBILE)))
    fit = fit_model(rows, [strange])
    assert PLATFORM.key not in " ".join(fit.chosen)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (training_rows(PLATFORM, of_spaces(PLATFORM, 9, MOBILE)), "9 whole models are too few"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 20, normalised_ms=1.0)), "nothing can be learnt"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 20, grade=Grade.D)), "grade D"),
        (training_rows(PLATFORM), "too few"),
    ],
)
def test_rows_that_teach_nothing_end_in_an_error_that_says_what_to_do(rows: TrainingRows, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        fit_model(PlatformRows.of(rows))
    assert caught.value.code == "training_rows_invalid"
    assert "measure" in caught.value.detail


def test_kernels_that_teach_nothing_are_refused() -> None:
    constant = [row.model_copy(update={"normalised_ms": 1.0}) for row in kernel_rows(PLATFORM, "fc", 20)]
    in_situ = kernel_rows(PLATFORM, "se", 20, Timing.IN_SITU)
    rows = PlatformRows.of(training_rows(PLATFORM, [], constant + in_situ))
    for name, says in (("fc", "nothing can be learnt"), ("se", "no kernel se was measured alone")):
        with pytest.raises(InvalidRequest, match=says) as caught:
            fit_kernel(rows, name)
        assert caught.value.code == "training_rows_invalid"


def test_each_space_has_a_score_of_its_own() -> None:
    fit = three_spaces()
    assert fit.unseen_in(()) == fit.unseen
    of_each = [fit.unseen_in([space]) for space in (MOBILE, RESNET, TOKENS)]
    assert [each.count if each else 0 for each in of_each] == [TRAINED] * 3
    both = fit.unseen_in([MOBILE, RESNET])
    assert both is not None
    assert of_each[0] is not None
    assert of_each[1] is not None
    assert both.mape == pytest.approx((of_each[0].mape + of_each[1].mape) / 2)
    assert fit.unseen_in(["a space of nobody's"]) is None
