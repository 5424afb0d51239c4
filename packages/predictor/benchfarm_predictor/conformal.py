"""Conformal intervals in log ratios, relative errors that cannot reach zero.

Split-conformal (Vovk, Gammerman and Shafer 2005; Lei and others 2018): of n rows that the model was neither fitted to
nor chosen by, the k-th smallest error, k = ceil((n + 1) level), bounds the error of a new row with probability level
at least, whatever the model. Cross-conformal (Vovk 2015; Barber and others 2021): the errors are those of models that
were fitted without the row's fold and chosen without the row. That is near the level, and guarantees nothing like it.
"""

from dataclasses import dataclass
from math import ceil, exp
from typing import Final

import numpy as np

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.training_rows import checked_ms

ROWS_PER_BIN: Final = 100
MAX_BINS: Final = 5
MAX_WIDTH: Final = 1e6


class IntervalsMeta(Value):
    """What a file says of intervals beside their arrays."""

    level: float
    coverage: float


@dataclass(frozen=True, eq=False)
class Intervals:
    """Predicted p means [p / width, p x width]; the width is that of the bin in which p lies.

    Attributes:
        edges_ms: float64[bins - 1], ascending: where one bin ends and the next begins.
        widths: float64[bins], each >= 1.
        level: the coverage that was asked for.
        coverage: what the rows guarantee if they were held back for this alone: below ``level`` where there are fewer
            than level / (1 - level) of them. Of rows that also taught or chose it is what is aimed at.
    """

    edges_ms: Floats
    widths: Floats
    level: float
    coverage: float

    def bounds(self, predicted_ms: Floats, extra: Floats | None = None) -> tuple[Floats, Floats]:
        """low and high, float64[n] each, in ms; ``extra``: float64[n], factors >= 1 by which widths grow."""
        width = self.widths[np.searchsorted(self.edges_ms, predicted_ms, side="right")]
        if extra is not None:
            width = width * extra
        return predicted_ms / width, predicted_ms * width


def calibrate(predicted_ms: Floats, measured_ms: Floats, level: float = 0.9) -> Intervals:
    """From rows that the model was not fitted on: hold-outs, or predictions of rows that were left out in turn.

    Raises:
        InvalidRequest: ``training_rows_invalid``: no row, different lengths, or what is no positive number.
        ValueError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"a coverage of {level}")
    measured = checked_ms(measured_ms, len(measured_ms), least=1)
    predicted = checked_ms(predicted_ms, len(measured))
    errors = np.abs(np.log(measured / predicted))
    edges = _edges(predicted)
    place = np.searchsorted(edges, predicted, side="right")
    found = [_bound(errors[place == number], level) for number in range(len(edges) + 1)]
    widths = np.array([min(exp(min(error, 700.0)), MAX_WIDTH) for error, _ in found])
    return Intervals(edges, widths, level, min(coverage for _, coverage in found))


def _edges(predicted: Floats) -> Floats:
    """float64[bins - 1] that cut the rows into bins of at least ``ROWS_PER_BIN`` rows; empty where they are too few."""
    for bins in range(min(MAX_BINS, len(predicted) // ROWS_PER_BIN), 1, -1):
        edges = np.quantile(predicted, np.arange(1, bins) / bins)
        counts = np.bincount(np.searchsorted(edges, predicted, side="right"), minlength=bins)
        if counts.min() >= ROWS_PER_BIN - 1:
            return edges
    return np.zeros(0)


def _bound(errors: Floats, level: float) -> tuple[float, float]:
    """The error that bounds a new row's, and the probability with which it does."""
    count = len(errors)
    rank = ceil((count + 1) * level - 1e-9)
    if rank > count:
        return float(errors.max()), count / (count + 1)
    return float(np.sort(errors)[rank - 1]), level
