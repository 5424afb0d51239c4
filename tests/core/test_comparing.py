"""From paired blocks to a verdict, with samples made by hand: the truth is known."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from benchfarm_core.comparing import (
    CHANGES_MAX,
    LONG_BLOCK_NS,
    Comparison,
    ComparisonVerdict,
    Estimate,
    clean_pairs,
    compare,
    counts_processor_time,
    estimate,
    round_changes,
    speaks,
    unenforced_pairs,
    verdict_of,
    wants_more_pairs,
)
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import ROUNDS_MAX, LaunchSamples, SideSamples
from benchfarm_core.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["compare"]
ROUNDS, PAIRS = 8, 20
BLOCK_NS = 250_000
Machine = Callable[[random.Random, int], float]


def steady(_rng: random.Random, _pair: int) -> float:
    """A machine of one speed."""
    return 1.0


def two_modes(rng: random.Random, pair: int) -> float:
    """A machine that is 1.6 times slower for stretches of pairs, and now and then changes within one."""
    return 1.6 if (pair // 7) % 2 else 1.0 + 0.6 * (rng.random() < 0.05)


def one_launch(
    number: int,
    *,
    seed: int = 0,
    shift: float = 0.0,
    luck: float = 0.0,
    noise: float = 0.005,
    machine: Machine = steady,
    **side: Any,
) -> LaunchSamples:
    """A launch in which b takes `shift` longer; each round has a luck of its own, each block a noise of its own."""
    rng = random.Random(f"{seed}/{number}")
    a_ns: list[int] = []
    b_ns: list[int] = []
    for _ in range(ROUNDS):
        lucks = rng.gauss(0, luck), rng.gauss(0, luck)
        for pair in range(PAIRS):
            for blocks, extra in ((a_ns, lucks[0]), (b_ns, lucks[1] + shift)):
                blocks.append(round(BLOCK_NS * (1 + extra + rng.gauss(0, noise)) * machine(rng, pair)))
    common: dict[str, Any] = {
        "iterations": 10,
        "delays_ns": (0,) * len(a_ns),
        "switches": (0,) * len(a_ns),
        "open_ms": 1.0,
        "first_ms": 1.0,
        "warmup_runs": 3,
        "gate_relative_l2": 0.0,
        "timed_ms": 40.0,
    } | side
    beside = SideSamples(blocks_ns=tuple(b_ns), rounds=(PAIRS,) * ROUNDS, threads=1, **common)
    a = {"launch_no": number, "blocks_ns": tuple(a_ns), "canaries": {}, "canary_ms": 0.0, "beside": beside}
    return LaunchSamples.model_validate({**common, **a})


def answer(seed: int = 0, **changes: Any) -> Comparison:
    """What launches as the agent would make them come to."""
    launches: list[LaunchSamples] = []
    while wants_more_pairs(launches, PROTOCOL):
        launches.append(one_launch(len(launches), seed=seed, **changes))
    found = compare(launches, PROTOCOL)
    assert isinstance(found, Comparison)
    return found


@pytest.mark.parametrize("machine", [steady, two_modes])
@pytest.mark.parametrize(("shift", "verdict"), [(0.03, "a_faster"), (-0.03, "b_faster"), (0.0, "no_difference")])
def test_a_planted_shift_is_found_and_none_is_invented(machine: Machine, shift: float, verdict: str) -> None:
    found = answer(shift=shift, luck=0.007, machine=machine)
    assert found.verdict == verdict
    assert found.low_percent - 0.2 < 100 * shift < found.high_percent + 0.2
    assert found.coverage == 0.99


def test_luck_with_memory_is_seldom_taken_for_a_difference() -> None:
    """One percent of luck in each round, on either side: a launch alone would be sure of it."""
    verdicts = [answer(seed, luck=0.01, noise=0.002).verdict for seed in range(40)]
    assert verdicts.count(ComparisonVerdict.NO_DIFFERENCE) >= 38
    assert all(answer(seed, luck=0.01, shift=0.03).verdict == ComparisonVerdict.A_FASTER for seed in range(10))


def test_a_difference_below_the_tolerance_is_found_too() -> None:
    verdicts = [answer(seed, luck=0.005, shift=0.01).verdict for seed in range(20)]
    assert verdicts.count(ComparisonVerdict.A_FASTER) >= 12


def test_too_much_luck_is_inconclusive_after_all_launches() -> None:
    found = answer(luck=0.12)
    assert found.verdict == ComparisonVerdict.INCONCLUSIVE
    assert found.launches == PROTOCOL.launches_max


def test_disturbed_pairs_are_dropped_by_the_witness_alone() -> None:
    """Half the pairs are disturbed on one side and twice as slow there: without the witness, b would seem slower."""
    launches = []
    for number in range(4):
        clean = one_launch(number)
        assert clean.beside is not None
        bad = [pair % 4 < 2 for pair in range(ROUNDS * PAIRS)]
        b = clean.beside
        blocks = tuple(2 * ns if is_bad else ns for ns, is_bad in zip(b.blocks_ns, bad, strict=True))
        waits = tuple(ns if is_bad else 0 for ns, is_bad in zip(b.blocks_ns, bad, strict=True))
        launches.append(
            clean.model_copy(update={"beside": b.model_copy(update={"blocks_ns": blocks, "delays_ns": waits})})
        )
    found = compare(launches, PROTOCOL)
    assert isinstance(found, Comparison)
    assert abs(found.change_percent) < 0.5
    assert (found.clean_share, found.pairs) == (0.5, 4 * ROUNDS * PAIRS // 2)


@pytest.mark.parametrize(
    ("delay_ns", "switches", "clean"),
    [(20_000, 0, True), (20_001, 0, False), (700, 1, True), (800, 1, False), (0, 2, True)],
)
def test_a_brief_loss_of_the_processor_is_no_disturbance(delay_ns: int, switches: int, clean: bool) -> None:
    """Blocks of 250 us: 750 ns are 0.3 % of one."""
    count = ROUNDS * PAIRS
    launch = one_launch(0, noise=0.0, delays_ns=(delay_ns,) * count, switches=(switches,) * count)
    assert clean_pairs(launch) == [clean] * count


def contended(number: int, *, threads: int, shift: float) -> LaunchSamples:
    """Blocks of 10 ms whose thread waits, by chance, for up to twice as long as it works."""
    rng = random.Random(number)
    quiet = one_launch(number, shift=shift)
    assert quiet.beside is not None
    sides: list[Any] = []
    for side in (quiet, quiet.beside):
        waits = tuple(rng.randrange(20_000_000) for _ in side.blocks_ns)
        blocks = tuple(40 * ns + wait for ns, wait in zip(side.blocks_ns, waits, strict=True))
        switches = (3,) * len(blocks)
        sides.append(side.model_copy(update={"blocks_ns": blocks, "delays_ns": waits, "switches": switches}))
    a, b = sides
    made: LaunchSamples = a.model_copy(update={"beside": b.model_copy(update={"threads": threads})})
    return made


def test_of_long_blocks_of_one_thread_the_wait_is_taken_off() -> None:
    found = compare([contended(n, threads=1, shift=0.03) for n in range(4)], PROTOCOL)
    assert isinstance(found, Comparison)
    assert found.verdict == ComparisonVerdict.A_FASTER
    assert found.change_percent == pytest.approx(3, abs=0.3)
    assert found.a_ms == pytest.approx(1.0, rel=0.01)
    assert compare([contended(n, threads=2, shift=0.03) for n in range(4)], PROTOCOL) == FailureCode.CONTENDED


def test_the_block_that_begins_a_pair_may_be_faster_on_both_sides() -> None:
    """Whoever comes second pays 5 %: the orders are balanced even where the witness left more pairs of one."""
    launch = one_launch(0, noise=0.0)
    assert launch.beside is not None
    order = [1.0 if pair % 2 == 0 else 1.05 for pair in range(ROUNDS * PAIRS)]
    a = tuple(round(ns * late) for ns, late in zip(launch.blocks_ns, order, strict=True))
    b = tuple(round(ns * (2.05 - late)) for ns, late in zip(launch.beside.blocks_ns, order, strict=True))
    disturbed = tuple(int(pair % 6 == 0) for pair in range(ROUNDS * PAIRS))
    both = launch.model_copy(
        update={"blocks_ns": a, "beside": launch.beside.model_copy(update={"blocks_ns": b, "switches": disturbed})}
    )
    assert round_changes(both) == pytest.approx([0.0] * ROUNDS, abs=1e-5)


def test_blocks_may_hold_different_numbers_of_runs() -> None:
    launch = one_launch(0, noise=0.0)
    assert launch.beside is not None
    halved = launch.model_copy(update={"beside": launch.beside.model_copy(update={"iterations": 20})})
    found = compare([halved.model_copy(update={"launch_no": n}) for n in range(3)], PROTOCOL)
    assert isinstance(found, Comparison)
    assert found.change_percent == pytest.approx(-50)
    assert found.a_ms == pytest.approx(2 * found.b_ms)


def test_launches_without_a_clean_pair_say_nothing() -> None:
    silent = one_launch(0, delays_ns=(10**6,) * (ROUNDS * PAIRS))
    alone = one_launch(1).model_copy(update={"beside": None})
    assert not speaks(silent)
    assert not speaks(alone)
    assert wants_more_pairs([silent, alone], PROTOCOL)
    assert not wants_more_pairs([silent] * 6, PROTOCOL)
    assert wants_more_pairs([silent] * 6 + [one_launch(7)], PROTOCOL)
    assert compare([silent, alone, one_launch(2), one_launch(3)], PROTOCOL) == FailureCode.CONTENDED


def test_where_the_witness_is_not_enforced_disturbed_rounds_count_and_tell() -> None:
    waited = (10**6,) * (ROUNDS * PAIRS - PAIRS) + (0,) * PAIRS
    launches = [one_launch(number, shift=0.05, delays_ns=waited) for number in range(5)]
    assert compare(launches, PROTOCOL) == FailureCode.CONTENDED
    assert not any(len(round_changes(one)) > 1 for one in launches)
    found = compare(launches, PROTOCOL, is_enforced=False)
    assert isinstance(found, Comparison)
    assert (found.verdict, found.rounds, found.launches) == (ComparisonVerdict.A_FASTER, 5 * ROUNDS, 5)
    assert (found.pairs, found.clean_share) == (5 * ROUNDS * PAIRS, pytest.approx(1 / ROUNDS))
    clean = one_launch(0)
    assert unenforced_pairs([clean])[0] is clean
    assert not wants_more_pairs(unenforced_pairs(launches), PROTOCOL)


def disturbed_rounds() -> list[LaunchSamples]:
    """Launches whose first round has no clean pair; in each other one the last quarter waited, on b's side alone."""
    quarter = PAIRS // 4
    waited = (10**6,) * PAIRS + ((0,) * (PAIRS - quarter) + (10**6,) * quarter) * (ROUNDS - 1)
    found = [one_launch(number, delays_ns=waited) for number in range(5)]
    for number, launch in enumerate(found):
        assert launch.beside is not None
        slow = tuple(
            ns + delay if i >= PAIRS else ns
            for i, (ns, delay) in enumerate(zip(launch.beside.blocks_ns, waited, strict=True))
        )
        found[number] = launch.model_copy(update={"beside": launch.beside.model_copy(update={"blocks_ns": slow})})
    return found


