"""Blocks between two quiet canaries: which count, what they tell, when they are enough."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS, Protocol, in_situ
from benchfarm_core.quality import CanaryGolden, is_noisy, lease_canaries, summarise, wants_more_launches
from benchfarm_core.quiet_blocks import QuietTime, has_clock_points, patience_ms, quiet_time
from benchfarm_core.summaries import Grade, Summary
from tests.core.test_quality import launch

KERNEL = PROTOCOLS["kernel"]
GOLDEN = CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000)
BLOCK_NS = 210_000
ITERATIONS = launch(0, [BLOCK_NS]).iterations
PER_ROW = 5
"""Blocks between two points: the first five last a millisecond and more."""


def pointed(number: int, clocks_ns: list[int], *, kernel_share: float = 1.0, seed: int = 0) -> LaunchSamples:
    """A launch that met these clocks at its points, one after the other; blocks follow what lies beside them.

    kernel_share: the power with which the kernel follows the clock.
    """
    rng = random.Random(f"{seed}:{number}")
    blocks = []
    for before, behind in pairwise(clocks_ns):
        slow = ((before * behind) ** 0.5 / 80_000) ** kernel_share
        blocks += [round(BLOCK_NS * slow * (1 + 0.01 * rng.random())) for _ in range(PER_ROW)]
    made = launch(number, blocks)
    sgemm = tuple((PER_ROW * place, ns) for place, ns in enumerate(clocks_ns))
    return made.model_copy(update={"canaries": {"sgemm": sgemm, "mobilenet": ((0, 500_000),)}})


def quiet(number: int, **how: float) -> LaunchSamples:
    return pointed(number, [80_000] * 9, **how)  # type: ignore[arg-type]


def told(launches: list[LaunchSamples]) -> Summary:
    found = summarise(
        launches, protocol=KERNEL, golden=GOLDEN, clock_proof=ClockProof.UNPINNED, beside=lease_canaries(launches)
    )
    assert isinstance(found, Summary)
    return found


def by(launches: list[LaunchSamples], protocol: Protocol) -> float:
    """The normalised time in a lease that met 74 us once."""
    lease = CanaryGolden(sgemm_ns=74_000, mobilenet_ns=500_000)
    found = summarise(launches, protocol=protocol, golden=GOLDEN, clock_proof=ClockProof.UNPINNED, beside=lease)
    assert isinstance(found, Summary)
    assert found.normalised_ms is not None
    return found.normalised_ms


def time_of(launches: list[LaunchSamples], clock_ns: int = 80_000) -> QuietTime:
    found = quiet_time([(one, [True] * len(one.blocks_ns)) for one in launches], KERNEL, clock_ns)
    assert found is not None
    return found


def test_where_blocks_waited_the_loud_run_is_theirs_before_and_the_quiet_one_theirs_behind() -> None:
    made = launch(0, [BLOCK_NS // 2] * PER_ROW + [BLOCK_NS] * PER_ROW)  # they would tell the time, if they spoke
    runs = ((0, 80_000), (PER_ROW, 200_000), (PER_ROW, 80_000), (2 * PER_ROW, 80_000))
    waited = made.model_copy(update={"canaries": {"sgemm": runs, "mobilenet": ((0, 500_000),)}})
    assert time_of([waited]).time_ns == BLOCK_NS / ITERATIONS
    never_quiet = made.model_copy(update={"canaries": {"sgemm": (runs[0], runs[1], runs[1], runs[3])}})
    assert quiet_time([(never_quiet, [True] * (2 * PER_ROW))], KERNEL, 80_000) is None


@pytest.mark.parametrize(
    ("measurements", "waited_ms", "left_ms"),
    [(1, 0, 1600), (10, 0, 1600), (40, 0, 6400), (40, 6000.5, 399), (40, 9e9, 0)],
)
def test_a_lease_waits_for_each_visit_that_it_may_make(measurements: int, waited_ms: float, left_ms: int) -> None:
    protocol = KERNEL.model_copy(update={"quiet_wait_ms": 20, "launches_max": 8})
    assert patience_ms(protocol, measurements, waited_ms) == left_ms
    assert patience_ms(in_situ(protocol), measurements, waited_ms) == 0


def test_blocks_beside_a_slow_canary_on_either_side_do_not_count() -> None:
    slow = 97_000  # 21 % above the lease's fastest
    one = time_of([pointed(0, [80_000, slow, 80_000, 80_000])])
    assert one.time_ns < BLOCK_NS * 1.01 / ITERATIONS
    launch_without = pointed(0, [80_000, slow, 80_000, slow])
    assert quiet_time([(launch_without, [True] * 15)], KERNEL, 80_000) is None


def test_what_is_left_of_the_clock_is_divided_out_in_part() -> None:
    flat = time_of([quiet(0)]).time_ns
    faster = time_of([pointed(0, [74_000] * 9)], clock_ns=74_000).time_ns
    assert faster / flat == pytest.approx(74 / 80, rel=0.005), "at the lease's own clock nothing is divided"
    within = time_of([pointed(0, [88_000] * 9)]).time_ns
    assert within / flat == pytest.approx(1.1**0.4, rel=0.005)


def test_a_loud_launch_does_not_move_the_number() -> None:
    alone = told([quiet(number) for number in range(3)])
    loud = [pointed(number, [80_000, 140_000] * 5) for number in range(3, 6)]
    assert told([quiet(0), quiet(1), quiet(2), *loud]).normalised_ms == pytest.approx(alone.normalised_ms, rel=0.002)


def test_one_launch_that_met_a_faster_mode_moves_it_by_a_part() -> None:
    """By floors the mean of the two lowest lies in the middle between the modes."""
    usual = [quiet(number) for number in range(3)]
    met = [pointed(0, [74_000, 74_000, *[80_000] * 7]), *usual[1:]]
    by_floors = abs(by(met, in_situ(KERNEL)) / by(usual, in_situ(KERNEL)) - 1)
    assert by_floors > 0.03
    assert abs(by(met, KERNEL) / by(usual, KERNEL) - 1) < by_floors / 3


def test_too_few_quiet_blocks_want_more_launches_and_are_noisy_in_the_end() -> None:
    loud = [pointed(number, [80_000 if number == 0 else 130_000, *[130_000] * 8]) for number in range(3)]
    lease = CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000)
    assert wants_more_launches(loud, KERNEL, lease=lease)
    assert is_noisy(loud, KERNEL, GOLDEN, lease)
    calm = [quiet(number) for number in range(3)]
    assert not wants_more_launches(calm, KERNEL, lease=lease)
    assert not is_noisy(calm, KERNEL, GOLDEN, lease)


def test_launches_go_on_while_their_mobilenets_would_make_them_noisy() -> None:
    lease = CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000)
    calm = [quiet(number) for number in range(3)]
    beside = [one.model_copy(update={"canaries": {**one.canaries, "mobilenet": ((0, 600_000),)}}) for one in calm]
    assert is_noisy([calm[0], *beside[1:]], KERNEL, GOLDEN, lease)
    assert wants_more_launches([calm[0], *beside[1:]], KERNEL, lease=lease)
    assert not wants_more_launches([*calm[:2], beside[2]], KERNEL, lease=lease)
    held_to_their_own = lease.model_copy(update={"sgemm_ns": None})
    assert not wants_more_launches([calm[0], *beside[1:]], KERNEL, lease=held_to_their_own), "as uploads are"


def test_every_launch_that_is_asked_for_speaks_before_none_is_added() -> None:
    calm = [quiet(number) for number in range(2)]
    loud = pointed(2, [130_000] * 9)
    lease = CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000)
    assert wants_more_launches([*calm, loud], KERNEL, lease=lease), "two of three spoke"
    assert not is_noisy([*calm, loud], KERNEL, GOLDEN, lease), "which is enough where none is left"
    assert told([*calm, loud]).grade is Grade.C
    assert not wants_more_launches([*calm, loud, quiet(3)], KERNEL, lease=lease)


def test_launches_that_lie_apart_are_added_to() -> None:
    steady = [quiet(0), quiet(1)]
    third = quiet(2)
    slower = third.model_copy(update={"iterations": round(ITERATIONS / 1.25)})
    assert wants_more_launches([*steady, slower], KERNEL)
    assert told([*steady, slower]).grade is Grade.D
    assert not wants_more_launches([*steady, third], KERNEL)


def test_a_crowd_is_asked_for_agreement_and_not_for_quiet() -> None:
    loud = [pointed(number, [130_000] * 9) for number in range(3)]
    crowded = [one.model_copy(update={"switches": (0, 0, 1) * 13 + (0,)}) for one in loud]
    lease = CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000)
    assert is_noisy(loud, KERNEL, GOLDEN, lease)
    assert not is_noisy(crowded, KERNEL, GOLDEN, lease)


def test_rows_of_a_runner_without_clock_points_are_none() -> None:
    """Two points 8 ms apart say nothing of the blocks between them; floors do."""
    one = quiet(0)
    sgemm = ((0, 80_000), (len(one.blocks_ns), 80_000))
    bare = one.model_copy(update={"canaries": {"sgemm": sgemm, "mobilenet": ((0, 500_000),)}})
    assert not has_clock_points([bare], KERNEL)
    assert has_clock_points([one], KERNEL)
    assert not has_clock_points([one], in_situ(KERNEL))
    assert not wants_more_launches([bare] * 3, KERNEL)
    assert not is_noisy([bare] * 3, KERNEL, GOLDEN, GOLDEN)


def test_a_slow_canary_stretches_its_rows() -> None:
    one = quiet(0)
    sparse = tuple((place, 400_000) for place in range(0, len(one.blocks_ns) + 1, 20))
    far = one.model_copy(update={"canaries": {"sgemm": sparse, "mobilenet": ((0, 500_000),)}})
    assert has_clock_points([far], KERNEL), "twenty blocks last 4.2 ms, twelve runs of that canary 4.8 ms"


def test_one_block_that_is_longer_than_a_row_lies_between_its_points() -> None:
    blocks = (5_000_000,) * 5
    sgemm = tuple((place, 80_000) for place in range(6))
    long = launch(0, list(blocks)).model_copy(update={"canaries": {"sgemm": sgemm, "mobilenet": ((0, 500_000),)}})
    found = time_of([long, long])
    assert found.enough
    assert found.time_ns == 5_000_000 / long.iterations


def test_a_point_behind_more_blocks_than_there_are_is_none() -> None:
    """Those who store samples refuse them; the rule does not break on one that nobody refused."""
    one = quiet(0)
    places = one.canaries["sgemm"]
    stray = one.model_copy(update={"canaries": {"sgemm": (*places, (len(one.blocks_ns) + 1, 80_000), (2**31, 80_000))}})
    assert time_of([stray, stray]) == time_of([one, one])


def test_what_is_noisy_is_told_by_the_launches_that_tell_the_time() -> None:
    """One launch alone was quiet; of another too few blocks are clean for the time, though two of them were quiet."""
    alone, loud = quiet(0), [pointed(number, [130_000] * 9) for number in (1, 2)]
    torn = quiet(3).model_copy(update={"switches": (0,) * 3 + (1,) * (len(alone.blocks_ns) - 3)})
    lease = CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000)
    assert is_noisy([alone, *loud], KERNEL, GOLDEN, lease)
    assert is_noisy([alone, *loud, torn], KERNEL, GOLDEN, lease), "else its floors would answer, and unmarked"


def test_without_the_clock_of_the_lease_launches_are_held_to_their_own() -> None:
    """As uploads are: their lease is timed beside a stranger's file."""
    slow = [pointed(number, [130_000] * 9) for number in range(3)]
    assert wants_more_launches(slow, KERNEL, lease=CanaryGolden(sgemm_ns=80_000, mobilenet_ns=500_000))
    assert not wants_more_launches(slow, KERNEL, lease=CanaryGolden(mobilenet_ns=500_000))
    assert not is_noisy(slow, KERNEL, CanaryGolden())


