"""Logarithms and exponentials of our own against numpy's, and the same bits alone and among others."""

import numpy as np
import pytest

from benchfarm_predictor.elementary import exp, log, log2
from benchfarm_predictor.kernels import Floats

X = np.concatenate([np.linspace(-60, 60, 20_001), np.random.default_rng(0).uniform(-1e-3, 1e-3, 1000)])


def units_off(found: Floats, exact: Floats) -> float:
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact))))


def test_they_are_within_two_units_in_the_last_place() -> None:
    assert units_off(exp(X), np.exp(X)) <= 2
    positive = np.exp(X)
    assert units_off(log(positive), np.log(positive)) <= 2
    assert np.max(np.abs(log2(positive) - np.log2(positive))) < 3e-14


def test_they_are_exact_where_that_is_expected() -> None:
    assert (exp(0.0), log(1.0)) == (1.0, 0.0)
    powers = np.arange(-300.0, 300.0)
    assert log2(np.exp2(powers)).tolist() == powers.tolist()


def test_one_number_is_what_it_is_among_others() -> None:
    for rule, given in ((exp, X), (log, np.exp(X)), (log2, np.exp(X))):
        whole = rule(given)
        assert all(float(rule(value)) == whole[at] for at, value in enumerate(given[:300].tolist()))
        np.testing.assert_array_equal(rule(given[::7]), whole[::7])
        np.testing.assert_array_equal(rule(given[5:12]), whole[5:12])


@pytest.mark.parametrize(("given", "found"), [(1e9, np.exp(700.0)), (-1e9, np.exp(-700.0))])
def test_beyond_its_range_the_exponential_stays_finite(given: float, found: float) -> None:
    assert float(exp(given)) == pytest.approx(found)


def test_what_is_no_number_stays_none() -> None:
    assert np.isnan(exp(np.array([np.nan, 0.0]))).tolist() == [True, False]