def test_where_the_witness_is_not_enforced_a_silent_round_leaves_the_clean_pairs_of_the_others() -> None:
    launches = disturbed_rounds()
    counted = unenforced_pairs(launches)
    kept = [PAIRS, *[PAIRS - PAIRS // 4] * (ROUNDS - 1)]
    for before, after in zip(launches, counted, strict=True):
        taken = clean_pairs(after)
        assert [sum(taken[PAIRS * i : PAIRS * (i + 1)]) for i in range(ROUNDS)] == kept
        assert round_changes(after)[1:] == round_changes(before), "the others say what they said"
    found = compare(launches, PROTOCOL, is_enforced=False)
    assert isinstance(found, Comparison)
    assert (found.pairs, found.rounds) == (5 * sum(kept), 5 * ROUNDS)
    assert found.b_ms == pytest.approx(found.a_ms, rel=0.02), "what waited is in no number"


def test_where_waits_alone_make_blocks_short_every_pair_counts_as_it_is() -> None:
    """Else the waits of other rounds would be taken off, which only blocks that are long without them allow."""
    block = LONG_BLOCK_NS + 100_000
    waited = (200_000,) * PAIRS * (ROUNDS - 2) + (0, 0, 200_000, 200_000) * (PAIRS // 2)
    launch = one_launch(0, delays_ns=waited)
    assert launch.beside is not None
    blocks = (block,) * len(waited)
    beside = launch.beside.model_copy(update={"blocks_ns": blocks})
    launch = launch.model_copy(update={"blocks_ns": blocks, "beside": beside})
    assert not counts_processor_time(launch)
    (found,) = unenforced_pairs([launch])
    assert round_changes(found) == [0.0] * ROUNDS
    assert (found.delays_ns, all(clean_pairs(found))) == ((0,) * len(waited), True)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.004, 0.03, "a_faster"),
        (-0.03, -0.004, "b_faster"),
        (0.002, 0.015, "no_difference"),
        (-0.015, 0.015, "no_difference"),
        (-0.015, 0.025, "inconclusive"),
        (0.002, 0.025, "inconclusive"),
    ],
)
def test_an_interval_has_one_verdict(low: float, high: float, verdict: str) -> None:
    assert verdict_of(Estimate((low + high) / 2, low, high, 0.99), tolerance=0.02) == verdict