@pytest.mark.parametrize("seed", range(40))
def test_what_is_enough_for_launches_to_end_is_enough_to_be_told(seed: int) -> None:
    """The agent asks the one, the farm the other."""
    rng = random.Random(seed)
    modes = ((76_000, 82_000, 82_500, 110_000), (82_000, 90_000, 99_000), (110_000, 82_000, 150_000))[seed % 3]
    launches: list[LaunchSamples] = []
    while not launches or wants_more_launches(launches, KERNEL, lease=lease_canaries(launches)):
        clocks = [rng.choice(modes) for _ in range(9)]
        launches.append(pointed(len(launches), clocks, kernel_share=0.3 * (seed % 4), seed=seed))
    if len(launches) < KERNEL.launches_max:
        assert not is_noisy(launches, KERNEL, CanaryGolden(), lease_canaries(launches))
        assert told(launches).grade <= Grade.B
    else:
        assert seed % 3 != 1, "two of three points are quiet there"


_RUN_NS = st.integers(70_000, 90_000) | st.sampled_from((1, 2, 80_000, 10_000_000, 2**53 - 1))
_POINTS = st.lists(st.tuples(st.integers(0, 9) | st.sampled_from((2**31 - 1,)), _RUN_NS), max_size=9).map(tuple)


@st.composite
def _any_launch(draw: Any, number: int) -> LaunchSamples:
    """Whatever a runner can say that is a launch at all."""
    blocks = draw(st.lists(_RUN_NS, min_size=1, max_size=7))
    waits = st.lists(st.sampled_from((0, 1, 2**31 - 1)), min_size=len(blocks), max_size=len(blocks)).map(tuple)
    each = st.just((0,) * len(blocks)) | waits
    changes = {"iterations": draw(st.sampled_from((1, 7, 10_000_000))), "delays_ns": draw(each), "switches": draw(each)}
    canaries = draw(st.dictionaries(st.sampled_from(("sgemm", "mobilenet")), _POINTS))
    return launch(number, blocks).model_copy(update={**changes, "canaries": canaries})


@given(st.data(), st.sampled_from(("kernel", "quick", "standard")), st.booleans())
def test_any_samples_come_to_an_answer_whatever_their_order(data: st.DataObject, name: str, in_a_lease: bool) -> None:
    launches = [data.draw(_any_launch(number)) for number in range(data.draw(st.integers(1, 4)))]
    turned = [
        one.model_copy(update={"canaries": {name: runs[::-1] for name, runs in one.canaries.items()}})
        for one in reversed(launches)
    ]
    answers = []
    for found in (launches, turned):
        lease = lease_canaries(found) if in_a_lease else None
        arguments = {"protocol": PROTOCOLS[name], "golden": GOLDEN, "clock_proof": ClockProof.UNPINNED}
        summary = summarise(found, **arguments, beside=lease)  # type: ignore[arg-type]
        wanted = wants_more_launches(found, PROTOCOLS[name], lease=lease)
        answers.append((summary, wanted, is_noisy(found, PROTOCOLS[name], GOLDEN, lease)))
    assert answers[0] == answers[1]
    assert isinstance(answers[0][0], (Summary, FailureCode))
