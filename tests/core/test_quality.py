"""From raw blocks to a graded number: validity by the witness alone, headline by medians."""

import random
from itertools import pairwise
from statistics import median, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.failures import FailureCode
from benchfarm_core.intervals import coverage_of, median_interval
from benchfarm_core.measurements import LaunchSamples, MeasurementResult, MemorySample, NodeSample, SideSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import (
    CanaryGolden,
    canary_floors,
    clean_blocks,
    drifted,
    grade_of,
    is_noisy,
    lease_canaries,
    spread_of,
    summarise,
    unenforced,
    wants_more_launches,
)
from benchfarm_core.result_checks import check_result
from benchfarm_core.summaries import Grade, Summary

KERNEL = PROTOCOLS["kernel"]
STANDARD = PROTOCOLS["standard"]


def launch(
    number: int,
    blocks_ns: list[int],
    *,
    switches: list[int] | None = None,
    canary_ns: int = 100_000,
    iterations: int = 10,
) -> LaunchSamples:
    count = len(blocks_ns)
    return LaunchSamples(
        launch_no=number,
        iterations=iterations,
        blocks_ns=tuple(blocks_ns),
        delays_ns=(0,) * count,
        switches=tuple(switches or [0] * count),
        canaries={"mobilenet": ((0, 500_000), (count, 800_000)), "sgemm": ((0, canary_ns), (count, canary_ns * 2))},
        open_ms=1,
        first_ms=1,
        warmup_runs=3,
        gate_relative_l2=1e-6,
        timed_ms=60,
        canary_ms=3,
    )


def derive(launches: list[LaunchSamples], **changes: object) -> Summary | FailureCode:
    arguments: dict[str, object] = {
        "protocol": KERNEL,
        "golden": CanaryGolden(mobilenet_ns=500_000, sgemm_ns=100_000),
        "clock_proof": ClockProof.UNPINNED,
    }
    return summarise(launches, **(arguments | changes))  # type: ignore[arg-type]


def test_the_headline_is_the_median_of_launch_medians_per_iteration() -> None:
    summary = derive([launch(n, [ns] * 9 + [ns * 5]) for n, ns in enumerate((1_000_000, 1_010_000, 1_300_000))])
    assert isinstance(summary, Summary)
    assert summary.median_ms == pytest.approx(0.101)
    assert (summary.low_ms, summary.high_ms) == (pytest.approx(0.1), pytest.approx(0.13))
    assert summary.interval_coverage == pytest.approx(0.75)


def test_two_launches_that_were_quiet_are_two_launches() -> None:
    """Three clean ones of which one was loud, by a protocol that asks for two: at best C."""
    two = KERNEL.model_copy(update={"launches_min": 2})
    loud = launch(2, [1_500_000] * 10)
    canaries = {**loud.canaries, "mobilenet": ((0, 900_000), (10, 900_000))}
    launches = [launch(n, [1_000_000] * 10) for n in range(2)]
    summary = derive([*launches, loud.model_copy(update={"canaries": canaries})], protocol=two)
    assert isinstance(summary, Summary)
    assert (summary.launches, summary.spread, summary.grade) == (3, 0.0, Grade.C)
    summary = derive([*launches, launch(2, [1_000_000] * 10)], protocol=two)
    assert isinstance(summary, Summary)
    assert summary.grade is Grade.A


def test_contaminated_blocks_are_left_out_whatever_their_value() -> None:
    disturbed = [1_000_000] * 8 + [9_000_000] * 4
    witnessed = [0] * 8 + [1] * 4
    summary = derive([launch(n, disturbed, switches=witnessed) for n in range(3)])
    assert isinstance(summary, Summary)
    assert summary.median_ms == pytest.approx(0.1)
    assert summary.clean_share == pytest.approx(8 / 12)
    slow_but_clean = derive([launch(n, disturbed) for n in range(3)])
    assert isinstance(slow_but_clean, Summary)
    assert slow_but_clean.clean_share == 1.0


def test_too_few_clean_blocks_are_inconclusive_never_guessed() -> None:
    contended = launch(0, [1_000_000] * 20, switches=[1] * 18 + [0] * 2)
    fine = launch(1, [1_000_000] * 20)
    assert derive([contended, fine, fine.model_copy(update={"launch_no": 2})]) is FailureCode.CONTENDED


