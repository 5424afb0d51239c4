"""What a profiler tells is judged by the clock that it has."""

import pytest

from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.summaries import Grade, Summary
from tests.core.test_quality import derive, launch


def test_a_profile_is_no_finer_than_its_clock() -> None:
    """Its times are whole microseconds: launches that agree on two of them agree on nothing below one."""
    ticks = [launch(n, [2000] * 20 + [3000] * 2, iterations=1) for n in range(3)]
    short = derive(ticks, protocol=PROTOCOLS["profile"])
    assert isinstance(short, Summary)
    assert (short.median_ms, short.low_ms, short.high_ms) == (0.002, 0.001, 0.003)
    assert (short.spread, short.grade) == (0.5, Grade.D)
    long = derive([launch(n, [1_000_000] * 20, iterations=1) for n in range(3)], protocol=PROTOCOLS["profile"])
    assert isinstance(long, Summary)
    assert (long.spread, long.grade) == (pytest.approx(0.001), Grade.A)
    alone = derive(ticks)
    assert isinstance(alone, Summary)
    assert (alone.spread, alone.low_ms, alone.high_ms) == (0.0, 0.002, 0.002), "a timed block has the host's clock"
