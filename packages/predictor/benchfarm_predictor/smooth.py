"""A smooth surface through measured rows, evaluated with numpy: what a Gaussian process becomes when its fit ends.

Far from every row it says its offset, that is no correction at all: as a correction of a base it cannot run away.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field

from benchfarm_core.values import Value
from benchfarm_predictor.elementary import exp
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
    array,
    checked,
    damaged,
    milliseconds,
)
from benchfarm_predictor.sums import SumFeatures

MAX_POINTS: Final = 10_000
_GRID: Final = 2.0**16
_FARTHEST: Final = 64.0
_CACHED_CELLS: Final = 2**16
_CELLS: Final = 1_000_000
"""Rows x points whose distances are held at once: some tens of megabytes."""


class _SmoothMeta(Value):
    kind: Literal["smooth"] = "smooth"
    features: FeatureSpec
    reach: Number = Field(gt=0)
    offset: Number
    floor_ms: Number = Field(gt=0)


@dataclass(frozen=True, eq=False)
class Smooth:
    """ln ms = offset + sum over points of weight x Matern(3/2) of the distance to the point, in octaves.

    Attributes:
        points: float64[m, d], the features of the rows that it was fitted on.
        weights: float64[m].
        reach: the distance in which a row still says something; the features' own unit, one octave.
    """

    kind: ClassVar[str] = "smooth"
    features: Features
    points: Floats
    weights: Floats
    reach: float
    offset: float
    floor_ms: float = 1e-6

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        x = self.features.matrix(batch)
        if isinstance(self.features, SumFeatures):
            return milliseconds(self._of_sums(x) + self.offset, "log", self.floor_ms)
        output, at_once = np.empty(len(x)), max(_CELLS // max(len(self.points), 1), 1)
        for start in range(0, len(x), at_once):
            part = slice(start, start + at_once)
            output[part] = matern(distances(x[part], self.points), self.reach) @ self.weights
        return milliseconds(output + self.offset, "log", self.floor_ms)

    def _of_sums(self, x: Floats) -> Floats:
        """float64[n, d] to float64[n]: a model alone comes to what it comes to among others.

        Features and points are taken on a grid that is so coarse that their products and all sums of them are exact.
        """
        near, points = on_grid(x), on_grid(self.points)
        output, at_once = np.zeros(len(x)), max(_CACHED_CELLS // max(len(points), 1), 1)
        for start in range(0, len(x), at_once):
            part = slice(start, start + at_once)
            scaled = np.sqrt(3) / self.reach * distances(points, near[part])
            values = (1 + scaled) * exp(-scaled)
            for value, weight in zip(values, self.weights.tolist(), strict=True):
                output[part] += value * weight
        return output

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        meta = _SmoothMeta(features=self.features.spec(), reach=self.reach, offset=self.offset, floor_ms=self.floor_ms)
        return {"points": self.points, "weights": self.weights}, meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_SmoothMeta, meta)
        features = decoder.features(said.features)
        weights = array(arrays, "weights", np.float64, None)
        points = array(arrays, "points", np.float64, len(weights), len(features.names))
        if len(weights) > MAX_POINTS:
            raise damaged(f"a surface has {len(weights)} points; at most {MAX_POINTS}")
        return cls(features, points, weights, said.reach, said.offset, said.floor_ms)


def on_grid(x: Floats) -> Floats:
    """Features of whole models, in octaves and quarters, to 16 bits behind the point; the same shape."""
    return np.rint(np.clip(x, -_FARTHEST, _FARTHEST) * _GRID) / _GRID


def distances(x: Floats, points: Floats) -> Floats:
    """Euclidean distances float64[n, m] between float64[n, d] and float64[m, d]."""
    squares = (x**2).sum(axis=1)[:, None] + (points**2).sum(axis=1)[None, :] - 2 * x @ points.T
    found: Floats = np.sqrt(np.maximum(squares, 0))
    return found


def matern(distance: Floats, reach: float) -> Floats:
    """Matern's covariance with one derivative (nu = 3/2), 1 at distance 0; the same shape."""
    scaled = np.sqrt(3) / reach * distance
    found: Floats = (1 + scaled) * np.exp(-scaled)
    return found