def test_where_the_witness_is_not_enforced_a_contended_launch_counts_and_tells() -> None:
    contended = [launch(n, [ns] * 20, switches=[1] * 18 + [0] * 2) for n, ns in enumerate((1_000_000, 1_050_000))]
    fine = launch(2, [1_000_000] * 15 + [9_000_000] * 5, switches=[0] * 15 + [1] * 5)
    launches = [*contended, fine]
    assert derive(launches) is FailureCode.CONTENDED
    found = derive(launches, is_enforced=False)
    assert isinstance(found, Summary)
    assert (found.launches, found.blocks) == (3, 60)
    assert found.clean_share == pytest.approx((1 + 1 + 15) / 60), "what was seen"
    assert found.median_ms == pytest.approx(0.1), "of a launch with enough clean blocks the others stay out"
    assert found.high_ms == pytest.approx(0.105)
    assert unenforced(launches)[2] is fine
    assert not wants_more_launches(unenforced(launches), KERNEL)
    assert wants_more_launches(launches, KERNEL)


def test_a_crowd_is_no_failure_where_the_witness_is_not_enforced() -> None:
    crowded = [
        launch(n, [ns] * 10, switches=[0] * 6 + [1] * 4) for n, ns in enumerate((1_000_000, 1_100_000, 1_200_000))
    ]
    assert derive(crowded) is FailureCode.CONTENDED
    found = derive(crowded, is_enforced=False)
    assert isinstance(found, Summary)
    assert (found.grade, found.clean_share) == (Grade.C, 0.6)


def test_in_a_crowd_floors_that_do_not_confirm_each_other_are_no_answer() -> None:
    def beside_a_busy_loop(floors: tuple[int, ...]) -> list[LaunchSamples]:
        return [launch(n, [floor] * 10, switches=[0] * 6 + [1] * 4) for n, floor in enumerate(floors)]

    apart, near = (1_000_000, 1_100_000, 1_200_000), (1_000_000, 1_010_000, 1_020_000)
    assert derive(beside_a_busy_loop(apart)) is FailureCode.CONTENDED
    assert isinstance(derive(beside_a_busy_loop(near)), Summary)
    alone = derive([launch(n, [floor] * 10) for n, floor in enumerate(apart)])
    assert isinstance(alone, Summary), "without a crowd the same is delivered and marked"
    assert alone.grade is Grade.C


def test_the_block_after_a_disturbed_one_has_lost_its_caches() -> None:
    blocks, switches = [1_000_000, 9_000_000, 2_000_000, 1_000_000] * 3, [0, 1, 0, 0] * 3
    assert clean_blocks(launch(0, blocks, switches=switches)) == [True, False, False, True] * 3
    summary = derive([launch(n, blocks, switches=switches) for n in range(3)])
    assert isinstance(summary, Summary)
    assert (summary.median_ms, summary.clean_share) == (pytest.approx(0.1), pytest.approx(0.5))


def test_one_lucky_block_of_many_is_not_the_floor() -> None:
    lucky = derive([launch(n, [1_000_000] * 39 + [700_000]) for n in range(3)])
    assert isinstance(lucky, Summary)
    assert lucky.normalised_ms == pytest.approx(0.1)
    of_few = derive([launch(n, [1_000_000] * 9 + [700_000]) for n in range(3)])
    assert isinstance(of_few, Summary)
    assert of_few.normalised_ms == pytest.approx(0.07)


def test_a_floor_that_one_launch_alone_has_seen_counts_half() -> None:
    summary = derive([launch(n, [floor] * 10) for n, floor in enumerate((1_000_000, 900_000, 1_000_000))])
    assert isinstance(summary, Summary)
    assert summary.normalised_ms == pytest.approx(0.095)


def test_what_no_quiet_launch_saw_is_neither_in_the_number_nor_in_its_grade() -> None:
    lucky = beside_canary(launch(0, [700_000] * 10), 600_000)
    quiet = quiet_launches([1.0, 1.0, 1.002])
    summary = derive([lucky, *(one.model_copy(update={"launch_no": n}) for n, one in enumerate(quiet, start=1))])
    assert isinstance(summary, Summary)
    assert summary.normalised_ms == pytest.approx(0.1, rel=2e-3)
    assert summary.grade is Grade.A


