"""Scaled, residual, mean and stacked models."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.combined import Mean, Residual, Scaled, Stacked, fit_scaled, fit_stacked
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.metrics import score
from benchfarm_predictor.models import Model
from benchfarm_predictor.registry import MAX_NESTING, Registry
from benchfarm_predictor.ridge import fit_ridge
from tests.predictor.rows import costs, drawn, noisy, roofline_ms


def by_work(kernels: Kernels) -> Floats:
    """A platform that only computes."""
    return 0.001 + costs(kernels).flops / 1e8


def by_traffic(kernels: Kernels) -> Floats:
    """A platform that only moves data."""
    return 0.001 + costs(kernels).total_bytes / 1e7


def donor(kernels: Kernels, latency_ms: Floats) -> Model:
    return fit_ridge(kernel_features(kernels, "lines"), kernels, latency_ms, target="ms").model


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return drawn("conv-bn-act", 200)


@pytest.fixture(scope="module")
def donors(kernels: Kernels) -> tuple[Model, Model]:
    return donor(kernels, by_work(kernels)), donor(kernels, by_traffic(kernels))


def test_a_factor(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    base, _ = donors
    assert Scaled(base, 2.5).predict(kernels) == pytest.approx(2.5 * base.predict(kernels))


def test_the_factor_is_the_median_ratio(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    """Ratios 2, 3, 4 and one outlier of 1,000: their middle in logarithms is the root of 3 x 4."""
    few = kernels.take(slice(0, 4))
    base = donors[0]
    fit = fit_scaled(base, few, base.predict(few) * np.array([2.0, 3.0, 4.0, 1000.0]))
    assert fit.factor == pytest.approx(np.sqrt(12))


def test_a_residual_is_a_base_times_a_correction(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    base, correction = donors
    assert Residual(base, correction).predict(kernels) == pytest.approx(
        base.predict(kernels) * correction.predict(kernels)
    )


def test_a_correction_learnt_on_ratios_mends_the_base(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    base = donors[0]
    ratio = roofline_ms(kernels) / base.predict(kernels)
    fit = fit_ridge(kernel_features(kernels, "quadratic"), kernels, ratio, target="log")
    fresh = drawn("conv-bn-act", 100, seed=7)
    before, after = (
        score(model.predict(fresh), roofline_ms(fresh)).mape
        for model in (fit_scaled(base, kernels, roofline_ms(kernels)), Residual(base, fit.model))
    )
    assert after < before / 2


def test_a_mean_is_arithmetic(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    one, other = (each.predict(kernels) for each in donors)
    assert Mean(donors).predict(kernels) == pytest.approx((one + other) / 2)


def test_a_stack_is_a_product_of_powers(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    one, other = (each.predict(kernels) for each in donors)
    stack = Stacked(donors, (0.25, 0.5), np.log(3.0))
    assert stack.predict(kernels) == pytest.approx(3 * one**0.25 * other**0.5)


def test_stacking_finds_the_powers(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    one, other = (each.predict(kernels) for each in donors)
    fit = fit_stacked(donors, kernels, 3 * one**0.7 * other**0.2)
    assert fit.model.weights == pytest.approx((0.7, 0.2), abs=1e-4)
    assert fit.model.offset == pytest.approx(np.log(3), abs=1e-3)
    assert score(fit.left_out_ms, 3 * one**0.7 * other**0.2).mape < 1e-3


def test_noise_leaves_equal_weights_and_a_factor(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    few = kernels.take(slice(0, 6))
    one, other = (each.predict(few) for each in donors)
    fit = fit_stacked(donors, few, noisy(2 * np.sqrt(one * other), 1.0))
    assert fit.penalty > 100
    assert fit.model.weights == pytest.approx((0.5, 0.5), abs=0.01)


@pytest.mark.parametrize("latency_ms", [[1.0, float("nan")], [1.0, 0.0]])
def test_what_cannot_be_learnt_from_is_refused(
    kernels: Kernels, donors: tuple[Model, Model], latency_ms: list[float]
) -> None:
    few = kernels.take(slice(0, 2))
    for fit in (
        lambda: fit_scaled(donors[0], few, np.array(latency_ms)),
        lambda: fit_stacked(donors, few, np.array(latency_ms)),
    ):
        with pytest.raises(InvalidRequest) as caught:
            fit()
        assert caught.value.code == "training_rows_invalid"


def test_models_of_models_survive_their_arrays(kernels: Kernels, donors: tuple[Model, Model]) -> None:
    model = Stacked((Mean(donors), Residual(Scaled(donors[0], 2.0), donors[1])), (0.4, 0.6), 0.1)
    again = Registry().model(*model.to_arrays())
    assert again.predict(kernels).tolist() == model.predict(kernels).tolist()


def test_a_stack_with_too_few_weights_is_damaged(donors: tuple[Model, Model]) -> None:
    arrays, meta = Stacked(donors, (0.4, 0.6), 0.1).to_arrays()
    changes: list[dict[str, object]] = [
        {"weights": [0.4]},
        {"members": []},
        {"members": [{"kind": "oracle"}] * 2},
        {"members": [{}] * 2},
    ]
    for change in changes:
        with pytest.raises(InvalidRequest) as caught:
            Registry().model(arrays, {**meta, **change})
        assert caught.value.code == "predictor_file_damaged"


def test_models_nest_so_deep_and_no_deeper(donors: tuple[Model, Model]) -> None:
    model: Model = donors[0]
    for _ in range(MAX_NESTING - 1):
        model = Scaled(model, 1.0)
    assert Registry().model(*model.to_arrays()).kind == "scaled"
    with pytest.raises(InvalidRequest, match="nested"):
        Registry().model(*Scaled(model, 1.0).to_arrays())
