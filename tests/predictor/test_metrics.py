"""Scores and rank correlations, against numbers by hand."""

import math

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.metrics import score, spearman


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
