"""By what candidates are chosen: how far predictions lie off, as one number from 0 to 1 per row."""

from typing import Final

import numpy as np

from benchfarm_predictor.kernels import Floats

HALF: Final = 0.1
"""An error of 10 % costs half of what any hopeless one does."""


def losses(log_errors: Floats) -> Floats:
    """1 - 2^-(e / HALF)^2 of log errors, the same shape.

    A smooth form of "not within 10 %": a share of 30 rows jumps by 3 points when one row crosses the bound, this does
    not; and unlike a mean error it is not led by rows that nobody can predict.
    """
    found: Floats = 1 - np.exp2(-np.minimum((log_errors / HALF) ** 2, 60.0))
    return found
