"""How good predictions are, and how sure that is."""

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats


class Score(Value):
    """Of predictions against measured latencies. Shares and errors are fractions of 1, not percent.

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
        InvalidRequest: ``training_rows_invalid``: no row, different lengths, a latency that is no positive number.
    """
    raise NotImplementedError


def binomial_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) for a share: it covers the truth with at least ``confidence``."""
    raise NotImplementedError


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where undefined."""
    raise NotImplementedError
