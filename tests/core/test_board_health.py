from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchfarm_core.board_health import (
    BUDGET_S,
    CANARIES,
    DAY_S,
    GOLDEN_SUITE,
    HISTORY_MIN,
    PLATFORM_S,
    PLATFORMS_MAX,
    GoldenOutcome,
    GoldenReason,
    GoldenTime,
    LastGolden,
    golden_platforms,
    is_out,
    judge,
    left_out_text,
    spread_row,
    why_due,
)
from benchfarm_core.platforms import ClockProof, parse_platform_key
from benchfarm_core.protocols import GOLDEN, PROTOCOLS

NOW = datetime(2026, 11, 22, tzinfo=UTC)
STEADY, DRIFTED, BEGUN = GoldenOutcome.STEADY, GoldenOutcome.DRIFTED, GoldenOutcome.BEGUN
NAMES = (*GOLDEN_SUITE, *CANARIES)


def last(**changes: Any) -> LastGolden:
    fields: dict[str, Any] = {"wanted_at": NOW, "ended_at": NOW, "generation_id": 1, "boot_id": "b1", "outcome": STEADY}
    return LastGolden(**(fields | changes))


def due(known, *, after_s=60.0, **changes):
    fields: dict[str, Any] = {"generation_id": 1, "boot_id": "b1", "released_at": None, "every_s": DAY_S}
    return why_due(known, now=NOW + timedelta(seconds=after_s), **(fields | changes))


def test_when_the_suite_is_due():
    assert due(None) == GoldenReason.ENROLLED
    assert due(last()) is None
    assert due(last(), after_s=DAY_S - 1) is None
    assert due(last(), after_s=DAY_S) == GoldenReason.DAY
    assert due(last(), generation_id=2) == GoldenReason.GENERATION
    assert due(last(), boot_id="b2") == GoldenReason.REBOOTED
    assert due(last(), boot_id="") is None
    assert due(last(boot_id="")) is None
    assert due(last(), released_at=NOW + timedelta(seconds=1)) == GoldenReason.RELEASED
    assert due(last(), released_at=NOW - timedelta(seconds=1)) is None
    assert due(last(outcome=DRIFTED)) is None
    assert due(last(outcome=DRIFTED), after_s=600) == GoldenReason.AGAIN
    assert due(last(outcome=GoldenOutcome.LAPSED), after_s=600) == GoldenReason.AGAIN
    assert due(last(outcome=GoldenOutcome.FAILED), after_s=600) is None


@pytest.mark.parametrize("every_s", [DAY_S, 3600.0])
def test_a_board_has_time_for_a_reboot_however_long_the_run_that_drifted_waited_for_it(every_s):
    known = last(wanted_at=NOW - timedelta(hours=2), outcome=DRIFTED)
    assert due(known, after_s=599, every_s=every_s) is None
    assert due(known, after_s=600, every_s=every_s) == GoldenReason.AGAIN
    assert due(known, after_s=1, boot_id="b2", every_s=every_s) == GoldenReason.REBOOTED


def platforms_of(*keys):
    return dict(enumerate(map(parse_platform_key, keys)))


def test_the_suite_runs_once_on_each_engine_in_the_plainest_way():
    offered = platforms_of(
        "pi/c0-3.t4.2400000/onnxruntime-1.31.1/fp32",
        "pi/c0-3.t1.2400000/onnxruntime-1.31.1/int8",
        "pi/c0-3.t1.2400000/onnxruntime-1.31.1/fp32",
        "pi/c0-3.t1.1500000/onnxruntime-1.31.1/fp32",
        "pi/c0-3.t1.free/onnxruntime-1.31.1/fp32",
        "pi/c0-3.t1.2400000/ncnn-1/fp32",
        "pi/c0-3.t1.2400000/mnn-1~memory=low/fp32",
    )
    assert golden_platforms(offered, {}, BUDGET_S).chosen == [2, 5]  # the engine that most boards have goes first
    ungated = platforms_of("pi/c0.t1.free/litert_benchmark_model-0123/fp32")
    assert golden_platforms(ungated, {}, BUDGET_S).chosen == []


def test_a_run_fits_into_what_is_left_of_the_day():
    offered = platforms_of(*(f"pi/c0.t1.free/engine{number}-1/fp32" for number in range(5)))
    assert len(golden_platforms(offered, {}, BUDGET_S).chosen) == PLATFORMS_MAX
    assert golden_platforms(offered, {}, BUDGET_S).too_slow == []
    assert golden_platforms(offered, {}, PLATFORM_S) == ([0], [1, 2, 3, 4])
    assert golden_platforms(offered, {0: 61.0, 1: 50.0, 2: 11.0}, BUDGET_S) == ([1], [0, 2, 3, 4])
    assert golden_platforms(offered, {0: 61.0, 1: 50.0, 2: 9.0}, BUDGET_S) == ([1, 2], [0, 3, 4])
    assert golden_platforms(offered, {}, 1.0).chosen == []


