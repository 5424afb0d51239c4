"""What learns one number from a kernel: the logarithm of a latency, or of its ratio to a base.

A learner's model predicts exp(target). None of them needs PyTorch; networks are fitted many at once in ``networks``.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import numpy as np

from benchfarm_predictor.features import KernelFeatures, View, kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Batch, Features, Model
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.smooth import Smooth, distances, matern
from benchfarm_predictor.training.absent import TREES
from benchfarm_predictor.training.trees import boosted, extra_trees

REACHES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""In octaves."""
NOISES: Final = (1e-3, 1e-2, 1e-1, 1.0)
"""Variance of what a surface cannot explain, over that of the surface."""
CONSTANT: Final = 100.0
"""Variance of the offset: as good as free."""
SEARCH_ROWS: Final = 400
"""Reach and noise are chosen on so many rows at most: what costs is a power of three of them."""
CAPPED: Final = 0.5
"""A row that is further off than this counts no more: one that cannot be learnt must not choose the surface."""


class Learner(Protocol):
    """Fits a model to targets."""

    @property
    def name(self) -> str:
        """In a candidate's name."""
        ...

    max_rows: ClassVar[int]
    """With more rows it costs too much, and others have caught up."""
    needs: ClassVar[str | None]
    """A package beside numpy."""
    is_costly: ClassVar[bool]
    """Whether it is kept for the best bases where rows are many."""

    def fit(self, kernels: Kernels, target: Floats, seed: int) -> Model:
        """A model that predicts exp(target) of such kernels; ``target`` float64[n]."""
        ...


@dataclass(frozen=True)
class RidgeLearner:
    """Linear in the features of a view; extrapolates."""

    name: str = "ridge"
    view: View = "full"
    max_rows: ClassVar[int] = 100_000
    needs: ClassVar[str | None] = None
    is_costly: ClassVar[bool] = False

    def fit(self, kernels: Kernels, target: Floats, seed: int) -> Model:
        del seed  # there is nothing random in it
        return fit_ridge(kernel_features(kernels, self.view), kernels, np.exp(target)).model


@dataclass(frozen=True)
class ExtraTreesLearner:
    """Extremely randomised trees (Geurts 2006): steady with few rows."""

    name: str = "extra-trees"
    max_rows: ClassVar[int] = 20_000
    needs: ClassVar[str | None] = TREES
    is_costly: ClassVar[bool] = True

    def fit(self, kernels: Kernels, target: Floats, seed: int) -> Model:
        return extra_trees(kernel_features(kernels), kernels, target, seed)


@dataclass(frozen=True)
class BoostedLearner:
    """Boosted shallow trees (Friedman 2002)."""

    name: str = "boosted-trees"
    max_rows: ClassVar[int] = 5_000
    needs: ClassVar[str | None] = TREES
    is_costly: ClassVar[bool] = True

    def fit(self, kernels: Kernels, target: Floats, seed: int) -> Model:
        return boosted(kernel_features(kernels), kernels, target, seed)


@dataclass(frozen=True)
class SmoothLearner:
    """A Gaussian process (Rasmussen & Williams 2006): the best surface through few rows."""

    name: str = "smooth"
    search_rows: int = SEARCH_ROWS
    max_rows: ClassVar[int] = 1_500
    needs: ClassVar[str | None] = None
    is_costly: ClassVar[bool] = False

    def fit(self, kernels: Kernels, target: Floats, seed: int) -> Model:
        return smooth_surface(smooth_features(kernels), kernels, target, seed, self.search_rows)


def smooth_surface(
    features: Features, batch: Batch, target: Floats, seed: int, search_rows: int = SEARCH_ROWS
) -> Smooth:
    """The surface through the rows of a batch, in the space of these features; ``target`` float64[n]."""
    x = features.matrix(batch)
    reach, noise = _chosen(x, target, seed, search_rows)
    weights, offset = _solved(matern(distances(x, x), reach), noise, target)
    return Smooth(features, np.array(x), weights, reach, offset)


def smooth_features(kernels: Kernels) -> KernelFeatures:
    """What distance means something in: sizes, costs and paddings in octaves, and flags. No remainders."""
    features = kernel_features(kernels)
    return features.select(name for name in features.names if "_mod" not in name)


def _chosen(x: Floats, target: Floats, seed: int, search_rows: int) -> tuple[float, float]:
    """Reach and noise with the least error when each row is left out in turn."""
    rows = np.random.default_rng(seed).permutation(len(x))[:search_rows]
    apart, some = distances(x[rows], x[rows]), target[rows]
    found = [(_left_out_error(matern(apart, reach), some), reach) for reach in REACHES]
    (_, noise), reach = min(found)
    return reach, noise


def _left_out_error(covariance: Floats, target: Floats) -> tuple[float, float]:
    """The least mean capped error over the noises, and that noise (closed form, Rasmussen & Williams eq. 5.12)."""
    values, vectors = np.linalg.eigh(covariance + CONSTANT)
    turned = vectors.T @ target
    best = (np.inf, NOISES[0])
    for noise in NOISES:
        inverse = 1 / (np.maximum(values, 0) + noise)
        errors = (vectors @ (inverse * turned)) / (vectors**2 @ inverse)
        best = min(best, (float(np.minimum(np.abs(errors), CAPPED).mean()), noise))
    return best


def _solved(covariance: Floats, noise: float, target: Floats) -> tuple[Floats, float]:
    """Weights float64[n] and offset."""
    system = covariance + CONSTANT + noise * np.eye(len(target))
    weights = np.asarray(np.linalg.solve(system, target), dtype=np.float64)
    return weights, CONSTANT * float(weights.sum())


CORRECTIONS: Final[tuple[Learner, ...]] = (RidgeLearner(), SmoothLearner(), ExtraTreesLearner(), BoostedLearner())
"""What learns the ratio to a base."""
