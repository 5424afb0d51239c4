"""Known and fresh is reused, pending is joined, the rest is new."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.jobs import ItemSource
from benchfarm_core.measurements import MeasurementState
from benchfarm_core.planning import OWN_PROCESS_S, Known, decide, expected_s
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import Cost

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def known(number: int, state: MeasurementState = MeasurementState.DONE, **changes: object) -> Known:
    values: dict[str, object] = {
        "measurement_id": 100 + number,
        "repeat_no": number,
        "state": state,
        "measured_at": NOW - HOUR,
        "grade": Grade.A,
        "clock_proof": ClockProof.UNPINNED,
        "fresh_generation": True,
        "is_single_use": False,
    }
    return Known.model_validate(values | changes)


def plan(measurements: list[Known], **changes: object) -> list[tuple[int, ItemSource]]:
    arguments: dict[str, object] = {
        "repeats": 1,
        "max_age_s": 86_400,
        "min_grade": Grade.C,
        "clock_proof": ClockProof.UNPINNED,
        "now": NOW,
    }
    decisions = decide(measurements, **(arguments | changes))  # type: ignore[arg-type]
    return [(decision.repeat_no, decision.source) for decision in decisions]


def test_a_fresh_result_is_reused() -> None:
    assert plan([known(0)]) == [(0, ItemSource.KNOWN)]


def test_stale_ungraded_or_foreign_generation_results_are_not() -> None:
    for one in (
        known(0, measured_at=NOW - timedelta(days=2)),
        known(0, grade=Grade.D),
        known(0, fresh_generation=False),
        known(0, MeasurementState.FAILED),
    ):
        assert plan([one]) == [(1, ItemSource.NEW)]
    assert plan([known(0, grade=Grade.B)], min_grade=Grade.A) == [(1, ItemSource.NEW)]
    assert plan([known(0)], clock_proof=ClockProof.VERIFIED) == [(1, ItemSource.NEW)]


def test_pending_work_is_joined() -> None:
    assert plan([known(0, MeasurementState.LEASED)]) == [(0, ItemSource.JOINED)]


def test_what_is_of_single_use_is_joined_and_never_reused() -> None:
    once = [known(number, state, is_single_use=True) for number, state in enumerate(MeasurementState)]
    found = plan(once, repeats=3)
    pending = [one.repeat_no for one in once if one.state in (MeasurementState.WANTED, MeasurementState.LEASED)]
    assert found == [*((number, ItemSource.JOINED) for number in pending), (len(once), ItemSource.NEW)]


def test_measure_anew_joins_only_what_still_waits() -> None:
    assert plan([known(0)], max_age_s=0) == [(1, ItemSource.NEW)]
    assert plan([known(0), known(1, MeasurementState.LEASED)], max_age_s=0) == [(2, ItemSource.NEW)]
    assert plan([known(0), known(1, MeasurementState.WANTED)], max_age_s=0) == [(1, ItemSource.JOINED)]


def test_the_youngest_results_are_taken_first() -> None:
    older = known(0, measured_at=NOW - 3 * HOUR)
    assert plan([older, known(1)]) == [(1, ItemSource.KNOWN)]


@given(st.lists(st.sampled_from(MeasurementState), max_size=12), st.integers(1, 20), st.sampled_from([0, 86_400]))
def test_every_repeat_is_a_measurement_of_its_own(states: list[MeasurementState], repeats: int, max_age_s: int) -> None:
    measurements = [known(number, state) for number, state in enumerate(states)]
    decisions = plan(measurements, repeats=repeats, max_age_s=max_age_s)
    assert len(decisions) == repeats
    assert len({number for number, _ in decisions}) == repeats
    existing = {one.repeat_no for one in measurements}
    assert all((number in existing) == (source != ItemSource.NEW) for number, source in decisions)


@given(st.integers(0, 10**12))
def test_estimates_grow_with_the_work(flops: int) -> None:
    cost = Cost(flops=flops, parameters=0, input_bytes=0, output_bytes=0, weight_bytes=0)
    more = cost.model_copy(update={"flops": flops + 10**9})
    protocol = PROTOCOLS["kernel"]
    assert 0 < expected_s(protocol, cost, None) <= expected_s(protocol, more, None)
    assert expected_s(PROTOCOLS["quick"], cost, None) < expected_s(protocol, cost, None)


def test_what_is_known_of_memory_is_a_whole_cold_start() -> None:
    protocol = PROTOCOLS["memory"]
    assert expected_s(protocol, None, 2000.0) == pytest.approx(protocol.launches_min * (OWN_PROCESS_S + 2))
    assert expected_s(protocol, None, None) == pytest.approx(protocol.launches_min * (OWN_PROCESS_S + 0.2))