def test_the_canaries_of_the_lease_go_before_those_beside_the_workload() -> None:
    launches = [launch(n, [1_000_000] * 10, canary_ns=125_000) for n in range(3)]
    alone, in_a_lease = derive(launches), derive(launches, beside=CanaryGolden(sgemm_ns=80_000))
    assert isinstance(alone, Summary)
    assert isinstance(in_a_lease, Summary)
    assert (alone.normalised_ms, in_a_lease.normalised_ms) == (pytest.approx(0.08), pytest.approx(0.125))
    unknown = derive(launches, beside=CanaryGolden())
    assert isinstance(unknown, Summary)
    assert unknown.normalised_ms is None


def test_normalised_is_the_floor_of_all_launches_at_the_clock_of_the_reference() -> None:
    slow_hour = [launch(n, [1_500_000] * 6 + [1_200_000 + n] * 4, canary_ns=120_000) for n in range(3)]
    summary = derive(slow_hour)
    assert isinstance(summary, Summary)
    assert summary.median_ms == pytest.approx(0.15)
    assert summary.normalised_ms == pytest.approx(0.1)
    without_reference = derive(slow_hour, golden=CanaryGolden())
    assert isinstance(without_reference, Summary)
    assert without_reference.normalised_ms is None


@pytest.mark.parametrize(
    ("floors", "grade"),
    [
        ([1.0, 1.001, 0.999], Grade.A),
        ([1.0, 1.04, 1.0], Grade.B),
        ([1.0, 1.12, 1.0], Grade.C),
        ([1.0, 1.5, 1.0], Grade.D),
        ([1.0, 1.5, 1.0, 1.9, 1.01], Grade.D),
        ([1.0, 1.0], Grade.C),
        ([1.0], Grade.C),
        ([1.0, 2.0], Grade.D),
    ],
)
def test_grades(floors: list[float], grade: Grade) -> None:
    assert grade_of(spread_of(quiet_launches(floors), KERNEL), len(floors)) is grade


def quiet_launches(floors: list[float]) -> list[LaunchSamples]:
    return [launch(n, [round(floor * 1_000_000)] * 10) for n, floor in enumerate(floors)]


def beside_canary(one: LaunchSamples, mobilenet_ns: int) -> LaunchSamples:
    return one.model_copy(update={"canaries": {**one.canaries, "mobilenet": ((0, mobilenet_ns),)}})


