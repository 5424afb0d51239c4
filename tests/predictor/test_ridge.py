"""Ridge: closed forms against brute force, what it learns, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.metrics import score
from benchfarm_predictor.ridge import FEW_ROWS, LARGE_PENALTIES, PENALTIES, fit_ridge, solve
from tests.predictor.rows import drawn, noisy, roofline_ms


def by_hand(x: Floats, y: Floats, weights: Floats, penalty: float) -> Floats:
    """The normal equations, the offset first and not penalised; weights of mean 1."""
    shares = np.diag(weights / weights.mean())
    columns = np.c_[np.ones(len(x)), x]
    fines = penalty * np.diag([0.0] + [1.0] * x.shape[1])
    found: Floats = np.linalg.solve(columns.T @ shares @ columns + fines, columns.T @ shares @ y)
    return found


def test_the_line_through_three_points() -> None:
    """Points (0, 1), (1, 3), (2, 5): offset 1 and slope 2; left out, each lies on the line through the others."""
    solved = solve(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]), np.ones(3))
    weights, offset = solved.weights(0.0)
    assert (weights.tolist(), offset) == ([pytest.approx(2)], pytest.approx(1))
    assert solved.left_out(0.0) == pytest.approx([1, 3, 5])


def test_a_penalty_shrinks_the_slope_by_hand() -> None:
    """Centred x is -1, 0, 1 and y is -2, 0, 2: slope 4 / (2 + penalty)."""
    solved = solve(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]), np.ones(3))
    for penalty in (0.5, 2.0, 6.0):
        weights, offset = solved.weights(penalty)
        assert weights[0] == pytest.approx(4 / (2 + penalty))
        assert offset == pytest.approx(3 - weights[0])


@given(st.integers(0, 2**32), st.sampled_from([1e-2, 1.0, 100.0]), st.integers(5, 9))
def test_leaving_out_is_what_it_says(seed: int, penalty: float, count: int) -> None:
    chance = np.random.default_rng(seed)
    x, y, row_weights = chance.standard_normal((count, 2)), chance.standard_normal(count), chance.uniform(0.5, 2, count)
    solved = solve(x, y, row_weights)
    weights, offset = solved.weights(penalty)
    assert np.r_[offset, weights] == pytest.approx(by_hand(x, y, row_weights, penalty), rel=1e-6, abs=1e-8)
    for out in range(count):
        keep = np.arange(count) != out
        # the penalty is weighed against rows of mean weight 1 in the whole, not in what is left
        scale = row_weights.mean() / row_weights[keep].mean()
        fit = by_hand(x[keep], y[keep], row_weights[keep], penalty * scale)
        assert solved.left_out(penalty)[out] == pytest.approx(fit[0] + x[out] @ fit[1:], rel=1e-6, abs=1e-6)


def test_more_features_than_rows_have_a_solution() -> None:
    chance = np.random.default_rng(1)
    solved = solve(chance.standard_normal((5, 30)), chance.standard_normal(5), np.ones(5))
    for penalty in (0.0, 1e-6, 1.0):
        assert np.isfinite(solved.weights(penalty)[0]).all()
        assert np.isfinite(solved.left_out(penalty)).all()


def test_costs_that_are_additive_are_learnt_exactly_and_beyond_what_was_seen() -> None:
    kernels = drawn("conv-bn-act", 200)
    features = kernel_features(kernels, "lines")
    small = roofline_ms(kernels) < np.median(roofline_ms(kernels))
    fit = fit_ridge(features, kernels.take(small), roofline_ms(kernels)[small], target="ms")
    large = kernels.take(~small)
    assert score(fit.model.predict(large), roofline_ms(large)).within_5 == 1
    assert score(fit.left_out_ms, roofline_ms(kernels)[small]).mape < 0.01


def test_a_power_law_is_learnt_in_logarithms() -> None:
    kernels = drawn("add-act", 100)
    power_ms = 1e-3 * kernels.column("hw") ** 1.7 * kernels.column("cin") ** 0.8
    fit = fit_ridge(kernel_features(kernels, "quadratic"), kernels, power_ms, target="log")
    assert score(fit.left_out_ms, power_ms).mape < 0.01


def test_what_few_rows_have_keeps_its_effect() -> None:
    """Three of three hundred rows lie ten standard deviations out: nearer for the fit as for every prediction."""
    kernels = Kernels.of_rows("their-conv", ["a"], [(1,)] * 297 + [(2,)] * 3)
    features = kernel_features(kernels, "lines").select(("a",))
    doubled_ms = np.array([1.0] * 297 + [2.0] * 3)
    fit = fit_ridge(features, kernels, doubled_ms, penalties=(1e-9,))
    assert fit.model.predict(kernels) == pytest.approx(doubled_ms)
    assert fit.left_out_ms == pytest.approx(doubled_ms)


def test_noise_asks_for_a_larger_penalty() -> None:
    kernels = drawn("conv-bn-act", 80)
    features = kernel_features(kernels, "quadratic")
    quiet, loud = (fit_ridge(features, kernels, noisy(roofline_ms(kernels), share)) for share in (0.0, 0.5))
    assert quiet.penalty < loud.penalty


def test_relative_errors_count_alike_for_small_and_large() -> None:
    """One constant for 1 and 100 ms lies near 1: an error of 1 ms is all of the one and a hundredth of the other."""
    kernels = Kernels.of_rows("their-conv", ["a"], [(3,), (3,)])
    fit = fit_ridge(kernel_features(kernels), kernels, np.array([1.0, 100.0]), target="ms")
    weights = np.array([1.0, 1e-4])
    assert fit.model.predict(kernels)[0] == pytest.approx(float(weights @ [1.0, 100.0] / weights.sum()))


def test_constant_latencies_are_predicted_as_they_are() -> None:
    kernels = drawn("fc", 30)
    for target in ("log", "ms"):
        fit = fit_ridge(kernel_features(kernels), kernels, np.full(30, 0.25), target=target)
        assert fit.model.predict(drawn("fc", 10, seed=1)) == pytest.approx(0.25)


def test_nothing_is_predicted_below_a_tenth_of_the_least() -> None:
    """A line through 10 and 1 ms at sizes 100 and 10 passes zero at size 0."""
    rows = [(100,), (10,)]
    kernels = Kernels.of_rows("their-conv", ["a"], rows)
    features = kernel_features(kernels, "lines").select(("a",))
    fit = fit_ridge(features, kernels, np.array([11.0, 1.0]), target="ms", penalties=(1e-9,))
    assert fit.model.predict(Kernels.of_rows("their-conv", ["a"], [(100,), (0,)])) == pytest.approx([11.0, 0.1])


@pytest.mark.parametrize("latency_ms", [[], [1.0], [1.0, float("nan")], [1.0, 0.0], [1.0, -1.0], [1.0, float("inf")]])
def test_what_cannot_be_learnt_from_is_refused(latency_ms: list[float]) -> None:
    kernels = drawn("fc", len(latency_ms))
    with pytest.raises(InvalidRequest) as caught:
        fit_ridge(kernel_features(kernels), kernels, np.array(latency_ms))
    assert caught.value.code == "training_rows_invalid"


def test_as_many_latencies_as_rows() -> None:
    kernels = drawn("fc", 3)
    with pytest.raises(InvalidRequest) as caught:
        fit_ridge(kernel_features(kernels), kernels, np.ones(4))
    assert caught.value.code == "training_rows_invalid"


def test_two_rows_are_enough_for_something() -> None:
    kernels = drawn("fc", 2)
    fit = fit_ridge(kernel_features(kernels), kernels, np.array([0.1, 0.3]))
    predicted = fit.model.predict(kernels)
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()


def test_few_rows_for_so_many_features_are_not_passed_through() -> None:
    features = kernel_features(drawn("conv-bn-act", 2), "quadratic")
    columns = len(features.names)
    few, many = (drawn("conv-bn-act", count) for count in (int(FEW_ROWS * columns) - 1, int(FEW_ROWS * columns)))
    assert fit_ridge(features, many, roofline_ms(many)).penalty < LARGE_PENALTIES[0]
    assert fit_ridge(features, few, roofline_ms(few)).penalty >= LARGE_PENALTIES[0]
    only = PENALTIES[:1]
    assert fit_ridge(features, few, roofline_ms(few), penalties=only).penalty == only[0], "there is no larger one"
