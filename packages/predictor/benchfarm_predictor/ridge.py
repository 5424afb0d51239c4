"""Ridge regression in log milliseconds or in relative error, its penalty chosen by closed-form leave-one-out."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Batch, Features, Target

PENALTIES: Final = tuple(float(value) for value in np.logspace(-6, 3, 19))


@dataclass(frozen=True, eq=False)
class Ridge:
    """offset + (x - centre) / scale . weights, as ``target`` says in ms or log ms; all float64[d]."""

    kind: ClassVar[str] = "ridge"
    features: Features
    weights: Floats
    centre: Floats
    scale: Floats
    offset: float
    target: Target
    floor_ms: float


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A fitted ridge, its penalty, and per row what it predicts when that row is left out: float64[n] in ms."""

    model: Ridge
    penalty: float
    left_out_ms: Floats


def fit_ridge(
    features: Features,
    batch: Batch,
    latency_ms: Floats,
    *,
    target: Target = "log",
    penalties: tuple[float, ...] = PENALTIES,
    row_weights: Floats | None = None,
) -> RidgeFit:
    """The ridge whose leave-one-out predictions have the least mean relative error.

    Target `log`: squares of log ratios. Target `ms`: squares of relative errors (rows weighted 1/T^2), which
    extrapolates where features are sums. ``row_weights``: float64[n], further weights.

    Raises:
        InvalidRequest: ``training_rows_invalid``: fewer than 2 rows, or a latency that is no positive number.
    """
    raise NotImplementedError