def test_a_slow_board_measures_its_cheapest_platform_once_its_day_is_fresh():
    offered = platforms_of(*(f"pi/c0.t1.free/engine{number}-1/fp32" for number in range(3)))
    slow = {0: 300.0, 1: 90.0, 2: 120.0}
    assert golden_platforms(offered, slow, BUDGET_S) == ([1], [0, 2])
    assert golden_platforms(offered, slow, BUDGET_S - 0.1) == ([], [0, 1, 2])
    assert golden_platforms({}, {}, BUDGET_S) == ([], [])
    text = left_out_text([("ncnn", 300.4), ("mnn", 120.0)])
    assert text == "left out: too slow for what the day has left (ncnn 300 s, mnn 120 s)"
    assert left_out_text([]) == ""


def times(factor=1.0, *, only=NAMES, floor=None, spread=0.01):
    """Each name at its place in ms, times `factor` for `only`; floors apart where `floor` is given."""
    found = {}
    for number, name in enumerate(NAMES, 1):
        by = factor if name in only else 1.0
        found[name] = GoldenTime(number * (by if floor is None or name not in only else floor), number * by, spread)
    return found


HISTORY = [times(1 + 0.002 * number) for number in range(5)]


@pytest.mark.parametrize(
    ("now", "proof", "outcome"),
    [
        (times(1.0), ClockProof.VERIFIED, STEADY),
        (times(1.04), ClockProof.VERIFIED, STEADY),
        (times(1.09), ClockProof.VERIFIED, DRIFTED),
        (times(1.09), ClockProof.UNPINNED, STEADY),
        (times(1.25), ClockProof.UNPINNED, DRIFTED),
        (times(0.75), ClockProof.UNPINNED, DRIFTED),
        (times(1.5, only=("conv",)), ClockProof.VERIFIED, STEADY),
        (times(1.5, only=("conv", "fc")), ClockProof.VERIFIED, DRIFTED),
        (times(1.5, only=("canary-sgemm",)), ClockProof.VERIFIED, STEADY),
        (times(1.5, only=CANARIES), ClockProof.VERIFIED, DRIFTED),
        (times(1.25, spread=0.2), ClockProof.UNPINNED, STEADY),
    ],
)
def test_what_counts_as_drift(now, proof, outcome):
    found = judge(now, HISTORY, proof)
    assert found.outcome == outcome
    assert bool(found.detail) == (outcome == DRIFTED)
    assert found.share is not None


def test_a_canary_that_was_off_moves_no_workload():
    suite = tuple(GOLDEN_SUITE)
    assert judge(times(1.0, only=suite, floor=0.6), HISTORY, ClockProof.VERIFIED).outcome == STEADY
    assert judge(times(1.5, only=suite, floor=1.0), HISTORY, ClockProof.VERIFIED).outcome == STEADY
    assert judge(times(1.5, only=suite, floor=0.6), HISTORY, ClockProof.VERIFIED).outcome == STEADY


def test_a_board_whose_times_scatter_needs_to_move_further():
    wild = [times(factor) for factor in (0.8, 0.9, 1.0, 1.1, 1.2)]
    assert judge(times(1.25), wild, ClockProof.UNPINNED).outcome == STEADY
    assert judge(times(1.25), HISTORY, ClockProof.UNPINNED).outcome == DRIFTED
    assert judge(times(2.0), wild, ClockProof.UNPINNED).outcome == DRIFTED


def test_what_cannot_be_compared():
    assert judge({}, HISTORY, ClockProof.VERIFIED).outcome == GoldenOutcome.FAILED
    assert judge(times(2.0), HISTORY[: HISTORY_MIN - 1], ClockProof.VERIFIED).outcome == BEGUN
    one = {"conv": times(2.0)["conv"]}
    assert judge(one, HISTORY, ClockProof.VERIFIED).outcome == BEGUN


def test_what_moved_is_named_the_farthest_first():
    found = judge(times(1.2, only=("conv", "fc")) | times(1.0, only=()) | {}, HISTORY, ClockProof.VERIFIED)
    assert found.outcome == STEADY
    now = times(1.2, only=("conv",)) | {"fc": GoldenTime(1.5, 1.5)}
    assert judge(now, HISTORY, ClockProof.VERIFIED).detail == "fc -50 %, conv +20 %"


@pytest.mark.parametrize(
    ("outcomes", "out"),
    [
        ([DRIFTED, DRIFTED, STEADY], True),
        ([DRIFTED, GoldenOutcome.LAPSED, DRIFTED], True),
        ([DRIFTED, GoldenOutcome.FAILED, DRIFTED], True),
        ([DRIFTED, STEADY, DRIFTED], False),
        ([STEADY, DRIFTED, DRIFTED], False),
        ([DRIFTED], False),
        ([], False),
    ],
)
def test_two_drifts_in_a_row_take_a_board_out(outcomes, out):
    assert is_out(outcomes) == out


def test_units_of_one_model():
    row = spread_row("p", "conv", [("b_1", 1.0, 5), ("b_2", 1.1, 5), ("b_3", 1.2, 1)])
    assert (row.median_ms, round(row.spread, 3)) == (1.1, 0.2)
    assert [round(one.off, 3) for one in row.boards] == [-0.091, 0.0, 0.091]


def test_no_client_can_name_the_suites_protocol():
    assert GOLDEN.name not in PROTOCOLS
    assert GOLDEN.id not in {protocol.id for protocol in PROTOCOLS.values()}