def test_launches_beside_a_slow_canary_have_no_say_in_the_grade() -> None:
    """A machine in its slow mode says nothing of the workload; quiet launches that took longer do."""
    quiet = quiet_launches([1.0, 1.001, 1.002])
    slow = [beside_canary(one, 600_000) for one in quiet_launches([1.5, 1.9])]
    apart = spread_of([*slow, *quiet], KERNEL, 500_000)
    assert apart == pytest.approx(0.001, rel=1e-3)
    assert spread_of([*slow, *quiet], KERNEL, 560_000) > 0.3, "the lease was never quieter than that"
    few = spread_of([*slow, *quiet[:2]], KERNEL, 500_000)
    assert few == pytest.approx(stdev((1.0, 1.001, 1.5)) / 1.001), "the quietest, as many as are needed"
    canaryless = [one.model_copy(update={"canaries": {}}) for one in quiet]
    assert spread_of(canaryless, KERNEL) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_two_launches_that_contradict_each_other_are_graded_d(name: str) -> None:
    floors = [1.0, 2.0] * max(1, PROTOCOLS[name].launches_min // 2)
    assert grade_of(spread_of(quiet_launches(floors), PROTOCOLS[name]), len(floors)) is Grade.D


def test_neighbours_that_only_add_time_change_the_headline_and_not_what_is_learnt() -> None:
    quiet = [launch(n, [1_000_000] * 20) for n in range(3)]
    noisy = [launch(n, [1_700_000] * 15 + [1_004_000] * 5) for n in range(3)]
    one, other = derive(quiet), derive(noisy)
    assert isinstance(one, Summary)
    assert isinstance(other, Summary)
    assert other.median_ms == pytest.approx(one.median_ms * 1.7)
    assert other.normalised_ms == pytest.approx(one.normalised_ms, rel=0.005)
    assert (one.grade, other.grade) == (Grade.A, Grade.A)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_an_interval_contains_the_median_and_states_its_coverage(values: list[float]) -> None:
    interval = median_interval(values)
    assert interval.low <= median(values) <= interval.high
    assert 0 <= interval.coverage <= 1
    if len(values) >= 6:
        assert interval.coverage >= 0.95


def test_coverage_is_the_share_of_draws_that_hold_the_true_median() -> None:
    chance = random.Random(5)
    for count, rank in ((3, 1), (6, 1), (10, 2)):
        held = 0
        for _ in range(4000):
            ordered = sorted(chance.random() for _ in range(count))
            held += ordered[rank - 1] <= 0.5 <= ordered[count - rank]
        assert held / 4000 == pytest.approx(coverage_of(count, rank), abs=0.03)


@settings(max_examples=50)
@given(st.lists(st.integers(10_000, 10**9), min_size=5, max_size=50), st.integers(1, 1000))
def test_scaling_every_block_scales_the_headline_and_keeps_the_grade(blocks: list[int], factor: int) -> None:
    one = derive([launch(n, blocks) for n in range(3)])
    other = derive([launch(n, [ns * factor for ns in blocks]) for n in range(3)])
    assert isinstance(one, Summary)
    assert isinstance(other, Summary)
    assert other.median_ms == pytest.approx(one.median_ms * factor)
    assert other.grade is one.grade


def test_a_contended_launch_is_replaced_while_launches_are_left() -> None:
    clean = [launch(n, [1_000_000] * 10) for n in range(3)]
    contended = launch(1, [1_000_000] * 10, switches=[1] * 10)
    assert not wants_more_launches(clean, KERNEL)
    assert wants_more_launches([clean[0], contended, clean[2]], KERNEL)
    assert not wants_more_launches([clean[0], *[contended] * (KERNEL.launches_max - 1)], KERNEL)


def test_a_floor_is_confirmed_by_other_launches_while_some_are_left() -> None:
    slow = [beside_canary(launch(n, [1_300_000] * 10), 600_000) for n in (1, 2)]
    alone = [launch(0, [1_000_000] * 10), *slow]
    assert wants_more_launches(alone, KERNEL)
    met = [*alone, launch(3, [1_001_000] * 10), launch(4, [1_002_000] * 10)]
    assert not wants_more_launches(met, KERNEL)
    summary = derive(met)
    assert isinstance(summary, Summary)
    assert summary.grade is Grade.A


def test_launches_beside_a_busy_neighbour_are_not_enough() -> None:
    """The floors agree with each other, all of them in the slow mode; the canary beside them tells."""

    def beside(number: int, mobilenet_ns: int) -> LaunchSamples:
        return beside_canary(launch(number, [1_000_000] * 10), mobilenet_ns)

    quiet = [beside(n, 500_000 + n) for n in range(3)]
    slow = [beside(n, 600_000) for n in range(3)]
    lease = lease_canaries([*quiet, *slow])
    assert lease.mobilenet_ns == 500_000
    assert not wants_more_launches(quiet, KERNEL, lease=lease)
    assert wants_more_launches([*slow[:2], quiet[2]], KERNEL, lease=lease)
    assert not wants_more_launches([*slow[:2], *quiet[1:]], KERNEL, lease=lease)
    assert not wants_more_launches([slow[0]] * KERNEL.launches_max, KERNEL, lease=lease), "none are left"
    assert lease_canaries([]) == CanaryGolden()
    drowned = [one.model_copy(update={"canaries": {}}) for one in quiet]
    assert wants_more_launches(drowned, KERNEL, lease=lease), "their canary never ran undisturbed"


@pytest.mark.parametrize("fast", [1, 5, 19, 60])
def test_the_clock_of_a_lease_does_not_hang_on_how_often_its_fast_mode_was_hit(fast: int) -> None:
    times_ns = [76_500 + n for n in range(fast)] + [83_000 + n for n in range(300 - fast)]
    random.Random(fast).shuffle(times_ns)
    seen = [beside_canary(launch(0, [1_000_000] * 10, canary_ns=ns), 500_000) for ns in times_ns]
    assert canary_floors(seen) == {"sgemm": 76_500, "mobilenet": 500_000}


@pytest.mark.parametrize(
    ("mobilenet_ns", "sgemm_ns", "noisy"),
    [
        ((500_000, 500_000, 500_000), 100_000, False),
        ((530_000, 700_000, 530_000), 100_000, False),  # two of three were near
        ((530_000, 700_000, 700_000), 100_000, True),
        ((600_000, 600_000, 600_000), 100_000, True),  # they agree with each other, all in the slow mode
        ((600_000, 600_000, 600_000), 120_000, False),  # it is the clock
        ((540_000, 540_000, 540_000), 90_000, True),  # a faster clock ought to show in both
    ],
)
def test_a_lease_is_held_to_what_the_canary_took_in_quiet_ones(
    mobilenet_ns: tuple[int, ...], sgemm_ns: int, noisy: bool
) -> None:
    quiet = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)
    launches = [
        beside_canary(launch(number, [1_000_000] * 10, canary_ns=sgemm_ns), ns)
        for number, ns in enumerate(mobilenet_ns)
    ]
    assert is_noisy(launches, KERNEL, quiet) is noisy