def test_the_interval_covers_what_it_says() -> None:
    """200 draws from an even spread: at 99 % at most a handful may miss."""
    rng = random.Random(1)
    missed = 0
    for _ in range(200):
        found = estimate([rng.uniform(-1, 1) for _ in range(16)])
        missed += not found.low <= 0 <= found.high
    assert missed <= 7
    assert estimate([0.1, 0.2, 0.3]).coverage < 0.99


def test_what_is_compared_is_bounded() -> None:
    """Every pair of rounds is looked at: neither a launch nor a comparison may bring any number of them."""
    one = one_launch(0)
    assert one.beside is not None
    rounds = (1,) * (ROUNDS_MAX + 1)
    with pytest.raises(ValidationError, match="at most 16"):
        SideSamples.model_validate(one.beside.model_dump() | {"rounds": rounds})
    assert estimate([0.01] * CHANGES_MAX + [9.0] * CHANGES_MAX) == estimate([0.01] * CHANGES_MAX)


@pytest.mark.parametrize("a_is_faster", [True, False])
def test_sides_that_are_worlds_apart_are_told_as_far_apart(a_is_faster: bool) -> None:
    launches = []
    for number in range(3):
        one = one_launch(number)
        assert one.beside is not None
        brief, long = {"blocks_ns": (1,) * len(one.blocks_ns)}, {"blocks_ns": (2**52,) * len(one.blocks_ns)}
        a, b = (brief, long) if a_is_faster else (long, brief)
        launches.append(one.model_copy(update=a | {"beside": one.beside.model_copy(update=b)}))
    found = compare(launches, PROTOCOL)
    assert isinstance(found, Comparison)
    assert found.verdict == ("a_faster" if a_is_faster else "b_faster")
    assert found.change_percent == pytest.approx(100 * (10 ** (6 if a_is_faster else -6) - 1))
