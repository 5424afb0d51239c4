"""Searches whose winners are checked: by simulation, with known truth, and on the real API with a board that the test
plays."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp
from statistics import fmean
from typing import Any

import pytest

from benchfarm import InvalidRequest, LatencyConstraint, Search, WinnerErrors
from benchfarm.workload_text import parse_kernel
from benchfarm_core.latency import LatencyAnswer
from examples import nas_ofa
from tests.client.conftest import farm, module_database_url, served_farm
from tests.client.test_latencies import answered
from tests.client.test_nas_example import SMALL, made, searched
from tests.predictor.predictors import PLATFORM

__all__ = ["farm", "made", "module_database_url", "searched", "served_farm"]

SEEDS, GENERATIONS, POPULATION, PICKED = 120, 4, 40, 8
OFF, LEASE, NOISE = 0.03, 0.02, 0.01
"""Standard deviations of logarithms: of the predictor, between leases, within one."""
LIMIT_MS = 10.0
PLAIN = LatencyConstraint(PLATFORM, LIMIT_MS)
WIDTH = 1.645 * (OFF**2 + LEASE**2 + NOISE**2) ** 0.5
"""Of an interval of 90 % that is right for whoever is drawn: it knows the predictor's errors, leases and noise."""


@dataclass(frozen=True)
class Candidate:
    """An architecture of which the truth is known: logarithms of what is predicted, over the limit, and of how far that
    is off. What takes longer is more accurate, as networks are."""

    predicted: float
    off: float
    luck: float

    @classmethod
    def drawn(cls, rng: random.Random) -> "Candidate":
        return cls(rng.gauss(-0.1, 0.1), rng.gauss(0, OFF), rng.gauss(0, 0.02))

    def child(self, rng: random.Random) -> "Candidate":
        """What the predictor gets wrong of its parent it mostly gets wrong of it, too."""
        off = 0.6 * self.off + rng.gauss(0, 0.8 * OFF)
        return Candidate(self.predicted + rng.gauss(0, 0.03), off, rng.gauss(0, 0.02))

    @property
    def accuracy(self) -> float:
        return self.predicted + self.off + self.luck

    @property
    def answer(self) -> LatencyAnswer:
        low_ms, median_ms, high_ms = (LIMIT_MS * exp(self.predicted + side * WIDTH) for side in (-1, 0, 1))
        return answered(median_ms, low_ms, high_ms)


def winners(rng: random.Random, constraint: LatencyConstraint) -> list[Candidate]:
    """The most accurate that an evolution finds of those that are said to meet the limit; others stand behind."""
    best: list[Candidate] = []
    population = [Candidate.drawn(rng) for _ in range(POPULATION)]
    for _ in range(GENERATIONS):
        best = sorted([*best, *population], key=lambda one: _rank(one, constraint), reverse=True)[:PICKED]
        population = [rng.choice(best).child(rng) for _ in range(POPULATION)]
    return [one for one in best if constraint.is_met(one.answer)]


def _rank(one: Candidate, constraint: LatencyConstraint) -> tuple[bool, float]:
    is_met = constraint.is_met(one.answer)
    return is_met, one.accuracy if is_met else -one.predicted


def lease(rng: random.Random, found: Sequence[Candidate]) -> list[float]:
    """What is measured of them in one lease, in milliseconds."""
    effect = rng.gauss(0, LEASE)
    return [LIMIT_MS * exp(one.predicted + one.off + effect + rng.gauss(0, NOISE)) for one in found]


def ratios(rng: random.Random, found: Sequence[Candidate]) -> list[float]:
    predicted_ms = [LIMIT_MS * exp(one.predicted) for one in found]
    return [ms / said_ms for ms, said_ms in zip(lease(rng, found), predicted_ms, strict=True)]


def share_met(chosen: Callable[[random.Random], tuple[LatencyConstraint, list[Candidate]]]) -> tuple[float, float]:
    """Of all seeds' winners how many meet their limit in a lease of their own, and the mean of what was said."""
    met, said = [], []
    for seed in range(SEEDS):
        rng = random.Random(seed)
        constraint, found = chosen(rng)
        met += [ms <= constraint.limit_ms for ms in lease(rng, found)]
        said += [constraint.probability_of(one.answer) for one in found]
    return fmean(met), fmean(said)


def checked(rng: random.Random) -> tuple[LatencyConstraint, list[Candidate]]:
    """By four winners of each of four first searches those of another one."""
    errors = WinnerErrors.of([ratios(rng, winners(rng, PLAIN)[:4]) for _ in range(4)])
    constraint = replace(PLAIN, errors=errors)
    return constraint, winners(rng, constraint)


def test_winners_of_a_checked_search_meet_their_limits_and_those_of_a_first_one_do_not() -> None:
    def at_random(rng: random.Random) -> tuple[LatencyConstraint, list[Candidate]]:
        return PLAIN, [one for one in (Candidate.drawn(rng) for _ in range(4 * PICKED)) if PLAIN.is_met(one.answer)]

    def first(rng: random.Random) -> tuple[LatencyConstraint, list[Candidate]]:
        return PLAIN, winners(rng, PLAIN)

    met, said = share_met(at_random)
    assert met >= said - 0.02, "intervals are right for those that nobody picked"
    met, said = share_met(first)
    assert met < 0.75 < 0.9 <= said, "the curse"
    met, said = share_met(checked)
    assert met >= 0.9 <= said


def test_a_checked_search_finds_winners_near_its_limit() -> None:
    """One that refuses nearly all would have them meet it as well."""
    rng = random.Random(1)
    found = [one for _ in range(20) for one in winners(rng, checked(rng)[0])]
    assert len(found) >= 20 * PICKED * 0.9
    assert fmean(exp(one.predicted + one.off) for one in found) > 0.88


