"""Ridge regression in log milliseconds or in relative error, its penalty chosen by closed-form leave-one-out.

For a fit that is linear in its targets, leaving a row out changes its residual by the factor 1 / (1 - h), h being the
row's leverage (Allen 1974, PRESS; Golub, Heath and Wahba 1979): no fit is repeated. Scales of features are taken from
all rows, also from the one that is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from benchfarm_core.values import Value
from benchfarm_predictor.elementary import Column
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import (
    Array,
    Arrays,
    Batch,
    Decoder,
    Features,
    FeatureSpec,
    Meta,
    Number,
    Target,
    array,
    checked,
    milliseconds,
    scales,
)
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training_rows import checked_ms

PENALTIES: Final = tuple(float(value) for value in np.logspace(-6, 3, 19))
LARGE_PENALTIES: Final = tuple(penalty for penalty in PENALTIES if penalty > 0.009)
FEW_ROWS: Final = 2.0
"""Rows for each feature; with fewer a small penalty passes through every row, and leaving one out says little."""
FLOOR: Final = 0.1
"""Nothing is predicted below this share of the least latency that was seen: a line may reach zero, a kernel cannot."""
FARTHEST: Final = 5.0
"""Standard deviations beyond which a feature says no more, target `log`: products of logarithms leave the rows by
powers of powers, and a row far outside was predicted a hundred thousand times too slow. Sums in plain units may grow.
"""
_LEAST_SLACK: Final = 1e-9
"""1 - leverage is never taken to be less."""


class _RidgeMeta(Value):
    kind: Literal["ridge"] = "ridge"
    features: FeatureSpec
    target: Target
    offset: Number
    floor_ms: Number


@dataclass(frozen=True, eq=False)
class Ridge:
    """offset + ((x - centre) / scale) . weights, as ``target`` says in ms or log ms; all float64[d]."""

    kind: ClassVar[str] = "ridge"
    features: Features
    weights: Floats
    centre: Floats
    scale: Floats
    offset: float
    target: Target
    floor_ms: float

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        if isinstance(self.features, SumFeatures):  # one after the other, as a model alone has them
            output = self._of_columns(self.features.columns(batch), len(batch))
        else:
            output = _standardised(self.features.matrix(batch), self.centre, self.scale, self.target) @ self.weights
        return milliseconds(output + self.offset, self.target, self.floor_ms)

    def _of_columns(self, columns: Sequence[Column], count: int) -> Floats:
        """float64[n]: the same sums in the same order, where most features are one number for all rows."""
        total, z = np.zeros(count), np.empty(count)
        numbers = (self.centre.tolist(), self.scale.tolist(), self.weights.tolist())
        for column, centre, scale, weight in zip(columns, *numbers, strict=True):
            if weight == 0:
                continue
            if not isinstance(column, np.ndarray):
                alone = (column - centre) / scale
                total += (min(max(alone, -FARTHEST), FARTHEST) if self.target == "log" else alone) * weight
                continue
            np.subtract(column, centre, out=z)  # in place: new arrays take longer than what is computed
            z /= scale
            if self.target == "log":
                np.maximum(z, -FARTHEST, out=z)
                np.minimum(z, FARTHEST, out=z)
            z *= weight
            total += z
        return total

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        meta = _RidgeMeta(features=self.features.spec(), target=self.target, offset=self.offset, floor_ms=self.floor_ms)
        return {"weights": self.weights, "centre": self.centre, "scale": self.scale}, meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_RidgeMeta, meta)
        features = decoder.features(said.features)
        d = len(features.names)
        weights, centre = (array(arrays, name, np.float64, d) for name in ("weights", "centre"))
        return cls(features, weights, centre, scales(arrays, d), said.offset, said.target, said.floor_ms)


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
    extrapolates where features are sums. ``row_weights``: float64[n], further weights, positive. With few rows for so
    many features small penalties are not tried.

    Raises:
        InvalidRequest: ``training_rows_invalid``: fewer than 2 rows, or a latency that is no positive number.
    """
    return fit_on_matrix(
        features, features.matrix(batch), latency_ms, target=target, penalties=penalties, row_weights=row_weights
    )


