"""Split-conformal intervals: ranks by hand, coverage on fresh rows, bins."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.conformal import MAX_BINS, MAX_WIDTH, ROWS_PER_BIN, calibrate

TEN = np.exp(np.arange(1, 11) / 100)  # log ratios 0.01 to 0.10


def test_the_rank_by_hand() -> None:
    """Of 10 rows ceil(11 x 0.5) = 6: the sixth smallest; at 0.9 ceil(9.9) = 10: the largest."""
    middle = calibrate(np.ones(10), TEN, 0.5)
    assert (middle.widths.tolist(), middle.coverage) == ([pytest.approx(np.exp(0.06))], 0.5)
    assert calibrate(np.ones(10), 1 / TEN, 0.9).widths.tolist() == [pytest.approx(np.exp(0.10))]


def test_too_few_rows_say_what_they_guarantee() -> None:
    """4 rows: a new one exceeds the largest of them with probability 1/5."""
    few = calibrate(np.ones(4), TEN[:4], 0.9)
    assert (few.widths.tolist(), few.coverage, few.level) == ([pytest.approx(np.exp(0.04))], 0.8, 0.9)
    assert calibrate(np.ones(9), TEN[:9], 0.9).coverage == 0.9


def test_bounds_are_factors_both_ways_and_grow_by_extra() -> None:
    found = calibrate(np.ones(10), np.full(10, 2.0), 0.5)
    low, high = found.bounds(np.array([3.0, 8.0]))
    assert (low.tolist(), high.tolist()) == ([1.5, 4.0], [6.0, 16.0])
    low, high = found.bounds(np.array([3.0, 8.0]), extra=np.array([1.0, 2.0]))
    assert (low.tolist(), high.tolist()) == ([1.5, 2.0], [6.0, 32.0])


def test_small_latencies_get_an_interval_of_their_own_where_rows_suffice() -> None:
    """Below 1 ms clocks are coarse: errors of 20 % there, of 2 % above."""
    chance = np.random.default_rng(0)
    predicted = np.exp(chance.uniform(-3, 3, 2000))
    measured = predicted * np.exp(np.where(predicted < 1, 0.2, 0.02) * chance.standard_normal(2000))
    found = calibrate(predicted, measured)
    assert (len(found.widths), len(found.edges_ms)) == (MAX_BINS, MAX_BINS - 1)
    low, high = found.bounds(np.array([0.1, 10.0]))
    assert high[0] / low[0] == pytest.approx(np.exp(2 * 1.645 * 0.2), rel=0.1)
    assert high[1] / low[1] == pytest.approx(np.exp(2 * 1.645 * 0.02), rel=0.05)


def test_few_rows_share_one_interval() -> None:
    chance = np.random.default_rng(0)
    predicted = np.exp(chance.uniform(-3, 3, 2 * ROWS_PER_BIN - 1))
    assert len(calibrate(predicted, noisy(predicted, chance)).widths) == 1
    assert len(calibrate(np.ones(1000), noisy(np.ones(1000), chance)).widths) == 1


def noisy(predicted: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return predicted * np.exp(0.1 * chance.standard_normal(len(predicted)))


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_fresh_rows_are_covered(level: float) -> None:
    """Mean over 200 calibrations on 60 rows each, 200 fresh rows each: the standard error is below half a percent. The
    rank that is taken, of 61 places for a new row, is the share."""
    chance = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        predicted = np.exp(chance.uniform(-3, 3, 260))
        measured = noisy(predicted, chance)
        low, high = calibrate(predicted[:60], measured[:60], level).bounds(predicted[60:])
        shares.append(np.mean((low <= measured[60:]) & (measured[60:] <= high)))
    assert np.mean(shares) == pytest.approx(ceil(61 * level) / 61, abs=0.01)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20), st.floats(0.05, 0.99))
def test_an_interval_holds_its_prediction(measured: list[float], level: float) -> None:
    found = calibrate(np.ones(len(measured)), np.array(measured), level)
    low, high = found.bounds(np.ones(1))
    assert 1 / MAX_WIDTH <= low[0] <= 1 <= high[0] <= MAX_WIDTH
    covered = np.mean((low[0] * (1 - 1e-9) <= measured) & (measured <= high[0] * (1 + 1e-9)))
    assert covered >= min(level, len(measured) / (len(measured) + 1)) - 1e-9


@pytest.mark.parametrize(
    ("predicted", "measured"), [([], []), ([1.0], [1.0, 1.0]), ([1.0], [float("nan")]), ([0.0], [1.0])]
)
def test_what_is_no_latency_calibrates_nothing(predicted: list[float], measured: list[float]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        calibrate(np.array(predicted), np.array(measured))
    assert caught.value.code == "training_rows_invalid"


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        calibrate(np.ones(3), np.ones(3), level)
