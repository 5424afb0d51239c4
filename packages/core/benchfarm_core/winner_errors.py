"""What the winners of a search take of what was predicted of them.

A search picks, of thousands, those that its predictor takes for too fast: even where predictions are right on average,
they are too low for whoever was picked by them (the optimizer's curse: Smith and Winkler, Management Science 52(3),
2006), and intervals that hold for any architecture hold less often for the picked (Jin and Ren, Confidence on the
focal: conformal prediction with selection-conditional coverage, arXiv:2403.03868). What was picked in the same way has
the same errors, though. So some winners of a first search are measured, and what they took tells of the next search's,
which the same predictor leads.

They are measured in rounds, each in leases of its own, since what a lease has of its clock and its neighbours is in all
its results. Their logarithms are a one-way layout with random effects, and a new winner in a new lease lies by its
prediction interval (Lin and Liao, Prediction intervals for general balanced linear random models, Journal of
Statistical Planning and Inference 138(10), 2008, the one by Satterthwaite's degrees of freedom).
"""

from collections.abc import Sequence
from math import atan, cos, log, pi, sin, sqrt
from statistics import fmean, harmonic_mean, variance
from typing import Final, Self

from pydantic import Field

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value

LEAST_ROUNDS: Final = 2
"""One alone does not say how far leases lie apart."""
LEAST_SPREAD: Final = 1e-9
"""Of a logarithm: boards that are made up repeat themselves exactly."""


class WinnerErrors(Value):
    """Of a platform and the predictor that answered: how the logarithm of measured over predicted is distributed.

    `bias`: its mean; above 0 winners take longer than is said. `spread`: the standard error of a new winner in a new
    lease around it, with so many `degrees` of freedom. `between_leases`: the standard deviation of rounds' means, which
    holds a little of what is within rounds too. `rounds` and `measured`: by how many of them this is known.
    """

    bias: float
    spread: float = Field(gt=0)
    degrees: int = Field(ge=1)
    between_leases: float = Field(gt=0)
    rounds: int = Field(ge=LEAST_ROUNDS)
    measured: int

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> Self:
        """rounds: of each round measured over predicted, ratios above 0; a round of which nothing came is none.

        Rounds of different lengths count as if all had the harmonic mean of their lengths.

        Raises InvalidRequest (field `rounds`) where fewer than two rounds, or not two results in any, are left.
        """
        logs = [[log(ratio) for ratio in one] for one in rounds if one]
        if len(logs) < LEAST_ROUNDS or all(len(one) < 2 for one in logs):
            detail = f"of {len(rounds)} rounds of winners {len(logs)} were measured, and at least {LEAST_ROUNDS}"
            raise InvalidRequest(f"{detail}, one of two results, say how far leases lie apart", field="rounds")
        means = [fmean(one) for one in logs]
        within = sum((value - mean) ** 2 for one, mean in zip(logs, means, strict=True) for value in one)
        inner = sum(map(len, logs)) - len(logs)
        between = max(variance(means), LEAST_SPREAD**2)
        # the variance of a new winner less the mean of these, of two parts that are told independently
        of_rounds = (1 + 1 / len(logs)) * between
        of_winners = (1 - 1 / harmonic_mean([len(one) for one in logs])) * within / inner
        both = of_rounds + of_winners
        degrees = both**2 / (of_rounds**2 / (len(logs) - 1) + of_winners**2 / inner)
        return cls(
            bias=fmean(means),
            spread=sqrt(both),
            degrees=max(int(degrees), 1),  # rounded down: no surer than they say
            between_leases=sqrt(between),
            rounds=len(logs),
            measured=sum(map(len, logs)),
        )

    def of_predicted(self, limit_ratio: float) -> float:
        """The probability that a new winner, measured in a new lease, takes at most `limit_ratio`, above 0, times what
        is predicted of it."""
        return student_cdf((log(limit_ratio) - self.bias) / self.spread, self.degrees)

    def of_measured(self, limit_ratio: float) -> float:
        """The same of what was measured in one lease: that another lease has it take at most so many times as long."""
        return student_cdf(log(limit_ratio) / (sqrt(2) * self.between_leases), self.rounds - 1)


def student_cdf(value: float, degrees: int) -> float:
    """Of Student's t with `degrees` >= 1, exactly (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = atan(value / sqrt(degrees))
    odd = degrees % 2
    term, total = (cos(angle) if odd else 1.0), 0.0
    for number in range(1, degrees // 2 + 1):
        total += term
        term *= cos(angle) ** 2 * (2 * number - 1 + odd) / (2 * number + odd)
    inside = 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total
    return (1 + inside) / 2