def fit_on_matrix(
    features: Features,
    x: Floats,
    latency_ms: Floats,
    *,
    target: Target,
    penalties: tuple[float, ...] = PENALTIES,
    row_weights: Floats | None = None,
) -> RidgeFit:
    """As ``fit_ridge``, on the matrix of these features, float64[n, d]: of rows that are no one batch."""
    measured = checked_ms(latency_ms, len(x), least=2)
    floor_ms = FLOOR * float(measured.min())
    centre, scale = x.mean(axis=0), _scales(x)
    y = np.log(measured) if target == "log" else measured
    further = np.ones_like(measured) if row_weights is None else row_weights
    near = _standardised(x, centre, scale, target)
    solved = solve(near, y, further if target == "log" else further / measured**2)
    found = []
    for penalty in _tried(penalties, *x.shape):
        left_out = milliseconds(solved.left_out(penalty), target, floor_ms)
        found.append((float(np.mean(np.abs(left_out / measured - 1))), penalty, left_out))
    _, penalty, left_out_ms = min(found, key=lambda each: each[0])
    weights, offset = solved.weights(penalty)
    return RidgeFit(Ridge(features, weights, centre, scale, offset, target, floor_ms), penalty, left_out_ms)


def _tried(penalties: tuple[float, ...], rows: int, columns: int) -> tuple[float, ...]:
    """Of these the large ones where rows are few, if there are any."""
    large = tuple(penalty for penalty in penalties if penalty >= LARGE_PENALTIES[0])
    return large if large and rows < FEW_ROWS * columns else penalties


def _standardised(x: Floats, centre: Floats, scale: Floats, target: Target) -> Floats:
    """As the fit and every prediction see it: a flag that few rows have is beyond `FARTHEST` for both or for none."""
    z = (x - centre) / scale
    return np.clip(z, -FARTHEST, FARTHEST) if target == "log" else z


def _scales(x: Floats) -> Floats:
    """Standard deviations; 1 for a feature that is constant up to rounding, so that it gets no weight."""
    deviation = x.std(axis=0)
    return np.where(deviation > 1e-9 * np.maximum(np.abs(x).max(axis=0), 1e-9), deviation, 1.0)


@dataclass(frozen=True, eq=False)
class Solved:
    """A weighted least-squares problem as its singular values, from which every penalty's solution follows at once.

    Attributes:
        left: float64[n, r], ``values`` float64[r], ``right`` float64[r, d]: of the centred rows times root weights.
        y: float64[n], ``roots`` float64[n]: root weights of mean square 1; ``x_mean``, ``y_mean``: weighted means.
    """

    left: Floats
    values: Floats
    right: Floats
    y: Floats
    roots: Floats
    x_mean: Floats
    y_mean: float

    def weights(self, penalty: float) -> tuple[Floats, float]:
        """float64[d] and the offset, which is not penalised."""
        shrunk = self.values / (self.values**2 + penalty) if penalty > 0 else _inverse(self.values)
        weights = self.right.T @ (shrunk * (self.left.T @ (self.roots * (self.y - self.y_mean))))
        return weights, self.y_mean - float(self.x_mean @ weights)

    def left_out(self, penalty: float) -> Floats:
        """float64[n]: the prediction of each row by the fit without it."""
        kept = self.values**2 / (self.values**2 + penalty) if penalty > 0 else (_inverse(self.values) > 0) * 1.0
        target = self.roots * (self.y - self.y_mean)
        residual = target - self.left @ (kept * (self.left.T @ target))
        leverage = (self.left**2) @ kept + self.roots**2 / float(np.sum(self.roots**2))
        return self.y - residual / np.maximum(1 - leverage, _LEAST_SLACK) / self.roots


def solve(x: Floats, y: Floats, row_weights: Floats) -> Solved:
    """The problem min sum w (y - offset - x . b)^2 + penalty |b|^2; weights are brought to mean 1 first.

    x: float64[n, d]; y and row_weights: float64[n].
    """
    roots = np.sqrt(row_weights / row_weights.mean())
    share = row_weights / row_weights.sum()
    x_mean, y_mean = share @ x, float(share @ y)
    left, values, right = np.linalg.svd(roots[:, None] * (x - x_mean), full_matrices=False)
    return Solved(left, values, right, y, roots, x_mean, y_mean)


def _inverse(values: Floats) -> Floats:
    """1 / value, and 0 for directions that the rows do not span."""
    spanned = values > 1e-12 * max(float(values.max(initial=0.0)), 1e-300)
    return np.where(spanned, 1 / np.where(spanned, values, 1.0), 0.0)
