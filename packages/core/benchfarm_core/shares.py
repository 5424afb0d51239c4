"""Shares of what was counted, and how sure they are."""

from collections.abc import Callable
from math import exp, lgamma, log, log1p
from typing import Final, Self

from pydantic import Field

from benchfarm_core.values import Value

_STEPS: Final = 100
"""Halvings of an interval that begins at length 1: beyond float64's digits."""
_NOTHING: Final = 1e-18
"""A term below this share of the sum before it no longer changes that sum."""


class Share(Value):
    """``hits`` of ``count``; ``low`` and ``high`` are the 95 % interval of the share, of 1."""

    hits: int = Field(ge=0)
    count: int = Field(ge=1)
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, count: int) -> Self:
        """With its interval. Raises ValueError for more hits than trials, or none of these."""
        low, high = binomial_interval(hits, count)
        return cls(hits=hits, count=count, low=low, high=high)

    @property
    def text(self) -> str:
        """In percent with its interval: ``96.0 % (86.3 to 99.5)``."""
        return f"{100 * self.hits / self.count:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def inclusive(bound: float) -> float:
    """What errors are held against so that one which is the bound, but for rounding, counts as within it."""
    return bound * (1 + 1e-12) + 1e-15


def binomial_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) for a share: it covers the truth with at least ``confidence``.

    Raises:
        ValueError: not 0 <= hits <= count, no trial, or a confidence outside (0, 1).
    """
    if not 0 <= hits <= count or count < 1 or not 0 < confidence < 1:
        raise ValueError(f"{hits} of {count} at {confidence}")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _root(lambda p: 1 - _at_most(hits - 1, count, p), tail)
    high = 1.0 if hits == count else 1 - _root(lambda p: _at_most(hits, count, 1 - p), tail)
    return low, high


def _at_most(hits: int, count: int, p: float) -> float:
    """P(X <= hits) of a binomial variable, for hits below count; of its two tails the thinner one is summed."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 else 0.0
    odds = p / (1 - p)
    if hits < count * p:
        return _tail(count, p, range(hits, -1, -1), lambda k: k / (count - k + 1) / odds)
    return 1 - _tail(count, p, range(hits + 1, count + 1), lambda k: (count - k) / (k + 1) * odds)


def _tail(count: int, p: float, places: range, step: Callable[[int], float]) -> float:
    """The sum of P(X = k) over neighbouring places; ``step``: from one to the next in their order."""
    first = places[0]
    choose = lgamma(count + 1) - lgamma(first + 1) - lgamma(count - first + 1)
    term, total = exp(choose + first * log(p) + (count - first) * log1p(-p)), 0.0
    for k in places:
        total += term
        term *= step(k)
        if term <= _NOTHING * total:
            break
    return total


def _root(rising: Callable[[float], float], target: float) -> float:
    """Where a function that rises over [0, 1] reaches the target."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2
