"""Scores, rank correlations and binomial intervals, against numbers by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.metrics import binomial_interval, score, spearman


def test_a_score_by_hand() -> None:
    """Errors 4 %, 5 %, 10 % and 50 % of 100, 200, 10 and 2 ms."""
    found = score(np.array([104.0, 190.0, 11.0, 1.0]), np.array([100.0, 200.0, 10.0, 2.0]))
    assert found.mape == pytest.approx((0.04 + 0.05 + 0.10 + 0.50) / 4)
    assert (found.within_5, found.within_10, found.count) == (0.5, 0.75, 4)
    assert found.rmse_ms == pytest.approx(math.sqrt((16 + 100 + 1 + 1) / 4))
    assert found.spearman == 1


def test_bounds_belong_to_what_is_within() -> None:
    """1.05 / 1 - 1 is above 0.05 in float64."""
    found = score(np.array([1.05, 0.95, 1.1, 0.9]), np.ones(4))
    assert (found.within_5, found.within_10) == (0.5, 1)


@pytest.mark.parametrize(
    ("predicted", "measured"),
    [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([0.0], [1.0]), ([float("nan")], [1.0]), ([1.0], [float("inf")])],
)
def test_what_is_no_latency_has_no_score(predicted: list[float], measured: list[float]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        score(np.array(predicted), np.array(measured))
    assert caught.value.code == "training_rows_invalid"


def test_rank_correlations_by_hand() -> None:
    """Without ties 1 - 6 sum d^2 / (n^3 - n): ranks 1 2 3 4 5 against 2 1 3 5 4 differ by 1, 1, 0, 1, 1."""
    assert spearman(np.arange(5.0), np.array([20.0, 10.0, 30.0, 50.0, 40.0])) == pytest.approx(1 - 6 * 4 / 120)
    assert spearman(np.arange(4.0), -np.exp(np.arange(4.0))) == -1


def test_ties_share_their_mean_rank() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 x 5)."""
    found = spearman(np.array([1.0, 5.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_constant_latencies_have_no_ranks() -> None:
    assert spearman(np.ones(5), np.arange(5.0)) is None
    assert spearman(np.array([1.0]), np.array([2.0])) is None
    assert score(np.ones(3), np.ones(3)).spearman is None


def test_intervals_of_shares_by_hand() -> None:
    """None of 150 missed: (a/2)^(1/150). One of two hit: p^2 = 0.975 and (1 - p)^2 = 0.975 swapped."""
    low, high = binomial_interval(150, 150)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 150)), 1)
    low, high = binomial_interval(150, 150, confidence=0.9)
    assert low == pytest.approx(0.98, abs=3e-4)
    low, high = binomial_interval(1, 2)
    assert low == pytest.approx(1 - math.sqrt(0.975))
    assert high == pytest.approx(math.sqrt(0.975))


def test_a_published_interval() -> None:
    """5 of 10 at 95 %: 18.71 to 81.29 % (any table of Clopper and Pearson's limits)."""
    assert binomial_interval(5, 10) == pytest.approx((0.1871, 0.8129), abs=5e-5)


@given(st.integers(1, 400), st.data())
def test_each_end_leaves_its_tail(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    low, high = binomial_interval(hits, count, 0.9)
    assert 0 <= low <= hits / count <= high <= 1
    if hits > 0:
        tail = sum(math.comb(count, k) * low**k * (1 - low) ** (count - k) for k in range(hits, count + 1))
        assert tail == pytest.approx(0.05, rel=1e-6)
    assert binomial_interval(count - hits, count, 0.9) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("hits", "count", "confidence"), [(-1, 3, 0.9), (4, 3, 0.9), (0, 0, 0.9), (1, 2, 1.0)])
def test_what_is_no_share_is_refused(hits: int, count: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="of"):
        binomial_interval(hits, count, confidence)
