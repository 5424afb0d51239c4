"""Shares and their intervals, against numbers by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.shares import Share, binomial_interval, inclusive


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


@pytest.mark.parametrize("hits", [0, 1, 60_000, 99_999, 100_000])
def test_many_trials_give_a_narrow_interval(hits: int) -> None:
    """A term of 100,000 trials is below what float64 holds long before the sum is."""
    low, high = binomial_interval(hits, 100_000)
    assert low <= hits / 100_000 <= high
    assert high - low < 0.0062
    assert (low > 0, high < 1) == (hits > 0, hits < 100_000)


def test_a_share_is_told_with_its_interval() -> None:
    found = Share.of(48, 50)
    assert found.text == "96.0 % (86.3 to 99.5)"
    assert (found.hits, found.count) == (48, 50)
    with pytest.raises(ValueError, match="3 of 2"):
        Share.of(3, 2)


def test_the_bound_itself_is_within() -> None:
    """1.05 / 1 - 1 is above 0.05 in float64."""
    assert 1.05 - 1 > 0.05
    assert 1.05 - 1 <= inclusive(0.05) < 0.0500001
