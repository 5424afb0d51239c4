"""Few rows of a platform's own: a guess that says so, or a refusal, and never a number out of nothing."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictors import KernelRow
from benchfarm_predictor.combined import Regional, Stacked
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.training.kernel_sums import CONTEXT, kernel_models
from benchfarm_predictor.training.model_donors import PlatformDonor
from benchfarm_predictor.training.platform_fit import LEAST_LENT, donor_of, fit_model, judge
from benchfarm_predictor.training.platform_rows import PlatformRows, measured_models
from tests.predictor.training.farm_rows import (
    MOBILE,
    TOKENS,
    Platform,
    in_situ_rows,
    kernel_rows,
    model_rows,
    rows_of_configs,
    training_rows,
)

PLATFORM = Platform(1)
BORROWER = Platform(2, likeness=PLATFORM)
DEPTHWISE = "dwconv-bn-act"


@cache
def lender() -> PlatformDonor:
    return donor_of(PlatformRows.of(training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 30))))


def own_rows(models: int, kernels: Sequence[KernelRow] = ()) -> PlatformRows:
    return PlatformRows.of(training_rows(BORROWER, model_rows(BORROWER, MOBILE, models), list(kernels)))


def refusal(rows: PlatformRows, *donors: PlatformDonor) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        fit_model(rows, donors)
    assert caught.value.code == "training_rows_invalid"
    return caught.value


@pytest.mark.parametrize("count", range(LEAST_LENT))
def test_a_donor_alone_says_nothing_of_a_platform(count: int) -> None:
    """It may be ten times as fast: nothing was measured that would tell."""
    assert f"{count} whole models are too few" in refusal(own_rows(count), lender()).detail


def test_three_models_bring_a_donor_to_the_platform_and_what_is_strange_to_it_is_said() -> None:
    fit = fit_model(own_rows(LEAST_LENT), [lender()])
    assert (fit.chosen, fit.donors) == ((f"{PLATFORM.key} x factor",), (PLATFORM.key,))
    held = training_rows(BORROWER, model_rows(BORROWER, MOBILE, 20, start=40, purpose=Purpose.HOLDOUT))
    assert judge(fit.predictor, held).mape < 0.04
    assert isinstance(fit.predictor.model, Regional)
    strangers = measured_models(model_rows(BORROWER, TOKENS, 3)).lists
    near, far = (answer(fit.predictor, each) for each in (measured_models(held.models).lists, strangers))
    assert not near.coverage.any()
    assert all(any("like no measured" in said for said in outside) for outside in far.outside)
    assert np.median(far.high_ms / far.latency_ms) > 1.5 * np.median(near.high_ms / near.latency_ms)


def test_a_donor_that_is_not_alike_lends_nothing() -> None:
    """What takes long there takes no time here."""
    model = lender().model
    assert model is not None
    turned = replace(lender(), name="turned", model=Stacked((model,), (-6.0,), 0.0), unseen_ms=lender().unseen_ms ** -6)
    assert "5 whole models are too few" in refusal(own_rows(5), turned).detail
    assert fit_model(own_rows(5), [turned, lender()]).donors == (PLATFORM.key,)


def test_a_donor_without_common_kernels_lends_nothing() -> None:
    strange = donor_of(PlatformRows.of(training_rows(PLATFORM, model_rows(PLATFORM, TOKENS, 12))))
    assert "5 whole models are too few" in refusal(own_rows(5), strange).detail


@pytest.mark.parametrize("timing", [Timing.ALONE, Timing.IN_SITU])
@pytest.mark.parametrize("count", [1, 5, 9])
def test_a_few_kernels_make_no_sum(count: int, timing: Timing) -> None:
    kernels = kernel_rows(BORROWER, "conv-bn-act", count, timing)
    assert kernel_models(own_rows(0, kernels), [], 0) == ()
    refusal(own_rows(0, kernels))
    refusal(own_rows(5, kernels))


def test_a_few_kernels_in_situ_leave_those_alone_to_be_summed() -> None:
    rows = own_rows(0, [*kernel_rows(BORROWER, "se", 4, Timing.IN_SITU), *kernel_rows(BORROWER, "conv-bn-act", 30)])
    [found] = kernel_models(rows, [], 0)
    assert (found.name, set(found.models)) == ("alone", {"conv-bn-act"})


def test_a_few_kernels_beside_whole_models_are_no_base() -> None:
    fit = fit_model(own_rows(12, kernel_rows(BORROWER, "conv-bn-act", 5, Timing.IN_SITU)))
    assert not any("kernels" in name for name in fit.chosen)


def alone(rows: list[KernelRow], factor: float) -> list[KernelRow]:
    """The same kernels alone, in that much of the time that they take in situ."""
    return [
        row.model_copy(update={"timing": Timing.ALONE, "normalised_ms": factor * row.normalised_ms}) for row in rows
    ]


@cache
def mixed() -> PlatformRows:
    """All of a network's kernels in situ but depthwise ones; these and some convolutions alone, in three times the
    time that they take in situ."""
    kernels = in_situ_rows(PLATFORM, MOBILE, 10, 30)
    depthwise = [row for row in kernels if row.kernel_type == DEPTHWISE]
    in_situ = [row for row in kernels if row.kernel_type != DEPTHWISE]
    both = [row for row in in_situ if row.kernel_type == "conv-bn-act"][:8]
    return PlatformRows.of(training_rows(PLATFORM, [], [*in_situ, *alone([*both, *depthwise], 3.0)]))


def test_kernels_alone_are_brought_to_those_in_situ_and_are_guesses() -> None:
    [found] = kernel_models(mixed(), [], 0)
    assert (found.name, found.guessed) == ("in situ", {DEPTHWISE})
    kernels = mixed().alone[DEPTHWISE].kernels
    ratio = found.models[DEPTHWISE].predict(kernels) / PLATFORM.in_situ_ms(kernels)
    assert 0.95 < np.median(ratio) < 1.05
    fit = fit_model(mixed())
    assert isinstance(fit.predictor.model, KernelSum)
    said = answer(fit.predictor, measured_models(model_rows(PLATFORM, MOBILE, 5, start=20)).lists)
    assert said.unknown == ((DEPTHWISE,),) * 5
    assert not said.coverage.any()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_sums_are_told_by_the_few_models_that_there_are(count: int) -> None:
    models = training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, count))
    fit = fit_model(replace(mixed(), models=PlatformRows.of(models).models))
    assert fit.unseen is None, "too few to say how good it is, and to stop at"
    score = None if fit.told is None else fit.told.score()
    assert (score is None) == (count == 0)
    assert score is None or (score.count, score.mape < 0.5) == (count, True)


def test_guesses_beside_whole_models_are_in_the_interval() -> None:
    kernels = mixed()
    models = training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 15))
    fit = fit_model(replace(kernels, models=PlatformRows.of(models).models))
    assert any("kernels in situ" in name for name in fit.chosen)
    said = answer(fit.predictor, measured_models(model_rows(PLATFORM, MOBILE, 20, start=20)).lists)
    assert not any(said.unknown)
    assert (said.coverage > 0).mean() >= 0.5, "but for those outside of what was learnt from"


def test_without_a_kernel_timed_both_ways_the_fallback_tells_the_ratio() -> None:
    rows = mixed()
    apart = replace(rows, alone={name: each for name, each in rows.alone.items() if name == DEPTHWISE})
    [found] = kernel_models(apart, [], 0)
    kernels = rows.alone[DEPTHWISE].kernels
    ratio = found.models[DEPTHWISE].predict(kernels) / PLATFORM.in_situ_ms(kernels)
    assert np.median(ratio) == pytest.approx(3 * CONTEXT[0], rel=0.05), "what it says of other types is held to a half"


def test_what_nobody_timed_is_guessed_by_kernels_alone_where_those_in_situ_cannot() -> None:
    """Of few kernels in situ a donor makes models, but nobody a fallback."""
    kernels = in_situ_rows(PLATFORM, MOBILE, 10, 30)
    donor = donor_of(PlatformRows.of(training_rows(PLATFORM, [], kernels)))
    few = rows_of_configs(BORROWER, "conv-bn-act", [row.config for row in kernels[:5]], Timing.IN_SITU)
    assert {row.kernel_type for row in kernels[:5]} == {"conv-bn-act"}
    own = kernel_rows(BORROWER, DEPTHWISE, 30)
    rows = own_rows(0, [*few, *own])
    [found] = kernel_models(rows, [donor.in_situ], 0)
    assert (set(found.models), found.guessed) == ({"conv-bn-act", DEPTHWISE}, {DEPTHWISE})
    pool = Kernels.of_configs("fc", [{"cin": 960, "cout": 1280}])
    assert found.plain.predicts(pool)
    assert found.fallback is not None
    assert found.fallback.predict(pool)[0] > 1e-4
