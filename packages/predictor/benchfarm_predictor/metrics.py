"""How good predictions are, and how sure that is."""

from collections.abc import Callable

import numpy as np

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.training_rows import checked_ms

_STEPS = 100
"""Halvings of an interval that begins at length 1: beyond float64's digits."""


class Score(Value):
    """Of predictions against measured latencies. Shares and errors are fractions of 1, not percent.

    ``mape``: mean absolute relative error; ``within_5``, ``within_10``: shares of rows within 5 and 10 %.
    ``spearman`` is None where it is undefined: fewer than 2 rows, or constant predictions or latencies.
    """

    mape: float
    within_5: float
    within_10: float
    rmse_ms: float
    spearman: float | None
    count: int


def score(predicted_ms: Floats, measured_ms: Floats) -> Score:
    """The score of float64[n] against float64[n]; errors are relative to the measured value.

    Raises:
        InvalidRequest: ``training_rows_invalid``: no row, different lengths, or what is no positive number.
    """
    measured = checked_ms(measured_ms, len(measured_ms), least=1)
    predicted = checked_ms(predicted_ms, len(measured))
    error = np.abs(predicted / measured - 1)
    return Score(
        mape=float(error.mean()),
        within_5=share_within(error, 0.05),
        within_10=share_within(error, 0.10),
        rmse_ms=float(np.sqrt(np.mean((predicted - measured) ** 2))),
        spearman=spearman(predicted, measured),
        count=len(measured),
    )


def share_within(error: Floats, bound: float) -> float:
    """The share of relative errors up to the bound; an error that is the bound but for rounding counts as within."""
    return float(np.mean(error <= bound * (1 + 1e-12) + 1e-15))


def binomial_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) for a share: it covers the truth with at least ``confidence``.

    Raises:
        ValueError: not 0 <= hits <= count, no trial, or a confidence outside (0, 1).
    """
    if not 0 <= hits <= count or count < 1 or not 0 < confidence < 1:
        raise ValueError(f"{hits} of {count} at {confidence}")
    tail = (1 - confidence) / 2
    logs = _log_choose(count)
    low = 0.0 if hits == 0 else _root(lambda p: 1 - _at_most(hits - 1, logs, p), tail)
    high = 1.0 if hits == count else 1 - _root(lambda p: _at_most(hits, logs, 1 - p), tail)
    return low, high


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation of float64[n] and float64[n], ties at their mean rank; None where undefined."""
    if len(a) < 2:
        return None
    first, second = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(np.clip(first @ second / norm, -1, 1)) if norm > 0 else None


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Floats = (last - (counts - 1) / 2).astype(np.float64)
    return mean_rank[place]


def _log_choose(count: int) -> Floats:
    """ln(count over k) for k = 0..count."""
    k = np.arange(1, count + 1)
    return np.concatenate([[0.0], np.cumsum(np.log(count - k + 1) - np.log(k))])


def _at_most(hits: int, log_choose: Floats, p: float) -> float:
    """P(X <= hits) of a binomial variable."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 else 0.0
    k = np.arange(hits + 1)
    count = len(log_choose) - 1
    return float(np.exp(log_choose[: hits + 1] + k * np.log(p) + (count - k) * np.log1p(-p)).sum())


def _root(rising: Callable[[float], float], target: float) -> float:
    """Where a function that rises over [0, 1] reaches the target."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2
