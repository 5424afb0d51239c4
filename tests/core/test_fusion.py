"""The two-operator rule, and what a row must say."""

import pytest

from benchfarm_core.fusion import LEAST_TIMED_MS, FusionReport, FusionRow, fused_verdict, is_fused, latency_verdict


@pytest.mark.parametrize(
    ("t1_ms", "t2_ms", "t12_ms", "fused"),
    [
        (1.0, 0.2, 1.0, True),
        (1.0, 0.2, 1.2, False),
        (1.0, 0.2, 1.1, False),  # exactly half of the shorter one is not more than half
        (1.0, 0.2, 1.0999, True),
        (0.2, 1.0, 1.0999, True),
        (1.0, 0.2, 0.5, True),
        (1.0, 0.2, 9.0, False),
    ],
)
def test_fused_is_what_saves_more_than_half_of_the_shorter_one(t1_ms, t2_ms, t12_ms, fused):
    assert is_fused(t1_ms, t2_ms, t12_ms) is fused


@pytest.mark.parametrize(
    ("by_latency", "by_profile", "counts"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True), (None, True, True)],
)
def test_a_profile_counts_before_latencies(by_latency, by_profile, counts):
    assert fused_verdict(by_latency, by_profile) is counts


@pytest.mark.parametrize(
    ("times", "spread_ms", "verdict"),
    [
        ((1.0, 0.2, 1.0), 0.09, True),
        ((1.0, 0.2, 1.0), 0.11, None),
        ((1.0, 0.2, 1.2), 0.09, False),
        ((1.0, 0.2, 1.2), 0.11, None),
        ((1.0, 0.2, 1.1), 0.0, False),
        ((1.0, LEAST_TIMED_MS / 2, 1.0), 0.0, None),
    ],
)
def test_times_that_cannot_tell_leave_it_open(times, spread_ms, verdict):
    assert latency_verdict(times[0], times[1], times[2], spread_ms) is verdict
    named = dict(zip(("t1_ms", "t2_ms", "t12_ms"), times, strict=True))
    assert FusionRow.model_validate({**PAIR, **named, "spread_ms": spread_ms}).by_latency is verdict


PAIR = {"first": "Conv", "second": "Relu"}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {**PAIR, "t1_ms": 1},
        {**PAIR, "t1_ms": 1, "t2_ms": 1, "by_profile": True},
        {**PAIR, "t1_ms": 1, "t2_ms": 1, "t12_ms": 0},
        {**PAIR, "t1_ms": 1, "t2_ms": 1, "t12_ms": 1e10},
        {**PAIR, "by_profile": True, "by_latency": True},
        {**PAIR, "by_profile": 1},
        {**PAIR, "by_profile": True, "spread_ms": 0.1},
        {**PAIR, "t1_ms": 1, "t2_ms": 1, "t12_ms": 1, "spread_ms": -0.1},
        {"first": "Conv 2", "second": "Relu", "by_profile": True},
        {"first": "", "second": "Relu", "by_profile": True},
    ],
)
def test_a_row_without_sense_is_none(row):
    with pytest.raises(ValueError, match="validation error"):
        FusionRow.model_validate(row)


def test_the_verdict_on_latencies_is_made_of_the_times():
    assert FusionRow(first="Conv", second="Relu", t1_ms=1, t2_ms=0.2, t12_ms=1).by_latency is True
    assert FusionRow(first="Conv", second="Relu", by_profile=True).by_latency is None


def test_a_pair_is_told_once():
    row = {**PAIR, "by_profile": True}
    with pytest.raises(ValueError, match="twice"):
        FusionReport.model_validate({"rows": [row, row]})
    with pytest.raises(ValueError, match="at least 1"):
        FusionReport(rows=())
