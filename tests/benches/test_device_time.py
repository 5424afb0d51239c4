"""How the two protocols' seconds are set against each other at equal spread."""

from collections.abc import Mapping

import pytest

from bench.device_time import WAYS, Fixed, Ours, decade_row, judged, noisy, raw_floor_ms, table, turns
from benchfarm_core.quality import CanaryName
from benchfarm_core.summaries import Grade
from tests.core.test_quiet_blocks import pointed, quiet

CanaryRuns = tuple[tuple[int, int], ...]

PLAIN, DIVIDED = WAYS


@pytest.mark.parametrize("launches", [300, 30, 7])
def test_sides_take_turns_and_neither_is_always_first(launches: int) -> None:
    found = turns(launches, repeats=4)
    assert [ours_first for ours_first, _ in found] == [True, False, True, False]
    counts = [count for _, count in found]
    assert sum(counts) == launches
    assert max(counts) - min(counts) <= 1


def ours(factors: list[float], spread: float = 0.001, wall_s: float = 1.0, grade: Grade = Grade.A) -> list[Ours]:
    """Repeats of two kernels, each slowed by a factor with its canary, and `spread` of their own."""
    own = (1 - spread, 1 + spread, 1 + spread, 1 - spread)
    values = [{0: factor * here, 1: 5 * factor * here} for factor, here in zip(factors, own, strict=True)]
    return [
        Ours(values_ms, values_ms, {0: grade, 1: grade}, round(1e6 * factor), wall_s)
        for values_ms, factor in zip(values, factors, strict=True)
    ]


def fixed(factors: list[float], noise: float, wall_s: float = 1.0) -> list[Fixed]:
    """Nine launches a turn, each third of them slower by `noise`, in turn; slowed by the turn's factor."""
    return [
        Fixed({0: factor * (1 + noise * (n % 3)), 1: 5 * factor * (1 + noise * (n % 3))}, round(1e6 * factor), wall_s)
        for factor in factors
        for n in range(9)
    ]


STEADY = [1.0] * 4
DRIFTING = [1.0, 1.05, 1.10, 1.15]


def test_as_many_fixed_launches_count_as_bring_their_spread_down_to_ours() -> None:
    # three launches in a row hold each kind of noise once: their means are all alike
    row = decade_row("one", ours(STEADY), fixed(STEADY, 0.3, wall_s=0.5))
    assert row["fixed launches at equal spread"] == "3"
    assert row["ours / fixed"] == pytest.approx(1.0 / 1.5)
    assert (row["kernels"], row["judged"], row["ours s"], row["fixed s, 3 launches"]) == (2, 2, 1.0, 1.5)


def test_a_spread_that_no_launches_reach_is_told_as_a_bound() -> None:
    theirs = [one._replace(means_ms={0: 1.0 + n, 1: 5.0 + n}) for n, one in enumerate(fixed(STEADY, 0.0))]
    row = decade_row("one", ours(STEADY), theirs)
    assert row["fixed launches at equal spread"] == "more than 12"
    assert row["fixed s at equal spread"] == 12.0


def test_drift_weighs_on_both_sides_or_on_none() -> None:
    row = decade_row("one", ours(DRIFTING), fixed(DRIFTING, 0.0))
    spreads = [row[f"{side}{way}"] for way in WAYS for side in ("our spread", "fixed spread, 3 launches")]
    assert spreads == ["6.00%", "5.43%", "0.12%", "0.00%"]


def decade(ours_s: float, fixed_s: float, *, grade: Grade = Grade.A) -> tuple[str, list[Ours], list[Fixed]]:
    return ("one", ours(STEADY, wall_s=ours_s, grade=grade), fixed(STEADY, 0.0, wall_s=fixed_s))


def test_every_decade_and_the_sum_are_held_to_the_goal() -> None:
    fast, slow = decade(0.1, 1.0), decade(0.1, 0.03)
    assert table([fast, fast])[-1]["met"] is True
    assert table([fast, slow])[-1]["met"] is False  # in sum it is 0.2 / 3.09, and one decade costs more than theirs
    assert table([decade(0.1, 0.06)])[-1]["met"] is False  # more than a third
    assert table([decade(0.1, 1.0, grade=Grade.C)])[-1]["met"] is False  # nothing of grade A or B
    every = table([fast, slow])[-1]
    assert (every["kernels"], every["ours s"]) == (4, pytest.approx(0.2))
    assert every["fixed s at equal spread"] == pytest.approx(3.09)
    assert every["ours / fixed"] == every[f"ours / fixed{DIVIDED}"] == pytest.approx(0.2 / 3.09)


def test_a_goal_that_only_one_way_meets_is_missed() -> None:
    # as they are three fixed launches repeat; over a canary that moved for itself no fewer than five do
    theirs = [
        one._replace(means_ms={0: 1.0, 1: 5.0}, canary_ns=1_000_000 * (1 + n % 5))
        for n, one in enumerate(fixed(STEADY, 0.0, wall_s=0.05))
    ]
    row = table([("one", ours(STEADY, wall_s=0.07), theirs)])[-1]
    assert float(str(row[f"ours / fixed{DIVIDED}"])) <= 1 / 3 < float(str(row[f"ours / fixed{PLAIN}"]))
    assert int(str(row["grade A or B per minute"])) >= 600
    assert row["met"] is False


def test_a_decade_without_a_kernel_that_every_repeat_has_is_told_and_the_goal_missed() -> None:
    name, mine, theirs = decade(0.1, 1.0)
    half = [one._replace(values_ms={number % 2: 1.0}) for number, one in enumerate(mine)]
    empty, full, every = table([(name, half, theirs), (name, mine, theirs)])
    assert (empty["kernels"], empty["judged"], full["judged"]) == (2, 0, 2)
    assert (every["ours / fixed"], every["met"]) == (full["ours / fixed"], False)
    assert table([(name, half, theirs)])[-1]["met"] is False


def test_what_met_nothing_quiet_is_measured_again_and_no_good_number() -> None:
    loud = [pointed(number, [130_000] * 9) for number in range(3)]
    found = {0: [quiet(number) for number in range(3)], 1: loud}
    assert noisy(found) == [1]
    _, grades, _ = judged(found)
    assert grades == {0: Grade.A, 1: Grade.D}


def test_what_stands_as_it_is_was_touched_by_no_canary() -> None:
    """The farm's value holds each block to the canaries beside it, also where the lease itself is its reference."""
    calm = [quiet(number) for number in range(3)]
    slower = [launch.model_copy(update={"canaries": _later_slower(launch.canaries)}) for launch in calm]
    (before, after), (raw_before, raw_after) = (
        (judged({0: one})[0][0] for one in (calm, slower)),
        (raw_floor_ms(one) for one in (calm, slower)),
    )
    assert after < before * 0.99
    assert raw_after == raw_before


def _later_slower(canaries: Mapping[CanaryName, CanaryRuns]) -> dict[CanaryName, CanaryRuns]:
    """The clock's canary 5 % slower everywhere but at its first place: what is between was measured at a slow clock."""
    first = canaries["sgemm"][0]
    return {**canaries, "sgemm": (first, *((place, ns * 105 // 100) for place, ns in canaries["sgemm"][1:]))}
