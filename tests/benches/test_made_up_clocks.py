"""Made-up clocks: of a steady one the rule tells the truth, and what it misses of others is what the table shows."""

from math import pi
from statistics import median

import pytest

from bench.made_up_clocks import BLOCK_NS, CANARY_NOISE, HOSTS, ITERATIONS, STEADY, Host, measured

TRUE_MS = BLOCK_NS / ITERATIONS / 1e6


def middle_ms(host: Host, size: int) -> float:
    times = [one.time_ms for one in measured(host, size, 12) if one.time_ms is not None]
    assert times
    return median(times)


def test_of_a_steady_clock_the_truth_is_told_by_as_few_launches_as_may_be() -> None:
    """Less what single canaries are noisy by, which is the same in every lease."""
    found = measured(Host("steady", STEADY), 4, 12)
    assert {one.launches for one in found} == {3}
    above = 1 + CANARY_NOISE * (2 / pi) ** 0.5
    assert [one.time_ms for one in found] == pytest.approx([TRUE_MS / above**0.6] * 12, rel=0.005)


def test_a_canary_that_was_too_fast_lends_its_lease_a_clock() -> None:
    """The 0.4th power of it: blocks are divided by their own canaries with the 0.6th."""
    steady, lucky = Host("steady", STEADY), Host("lucky", STEADY, once_ns=72_000)
    assert middle_ms(lucky, 4) / middle_ms(steady, 4) == pytest.approx((80 / 72) ** 0.4, rel=0.01)


def test_where_the_fast_mode_is_rare_and_far_all_of_a_large_lease_is_noisy() -> None:
    rare = next(host for host in HOSTS if host.name == "25 % faster for 1 %")
    large, small = measured(rare, 60, 60), measured(rare, 1, 60)
    assert sum(one.time_ms is None for one in large) > 55
    assert sum(one.time_ms is None for one in small) < 40