def test_each_launch_is_held_to_its_own_clock() -> None:
    """One that gets hot from launch to launch has no neighbours for that."""
    quiet = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)
    slower = ((0, 100_000, 500_000), (1, 111_000, 555_000), (2, 125_000, 625_000))
    launches = [beside_canary(launch(n, [1_000_000] * 10, canary_ns=sgemm), ns) for n, sgemm, ns in slower]
    assert not is_noisy(launches, KERNEL, quiet)


def test_without_canaries_nobody_knows_of_noise() -> None:
    launches = [launch(number, [1_000_000] * 10) for number in range(3)]
    bare = [one.model_copy(update={"canaries": {}}) for one in launches]
    quiet = CanaryGolden(sgemm_ns=1, mobilenet_ns=1)
    assert is_noisy(bare, KERNEL, quiet) is False
    assert is_noisy(launches, KERNEL, CanaryGolden(sgemm_ns=1)) is False
    assert is_noisy([*bare[:2], launches[2]], KERNEL, CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000))


def test_a_proven_clock_allows_no_moving_canary() -> None:
    moving = [launch(n, [1_000_000] * 10, canary_ns=100_000 + 2_000 * n) for n in range(3)]
    assert isinstance(derive(moving, clock_proof=ClockProof.UNPINNED), Summary)
    assert derive(moving, clock_proof=ClockProof.VERIFIED) is FailureCode.CANARY_DRIFT


def test_more_launches_until_narrow_or_spent() -> None:
    steady = [launch(n, [1_000_000] * 10) for n in range(6)]
    wild = [launch(n, [1_000_000 + 100_000 * n] * 10) for n in range(STANDARD.launches_max)]
    assert wants_more_launches(steady[:5], STANDARD)
    assert not wants_more_launches(steady, STANDARD)
    assert wants_more_launches(wild[:6], STANDARD)
    assert not wants_more_launches(wild, STANDARD)


def test_drift_against_history_depends_on_the_clock_proof() -> None:
    golden = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)
    assert not drifted({"sgemm": 110_000}, golden, ClockProof.UNPINNED)
    assert drifted({"sgemm": 110_000}, golden, ClockProof.VERIFIED)
    assert drifted({"sgemm": 120_000}, golden, ClockProof.UNPINNED)
    assert not drifted({"mobilenet": 900_000}, golden, ClockProof.VERIFIED), (
        "the neighbours' traffic, no fault of the board"
    )
    assert not drifted({"sgemm": 120_000}, CanaryGolden(), ClockProof.VERIFIED)


def test_the_witness_tolerates_its_own_noise() -> None:
    noisy = launch(0, [1_000_000] * 3).model_copy(update={"delays_ns": (19_000, 20_001, 500_000)})
    assert clean_blocks(noisy) == [True, False, False]
    long_blocks = launch(0, [100_000_000]).model_copy(update={"delays_ns": (1_900_000,)})
    assert clean_blocks(long_blocks) == [True]


