"""The time of a second copy, on made-up launches of two carriers."""

from random import Random
from statistics import fmean, median
from typing import Any

import pytest

from benchfarm_core.differences import ROUNDS_MIN, Difference, difference_of
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.failures import FailureCode
from benchfarm_core.intervals import middle_of
from benchfarm_core.measurements import LaunchSamples, MeasurementResult, SideSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import (
    CanaryGolden,
    clean_blocks,
    launch_floor_ns,
    launch_median_ns,
    summarise,
    wants_more_launches,
)
from benchfarm_core.result_checks import check_result
from benchfarm_core.summaries import Grade, Summary

KERNEL = PROTOCOLS["kernel"]
ONCE_NS, PAIRS = 100_000, 6


def doubled(
    number: int = 0,
    kernel_ns: float = 40_000,
    *,
    rounds: int = 8,
    luck: float = 0.0,
    noise: float = 0.0,
    slowness: float = 1.0,
    disturbed: frozenset[int] = frozenset(),
    seed: int = 0,
) -> LaunchSamples:
    """A launch of a carrier that takes 100 us once. luck: of each opening, noise: of each block, as shares."""
    rng = Random(f"{seed}/{number}")
    once: list[int] = []
    twice: list[int] = []
    for _ in range(rounds):
        sides = [ns * slowness * (1 + rng.gauss(0, luck)) for ns in (ONCE_NS, ONCE_NS + kernel_ns)]
        for _ in range(PAIRS):
            for blocks, runs, ns in ((once, 3, sides[0]), (twice, 2, sides[1])):
                blocks.append(round(ns * runs * (1 + abs(rng.gauss(0, noise)))))
    for place in disturbed:
        twice[place] *= 3
    count, switches = rounds * PAIRS, [int(place in disturbed) for place in range(rounds * PAIRS)]
    same: dict[str, Any] = {"open_ms": 1, "first_ms": 1, "warmup_runs": 3, "gate_relative_l2": 0.0, "timed_ms": 9}
    beside = SideSamples(
        iterations=2,
        blocks_ns=tuple(twice),
        delays_ns=(0,) * count,
        switches=tuple(switches),
        rounds=(PAIRS,) * rounds,
        threads=1,
        **same,
    )
    return LaunchSamples(
        launch_no=number,
        iterations=3,
        blocks_ns=tuple(once),
        delays_ns=(0,) * count,
        switches=(0,) * count,
        canaries={"sgemm": ((0, 100_000),), "mobilenet": ((0, 500_000),)},
        canary_ms=3,
        beside=beside,
        **same,
    )


def told(launch: LaunchSamples) -> Difference:
    found = difference_of(launch, clean_blocks(launch))
    assert found is not None
    return found


def derive(launches: list[LaunchSamples]) -> Summary | FailureCode:
    golden = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)
    return summarise(launches, protocol=KERNEL, golden=golden, clock_proof=ClockProof.UNPINNED)


def test_what_both_sides_share_cancels() -> None:
    found = told(doubled())
    assert found.median_ns == pytest.approx(40_000)
    assert found.floor_ns == pytest.approx(40_000)
    assert found.half_ns == pytest.approx(0, abs=1)
    assert found.is_clear


def test_the_luck_of_openings_is_in_the_interval() -> None:
    covered = 0
    for seed in range(200):
        found = told(doubled(luck=0.01, seed=seed))
        covered += abs(found.floor_ns - 40_000) <= found.half_ns
    assert covered >= 180


def test_noise_that_only_adds_time_is_less_in_the_floor_than_in_the_median() -> None:
    errors = [
        (abs(found.floor_ns - 40_000), abs(found.median_ns - 40_000))
        for found in (told(doubled(noise=0.05, seed=seed)) for seed in range(50))
    ]
    assert sum(floor for floor, _ in errors) < sum(median for _, median in errors)


def test_disturbed_pairs_do_not_count_on_either_side() -> None:
    launch = doubled(disturbed=frozenset({0, 7, 8}))
    assert [place for place, ok in enumerate(clean_blocks(launch)) if not ok] == [0, 7, 8]
    assert told(launch).floor_ns == pytest.approx(40_000)
    on_the_first_side = launch.model_copy(update={"switches": (1,) * 6 + (0,) * 42})
    assert [place for place, ok in enumerate(clean_blocks(on_the_first_side)) if not ok] == [*range(6), 7, 8]


def test_too_few_rounds_say_nothing() -> None:
    assert told(doubled(rounds=ROUNDS_MIN)).floor_ns == pytest.approx(40_000)
    assert difference_of(doubled(rounds=ROUNDS_MIN - 1), [True] * PAIRS * (ROUNDS_MIN - 1)) is None
    crowded = doubled(disturbed=frozenset(range(44)))
    assert difference_of(crowded, clean_blocks(crowded)) is None
    assert launch_median_ns(crowded) is None
    assert difference_of(doubled().model_copy(update={"beside": None}), [True] * 48) is None


def test_a_summary_is_that_of_the_difference() -> None:
    summary = derive([doubled(number) for number in range(3)])
    assert isinstance(summary, Summary)
    assert summary.median_ms == pytest.approx(0.04)
    assert summary.normalised_ms == pytest.approx(0.04)
    assert (summary.low_ms, summary.high_ms) == (pytest.approx(0.04), pytest.approx(0.04))
    assert (summary.grade, summary.launches, summary.blocks, summary.clean_share) == (Grade.A, 3, 3 * 48, 1.0)


def test_the_normalised_difference_is_the_middle_of_launches_for_noise_goes_both_ways() -> None:
    summary = derive([doubled(number, ns) for number, ns in enumerate((38_800, 40_000, 41_200))])
    assert isinstance(summary, Summary)
    assert summary.normalised_ms == pytest.approx(0.04)


