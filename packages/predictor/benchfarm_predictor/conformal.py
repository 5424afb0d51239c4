"""Split-conformal intervals (Vovk 2005; Lei et al. 2018) in log ratios, by latency where there are enough rows."""

from dataclasses import dataclass
from typing import Final

from benchfarm_predictor.kernels import Floats

ROWS_PER_BIN: Final = 100
MAX_BINS: Final = 5


@dataclass(frozen=True, eq=False)
class Intervals:
    """Predicted p means [p / width, p x width]; the width is that of the bin in which p lies.

    Attributes:
        edges_ms: float64[bins - 1], ascending: where one bin ends and the next begins.
        widths: float64[bins], each >= 1.
        level: the coverage that was asked for.
        coverage: what the rows guarantee: below ``level`` where there are fewer than level / (1 - level) rows.
    """

    edges_ms: Floats
    widths: Floats
    level: float
    coverage: float

    def bounds(self, predicted_ms: Floats) -> tuple[Floats, Floats]:
        """low and high, float64[n] each, in ms."""
        raise NotImplementedError


def calibrate(predicted_ms: Floats, measured_ms: Floats, level: float = 0.9) -> Intervals:
    """From rows that the model was not fitted on: hold-outs, or predictions of rows left out of a fold.

    Raises:
        InvalidRequest: ``training_rows_invalid``: no row, different lengths, a latency that is no positive number.
    """
    raise NotImplementedError