def test_results_that_contradict_themselves_are_refused() -> None:
    one = launch(0, [1] * 5)
    stray = one.model_copy(update={"canaries": {"sgemm": ((0, 1), (6, 1))}})
    bad = [
        MeasurementResult(measurement_id=1, outcome="ok"),
        MeasurementResult(measurement_id=1, outcome="failed"),
        MeasurementResult(measurement_id=1, outcome="ok", failure=FailureCode.TIMEOUT, launches=(one,)),
        MeasurementResult(measurement_id=1, outcome="ok", launches=(one, one)),
        MeasurementResult(measurement_id=1, outcome="ok", launches=(one.model_copy(update={"switches": (0,)}),)),
        MeasurementResult(measurement_id=1, outcome="ok", launches=(stray,)),
    ]
    for result in bad:
        with pytest.raises(InvalidRequest) as caught:
            check_result(result, KERNEL)
        assert caught.value.code == "result_invalid"
    check_result(MeasurementResult(measurement_id=1, outcome="ok", launches=(one,)), KERNEL)


BESIDE = {
    name: getattr(launch(0, [1] * 5), name)
    for name in SideSamples.model_fields.keys() & LaunchSamples.model_fields.keys()
}
OF_PROTOCOLS: dict[str, dict[str, Any]] = {
    "kernel": {},
    "memory": {"memory": MemorySample.model_validate(dict.fromkeys(MemorySample.model_fields, 1))},
    "profile": {"nodes": (NodeSample(name="n", kind="Conv", ns=1),)},
    "compare": {"beside": SideSamples(rounds=(5,), threads=1, **BESIDE)},
}


@pytest.mark.parametrize("asked", OF_PROTOCOLS)
@pytest.mark.parametrize("brought", OF_PROTOCOLS)
def test_a_result_of_another_protocol_is_refused(asked: str, brought: str) -> None:
    """As an agent that does not know the protocol would measure."""
    one = launch(0, [1] * 5).model_copy(update=OF_PROTOCOLS[brought])
    result = MeasurementResult(measurement_id=1, outcome="ok", launches=(one,))
    if asked == brought:
        check_result(result, PROTOCOLS[asked])
        return
    with pytest.raises(InvalidRequest) as caught:
        check_result(result, PROTOCOLS[asked])
    assert caught.value.code == "result_invalid"


@pytest.mark.parametrize("bad", [float("nan"), -1, 0, float("inf")])
def test_impossible_times_do_not_become_samples(bad: float) -> None:
    with pytest.raises(ValueError, match="blocks_ns"):
        launch(0, [bad])  # type: ignore[list-item]


def test_protocols_ask_for_enough_launches() -> None:
    assert PROTOCOLS["kernel"].launches_min >= 3
    assert PROTOCOLS["standard"].launches_min >= 6
    ids = [protocol.id for protocol in PROTOCOLS.values()]
    assert all(one != other for one, other in pairwise(sorted(ids)))


def of_memory(number: int, peak_bytes: int, **changes: Any) -> LaunchSamples:
    """A cold start of 2 s; of the machine's memory `peak_bytes` at the most."""
    sizes = {
        "base_pss_bytes": 1000,
        "loaded_pss_bytes": peak_bytes,
        "peak_pss_bytes": peak_bytes,
        "peak_rss_bytes": peak_bytes,
        "mapped_weights_bytes": 500,
    }
    memory = MemorySample.model_validate(sizes)
    return launch(number, [20_000_000_000], **changes).model_copy(update={"memory": memory, "canaries": {}})


def test_sizes_count_whoever_else_had_the_processor() -> None:
    launches = [of_memory(n, size, switches=[99]) for n, size in enumerate((90_000, 100_000, 101_000))]
    summary = derive(launches, protocol=PROTOCOLS["memory"])
    assert isinstance(summary, Summary)
    assert (summary.launches, summary.clean_share, summary.median_ms) == (3, 0, 2000)
    assert (summary.peak_pss_bytes, summary.model_pss_bytes, summary.normalised_ms) == (100_000, 99_000, None)
    assert summary.spread == pytest.approx(stdev((90, 100, 101)) / 100)
    assert derive(launches[:2], protocol=PROTOCOLS["memory"]) is FailureCode.CONTENDED


@pytest.mark.parametrize(
    ("peaks", "wanted"),
    [((100, 100), True), ((100, 101, 102), False), ((100, 150, 102), True), ((100, 150, 102, 90, 100, 100), False)],
)
def test_launches_are_added_while_sizes_do_not_confirm_each_other(peaks: tuple[int, ...], wanted: bool) -> None:
    launches = [of_memory(n, 1000 * peak, switches=[9]) for n, peak in enumerate(peaks)]
    assert wants_more_launches(launches, PROTOCOLS["memory"]) is wanted
