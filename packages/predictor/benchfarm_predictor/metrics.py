"""How good predictions are."""

import numpy as np

from benchfarm_core.shares import inclusive
from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.training_rows import checked_ms


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
    return float(np.mean(error <= inclusive(bound)))


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
