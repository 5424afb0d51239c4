"""What winners of searches are off by: Student's t, and the prediction interval of a one-way layout, by simulation."""

import random
from math import exp, log, sqrt
from statistics import fmean

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.winner_errors import WinnerErrors, student_cdf

SEEDS = 1500


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 3.078), (2, 1.886), (3, 1.638), (4, 1.533), (9, 1.383), (14, 1.345), (30, 1.310)]
)
def test_student_s_t_is_that_of_the_tables(degrees: int, value: float) -> None:
    assert student_cdf(value, degrees) == pytest.approx(0.9, abs=1e-4)
    assert student_cdf(-value, degrees) == pytest.approx(0.1, abs=1e-4)
    assert student_cdf(0.0, degrees) == 0.5


def measured(rng: random.Random, rounds: int, each: int, *, bias: float, lease: float, own: float) -> list[list[float]]:
    """Ratios of made-up winners: a lease has an effect on all of its results."""
    effects = [rng.gauss(bias, lease) for _ in range(rounds)]
    return [[exp(effect + rng.gauss(0, own)) for _ in range(each)] for effect in effects]


@pytest.mark.parametrize(("lease", "own"), [(0.0, 0.03), (0.02, 0.03), (0.02, 0.01), (0.04, 0.02)])
@pytest.mark.parametrize(("rounds", "each"), [(4, 4), (3, 4), (2, 8)])
def test_a_limit_that_is_met_at_nine_tenths_is_met_by_nine_tenths(
    rounds: int, each: int, lease: float, own: float
) -> None:
    """Of new winners in a new lease, whatever a lease and a winner add, and however far predictions are off."""
    rng = random.Random(f"{rounds}/{lease}/{own}")
    probabilities = []
    for _ in range(SEEDS):
        errors = WinnerErrors.of(measured(rng, rounds, each, bias=0.08, lease=lease, own=own))
        ((new,),) = measured(rng, 1, 1, bias=0.08, lease=lease, own=own)
        probabilities.append(errors.of_predicted(new))
    # where a probability is right, new winners lie below the one of nine tenths as often
    share = fmean(one <= 0.9 for one in probabilities)
    assert share == pytest.approx(0.9, abs=3 * sqrt(0.09 / SEEDS) + 0.01)


def test_what_one_lease_measured_another_one_meets_as_probably_as_is_said() -> None:
    rng = random.Random(3)
    met = []
    for _ in range(SEEDS):
        errors = WinnerErrors.of(measured(rng, 4, 4, bias=0.08, lease=0.02, own=0.002))
        once, again = rng.gauss(0, 0.02), rng.gauss(0, 0.02)
        met.append(errors.of_measured(exp(again - once)) <= 0.9)
    assert fmean(met) == pytest.approx(0.9, abs=3 * sqrt(0.09 / SEEDS))


def test_leases_that_differ_widen_what_winners_alone_do_not() -> None:
    """The same sixteen results: of four leases that differ, and mixed."""
    rounds = [[exp(lease + own) for own in (-0.01, 0.0, 0.0, 0.01)] for lease in (-0.03, -0.01, 0.01, 0.03)]
    mixed = [list(one) for one in zip(*rounds, strict=True)]
    apart, alike = WinnerErrors.of(rounds), WinnerErrors.of(mixed)
    assert apart.bias == pytest.approx(alike.bias)
    assert apart.between_leases > 3 * alike.between_leases
    assert apart.degrees < alike.degrees
    assert apart.of_predicted(1.04) < alike.of_predicted(1.04)
    assert apart.of_measured(1.04) < alike.of_measured(1.04)
    assert (apart.rounds, apart.measured) == (4, 16)


def test_the_bias_is_the_winners_own() -> None:
    errors = WinnerErrors.of([[1.08, 1.1], [1.09, 1.07]])
    assert errors.bias == pytest.approx(log(1.085), abs=1e-3)
    assert errors.of_predicted(1.0) < 0.1 < 0.9 < errors.of_predicted(1.2)


def test_boards_that_repeat_themselves_exactly_are_sure() -> None:
    errors = WinnerErrors.of([[1.5, 1.5], [1.5, 1.5]])
    assert (errors.of_predicted(1.51), errors.of_predicted(1.49)) == pytest.approx((1.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("rounds", [[], [[1.0, 1.1]], [[1.0, 1.1], []], [[1.0], [1.1]]])
def test_one_round_does_not_say_how_far_leases_lie_apart(rounds: list[list[float]]) -> None:
    with pytest.raises(InvalidRequest, match="rounds of winners") as refused:
        WinnerErrors.of(rounds)
    assert refused.value.field == "rounds"