def test_the_same_noise_is_a_worse_grade_of_a_smaller_kernel() -> None:
    spreads = []
    for kernel_ns in (400_000, 40_000, 4_000):
        summary = derive([doubled(number, kernel_ns, luck=0.005) for number in range(3)])
        assert isinstance(summary, Summary)
        spreads.append(summary.spread)
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.02
    assert spreads[2] > 0.03


def test_launches_that_agree_by_luck_keep_the_spread_of_their_rounds() -> None:
    same = doubled(luck=0.005, seed=4)
    summary = derive([same.model_copy(update={"launch_no": number}) for number in range(3)])
    assert isinstance(summary, Summary)
    assert summary.spread == pytest.approx(told(same).spread)
    assert summary.spread > 0.005


@pytest.mark.parametrize("kernel_ns", [0, 300])
def test_a_difference_within_its_uncertainty_is_no_answer(kernel_ns: float) -> None:
    launches = [doubled(number, kernel_ns, luck=0.01, seed=3) for number in range(8)]
    assert any(told(launch).is_clear for launch in launches)
    assert derive(launches) is FailureCode.DIFFERENCE_UNCLEAR
    assert wants_more_launches(launches[:5], KERNEL)


def test_a_launch_counts_whatever_it_saw() -> None:
    """To leave out what a launch alone cannot tell from noise would leave out the low ones: validity asks no value."""
    launches = [doubled(number, 1_200, luck=0.01, seed=2) for number in range(8)]
    floors_ns = [told(launch).floor_ns for launch in launches]
    assert 2 <= sum(not told(launch).is_clear for launch in launches) <= 6
    assert [launch_floor_ns(launch) for launch in launches] == floors_ns
    summary = derive(launches)
    assert isinstance(summary, Summary)
    assert summary.launches == 8
    assert summary.median_ms == pytest.approx(median(told(launch).median_ns for launch in launches) / 1e6)
    assert summary.normalised_ms == pytest.approx(median(floors_ns) / 1e6)
    assert summary.grade is Grade.D


def test_what_is_told_of_a_small_kernel_is_not_drawn_upwards() -> None:
    """Of single launches that are clear the middle would be a quarter above the truth."""
    kernel_ns, found = 1_200, []
    for seed in range(40):
        summary = derive([doubled(number, kernel_ns, luck=0.01, seed=seed) for number in range(8)])
        found += [summary.median_ms * 1e6] if isinstance(summary, Summary) else []
    assert len(found) >= 36
    assert fmean(found) == pytest.approx(kernel_ns, rel=0.08)


def test_a_kernel_takes_no_negative_time() -> None:
    """Two launches in which neighbours sat on the carrier that is taken off, of eight."""
    odd = [doubled(number, -2_000) for number in (6, 7)]
    summary = derive([*(doubled(number) for number in range(5)), odd[0]])
    assert isinstance(summary, Summary)
    assert (summary.median_ms, summary.low_ms) == (pytest.approx(0.04), 0.0)
    assert summary.grade is Grade.D
    assert wants_more_launches([doubled(0), *odd], KERNEL)
    assert derive([doubled(0), *odd]) is FailureCode.DIFFERENCE_UNCLEAR


def test_few_launches_that_are_clear_by_luck_do_not_speak_for_the_others() -> None:
    clear = [doubled(number) for number in range(3)]
    unclear = [doubled(number, 0, luck=0.01, seed=1) for number in range(3, 8)]
    assert derive([*clear, *unclear]) is FailureCode.DIFFERENCE_UNCLEAR
    assert isinstance(derive([*clear, unclear[0]]), Summary)


def test_too_few_undisturbed_launches_are_contended() -> None:
    lost = doubled(2, disturbed=frozenset(range(44)))
    assert derive([doubled(0), doubled(1), lost]) is FailureCode.CONTENDED


def test_a_slow_launch_shows_in_the_spread() -> None:
    slow = [doubled(0), doubled(1), doubled(2, slowness=1.3)]
    summary = derive(slow)
    assert isinstance(summary, Summary)
    assert summary.grade is Grade.D
    assert wants_more_launches(slow, KERNEL)


def test_a_second_side_comes_with_a_time_by_difference_and_with_no_other() -> None:
    def result(launch: LaunchSamples) -> MeasurementResult:
        return MeasurementResult(measurement_id=1, outcome="ok", launches=(launch,))

    both, single = result(doubled()), result(doubled().model_copy(update={"beside": None}))
    check_result(both, KERNEL, "difference")
    check_result(single, KERNEL, "profiler")
    check_result(single, KERNEL)
    for wrong, way in ((single, "difference"), (both, "profiler"), (both, None)):
        with pytest.raises(InvalidRequest, match="two sides"):
            check_result(wrong, KERNEL, way)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "precision", "way"),
    [
        ("onnxruntime", "int8", "profiler"),
        ("mnn", "fp32", "profiler"),
        ("litert", "fp32", "difference"),
        ("ncnn", "fp32", "difference"),
        ("torch", "fp32", "difference"),
        ("ncnn", "int8", None),
        ("litert", "as_given", None),
        ("torch_cuda", "fp32", None),
        ("onnxruntime_cuda", "fp32", None),
    ],
)
def test_each_engine_has_one_way_or_none(engine: str, precision: str, way: str | None) -> None:
    assert in_situ_by(engine, precision) == way


def test_the_middle_of_few_values_does_not_follow_a_wild_one() -> None:
    middle, interval = middle_of([1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02, 50.0], 0.95)
    assert 0.95 < middle < 1.1
    assert interval.low > 0.9
    single, whole = middle_of([2.0], 0.95)
    assert (single, whole.low, whole.high, whole.coverage) == (2.0, 2.0, 2.0, 0.0)
