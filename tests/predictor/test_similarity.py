"""Similarity of platforms: the least divergence first, by hand and by what it must not see."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.similarity import LEAST_COMMON, divergence, rank_donors
from tests.predictor.rows import drawn, noisy, roofline_ms

TARGET = roofline_ms(drawn("conv-bn-act", 60))


def test_the_divergence_by_hand() -> None:
    """(1/4, 3/4) against (1/2, 1/2): ln(1/2) / 4 + 3 ln(3/2) / 4."""
    found = divergence(np.array([1.0, 3.0]), np.array([5.0, 5.0]))
    assert found == pytest.approx(math.log(0.5) / 4 + 3 * math.log(1.5) / 4)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3))
def test_speed_does_not_count_and_shape_does(seed: int, factor: float) -> None:
    other = noisy(TARGET, 0.5, seed)
    assert divergence(factor * TARGET, TARGET) == pytest.approx(0, abs=1e-12)
    assert divergence(factor * other, TARGET) == pytest.approx(float(divergence(other, TARGET)), rel=1e-6)
    assert divergence(other, TARGET) > 0


def test_the_most_alike_comes_first() -> None:
    donors = {
        "a-stranger": noisy(TARGET, 1.5),
        "neighbour": 7 * noisy(TARGET, 0.05),
        "cousin": noisy(TARGET, 0.3),
        "turned": 1 / TARGET,
    }
    ranked = rank_donors(TARGET, donors)
    assert [each.donor for each in ranked] == ["neighbour", "cousin", "a-stranger", "turned"]
    assert [each.is_near for each in ranked] == [True, True, False, False]
    assert ranked[0].log_ratio_variance == pytest.approx(0.05**2, rel=0.5)
    assert ranked[0].spearman == pytest.approx(1, abs=0.05)
    assert ranked[-1].spearman == pytest.approx(-1)
    assert all(each.low <= each.divergence * 1.05 and each.divergence <= each.high * 1.05 for each in ranked)


def test_among_equals_the_name_decides_and_the_bound_is_the_callers() -> None:
    ranked = rank_donors(TARGET, {"b": 2 * TARGET, "a": 2 * TARGET}, bound=0.0)
    assert [(each.donor, each.is_near) for each in ranked] == [("a", False), ("b", False)]


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    donors = {"cousin": noisy(TARGET, 0.3)}
    assert rank_donors(TARGET, donors, seed=1) == rank_donors(TARGET, donors, seed=1)
    assert rank_donors(TARGET, donors, seed=1)[0].low != rank_donors(TARGET, donors, seed=2)[0].low


def test_what_a_donor_has_not_is_left_aside() -> None:
    partly = np.where(np.arange(60) < 40, 3 * TARGET, np.nan)
    barely = np.where(np.arange(60) < LEAST_COMMON - 1, TARGET, np.nan)
    [found] = rank_donors(TARGET, {"partly": partly, "barely": barely})
    assert (found.donor, found.count, found.divergence) == ("partly", 40, pytest.approx(0, abs=1e-12))
    assert rank_donors(TARGET, {"barely": barely}) == ()
    assert [each.donor for each in rank_donors(TARGET, {"barely": barely}, least=LEAST_COMMON - 1)] == ["barely"]


@pytest.mark.parametrize("donor", [np.ones(3), np.zeros(60), np.full(60, -1.0), np.full(60, np.inf)])
def test_what_is_no_latency_is_refused(donor: np.ndarray) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rank_donors(TARGET, {"donor": donor})
    assert caught.value.code == "training_rows_invalid"


def test_constant_latencies_are_alike_and_without_ranks() -> None:
    [found] = rank_donors(np.ones(20), {"constant": np.full(20, 3.0)})
    assert (found.divergence, found.spearman) == (0, None)
