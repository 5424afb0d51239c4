"""Whole-model features: sums over a kernel list per kernel family (work, traffic, weights, count)."""

from dataclasses import dataclass

from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Batch, FeatureSpec


@dataclass(frozen=True)
class SumFeatures:
    """Features of kernel lists: per family MMACs, count, MB of traffic and of weights; resolution; number of kernels."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the d features, in order; the same for all kernel lists."""
        raise NotImplementedError

    def matrix(self, batch: Batch) -> Floats:
        """float64[n, d]. Raises InvalidRequest, ``kernel_unknown``, for a batch that is no ``KernelLists``."""
        raise NotImplementedError

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        raise NotImplementedError