def test_errors_make_nothing_more_probable_than_its_interval_does() -> None:
    errors = WinnerErrors.of([[0.9, 0.91], [0.92, 0.9]])
    plain = LatencyConstraint(PLATFORM, 11.0)
    knowing = replace(plain, errors=errors)
    for high_ms in (10.1, 12.5, 20.0):
        found = answered(10.0, 100 / high_ms, high_ms)
        assert knowing.probability_of(found) <= plain.probability_of(found)
    wide = answered(10.0, 5.0, 20.0)
    assert knowing.probability_of(wide) == plain.probability_of(wide) < 0.9


def test_what_was_measured_is_judged_by_how_far_leases_lie_apart_and_not_by_the_predictor_s_bias() -> None:
    errors = WinnerErrors.of([[1.2, 1.2], [1.24, 1.24], [1.22, 1.22]])
    found = answered(10.0, 9.99, 10.01).model_copy(update={"source": "measured"})
    plain = LatencyConstraint(PLATFORM, 10.1)
    assert plain.is_met(found)
    assert not replace(plain, errors=errors).is_met(found)
    assert replace(plain, limit_ms=11.0, errors=errors).is_met(found)
    assert not LatencyConstraint(PLATFORM, 11.0, errors=errors).is_met(answered(10.0, 9.99, 10.01))


def test_winners_are_measured_in_rounds_and_the_next_search_knows_what_they_took(searched: Any) -> None:
    jobs: list[str] = []
    rng = random.Random(5)
    items = [nas_ofa.Genome.drawn(rng).architecture for _ in range(8)]
    with searched.client() as sdk:
        middle_ms = sorted(sdk.latency(items, [PLATFORM]).numbers())[4]
        twice = [LatencyConstraint(PLATFORM, middle_ms), LatencyConstraint(PLATFORM, 2 * middle_ms)]
        search = Search(sdk, twice)
        said = search.judge(items)
        plain_time_ms = searched.time_ms

        def wait(job_id: str) -> None:
            jobs.append(job_id)
            searched.measure(job_id)

        searched.time_ms = lambda workload, launch: 3 * plain_time_ms(workload, launch)
        checked = search.checked([items[at : at + 2] for at in range(0, 8, 2)], wait=wait)
        assert len(jobs) == len(set(jobs)) == 4
        assert [sum(1 for _ in sdk.items(job_id)) for job_id in jobs] == [2] * 4
        taken = sdk.latency(items, [PLATFORM])
        errors = checked.constraints[0].errors
        assert errors is not None
        assert (errors.rounds, errors.measured) == (4, 8)
        assert checked.constraints == tuple(replace(one, errors=errors) for one in twice)
        rounds = [
            [taken[at].normalised_ms / said[at].answers[0].median_ms for at in (number, number + 1)]
            for number in range(0, 8, 2)
        ]
        assert errors == WinnerErrors.of(rounds)
        assert checked.pin == search.pin
        again = checked.judge(items)
        assert [one.answers for one in again] == [one.answers for one in said]
        assert sum(one.is_met for one in again) < sum(one.is_met for one in said)
        with pytest.raises(InvalidRequest, match="rounds of winners"):
            Search(sdk, twice).checked(
                [items[:4], items[4:]], wait=wait
            )  # all were measured before its pin: nothing is predicted


def test_an_alias_that_moves_takes_no_errors_with_it(searched: Any, logged_in: Any) -> None:
    other = PLATFORM.replace("1.31.1", "1.31.1~graph=none")
    rng = random.Random(7)
    items = [nas_ofa.Genome.drawn(rng).architecture for _ in range(4)]
    with searched.client() as sdk:
        sdk.submit(workloads=[parse_kernel(searched.kernels[0])], platforms=[other])
        assert logged_in("platforms", "alias", PLATFORM, "moving").code == 0
        search = Search(sdk, [LatencyConstraint("moving", 1e6)])
        checked = search.checked([items[:2], items[2:]], wait=searched.measure)
        assert logged_in("platforms", "alias", other, "moving").code == 0
        assert [one.answers[0].platform for one in checked.judge(items)] == [PLATFORM] * 4


def test_a_round_of_which_nothing_comes_is_none(searched: Any) -> None:
    rng = random.Random(6)
    items = [nas_ofa.Genome.drawn(rng).architecture for _ in range(6)]
    seen: list[str] = []

    def lost_once(job_id: str) -> None:
        seen.append(job_id)
        if len(seen) > 1:
            searched.measure(job_id)

    with searched.client() as sdk:
        search = Search(sdk, [LatencyConstraint(PLATFORM, 1e6)])
        errors = search.checked([items[:2], items[2:4], items[4:]], wait=lost_once).constraints[0].errors
        assert errors is not None
        assert (errors.rounds, errors.measured) == (2, 4)
        with pytest.raises(InvalidRequest, match="rounds of winners"):
            search.checked([], wait=lost_once)


def test_the_example_searches_below_a_limit_that_its_first_winners_have_moved(searched: Any) -> None:
    plain_time_ms = searched.time_ms
    with searched.client() as sdk:
        limit = nas_ofa.limits_of(sdk, [(PLATFORM, ())], SMALL)[1]
        searched.time_ms = lambda workload, launch: 1.05 * plain_time_ms(workload, launch)
        told, picked, _ = nas_ofa.search_once(sdk, limit, SMALL, searched.measure)
    assert 4 <= told.checked <= nas_ofa.ROUNDS * nas_ofa.CHECKED
    ours = [one for one in picked if one.chosen_by == "ours"]
    assert ours
    assert all(one.probability >= SMALL.probability for one in ours)
