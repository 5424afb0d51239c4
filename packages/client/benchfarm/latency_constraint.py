"""How probable it is that a latency stays below a limit, by the interval that was answered with it."""

from dataclasses import dataclass
from math import inf, log, log1p
from numbers import Real
from statistics import NormalDist
from typing import Final, NamedTuple

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.intervals import WANTED_COVERAGE
from benchfarm_core.latency import LatencyAnswer
from benchfarm_core.summaries import GRADE_LIMITS, Grade
from benchfarm_core.winner_errors import WinnerErrors

NO_GUARANTEE: Final = 0.5
"""What an interval is taken to hold with where nothing is guaranteed: such an architecture has to be far below its
limit to be likely to meet it. A rule, like the interval itself."""
MOST_SURE: Final = 1 - 1e-9
"""No interval is taken to hold more surely."""
NO_WIDTH: Final = 1e-9
"""Of a logarithm: what rounding leaves of an interval whose ends are its median."""
SPREADS: Final = dict(GRADE_LIMITS) | {Grade.D: GRADE_LIMITS[-1][1]}
"""How far launches of a grade may lie apart, of D at least; of fewer than three nobody says better than C."""
_NORMAL: Final = NormalDist()


class ComparableMs(NamedTuple):
    """Median and interval of an answer in milliseconds, as all answers of a platform can be held against one limit."""

    median_ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, answer: LatencyAnswer) -> "ComparableMs | None":
        """Without neighbours, at the reference clock, as predictions are: of a measurement its `normalised_ms`, and its
        interval by as much smaller or larger. What has no normalised time counts as it is; None: there is no number.
        """
        if answer.median_ms is None or answer.low_ms is None or answer.high_ms is None:
            return None
        if answer.normalised_ms is None:
            return cls(answer.median_ms, answer.low_ms, answer.high_ms)
        factor = answer.normalised_ms / answer.median_ms
        return cls(answer.normalised_ms, answer.low_ms * factor, answer.high_ms * factor)


@dataclass(frozen=True, slots=True)
class LatencyConstraint:
    """At most `limit_ms` on a platform (id, key or alias), with at least that probability.

    The limit is of normalised times: without neighbours, at the reference clock.

    An interval says two points of a distribution; between and beyond them its logarithm is taken as normal, with a
    width of its own on each side of the median: intervals of predictions are factors. They hold for architectures like
    those that the predictor learnt from, not for those that a search picked by it: for these give `errors`, of winners
    that were measured (`Search.checked`); what is less probable by them than by the interval counts as that.

    Raises InvalidRequest for a limit that is no positive number, and for a probability that is none, or certainty,
    which nothing has.
    """

    platform: str
    limit_ms: float
    probability: float = 0.9
    errors: WinnerErrors | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.limit_ms) or not 0 < self.limit_ms < inf:
            raise InvalidRequest(f"limit_ms={self.limit_ms} must be a positive number", field="limit_ms")
        if not _is_number(self.probability) or not 0 < self.probability < 1:
            raise InvalidRequest(f"probability={self.probability} must be between 0 and 1", field="probability")

    def probability_of(self, answer: LatencyAnswer) -> float:
        """That the latency of an answer stays within the limit; 0 where there is no number.

        A single launch has no interval, or one without any width: that it is met, or missed, is no surer than such an
        interval is taken to be. The interval of few launches is their whole range, and two may lie together by chance:
        it counts as no narrower than what their grade allows.
        """
        found = ComparableMs.of(answer)
        if found is None:
            return 0.0
        by_interval = self._by_interval(found, answer)
        if self.errors is None:
            return by_interval
        ratio = self.limit_ms / found.median_ms
        is_measured = answer.source == "measured"
        by_errors = self.errors.of_measured(ratio) if is_measured else self.errors.of_predicted(ratio)
        return min(by_interval, by_errors)

    def _by_interval(self, found: ComparableMs, answer: LatencyAnswer) -> float:
        is_above = self.limit_ms >= found.median_ms or found.low_ms <= 0  # without a low end it reaches as far down
        end_ms = found.high_ms if is_above else found.low_ms
        distance = log(self.limit_ms / found.median_ms)
        width = abs(log(end_ms / found.median_ms)) if end_ms > 0 else inf
        width = max(width, _least_width(answer))
        coverage = min(answer.coverage or NO_GUARANTEE, MOST_SURE)
        if width < NO_WIDTH:
            beyond = 0.0 if answer.coverage else (1 - coverage) / 2
            return 1 - beyond if distance >= 0 else beyond
        return _NORMAL.cdf(_NORMAL.inv_cdf((1 + coverage) / 2) * distance / width)

    def is_met(self, answer: LatencyAnswer) -> bool:
        """Whether it stays within the limit as probably as was asked."""
        return self.probability_of(answer) >= self.probability

    def violation(self, answer: LatencyAnswer) -> float:
        """How much probability is lacking: at most 0 where it is met, as optimisers want it."""
        return self.probability - self.probability_of(answer)


def _is_number(given: object) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool)


def _least_width(answer: LatencyAnswer) -> float:
    """Of the logarithm on each side of the median: half of what the launches' grade allows, where they are too few for
    an interval of less than their range; else 0."""
    if answer.source != "measured" or answer.grade is None or not 0 < (answer.coverage or 0.0) < WANTED_COVERAGE:
        return 0.0
    return log1p(SPREADS[answer.grade] / 2)
