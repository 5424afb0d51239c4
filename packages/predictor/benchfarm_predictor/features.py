"""Features of kernels: sizes, costs and the staircases that engines' blocks and tiles cut into latency."""

from dataclasses import dataclass
from typing import Final, Literal

from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Batch, FeatureSpec

FEATURES_VERSION: Final = 1
"""Of names and formulas in ``features``, ``quantities`` and ``sums``; a file of another version is refused."""

View = Literal["full", "quadratic", "lines", "published", "general"]
"""Which features.

- ``full``: everything in logarithms, with remainders, paddings and tiles: for trees and networks.
- ``quadratic``: logarithms of sizes and costs, their products two by two, paddings and flags: for a ridge, target `log`.
- ``lines``: work, padded work, traffic and weights in plain units: for a ridge, target `ms`; it extrapolates.
- ``published``: the configuration as it is, then MMACs and millions of parameters, as LitePred's network sees it.
- ``general``: costs and shapes that every catalogue type has, without its own columns: for kernels of unknown types.

A foreign kernel type has generic features of its columns instead, in each view.
"""


@dataclass(frozen=True)
class KernelFeatures:
    """Features of one kernel type. ``columns`` are those of ``Kernels.columns``; ``only``: some of the view's names.

    Make them by ``kernel_features``.
    """

    type: str
    columns: tuple[str, ...]
    view: View = "full"
    only: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the d features, in order."""
        raise NotImplementedError

    def matrix(self, batch: Batch) -> Floats:
        """float64[n, d], all finite; the same array again for the same batch, read-only.

        Columns that the batch has beyond ``columns`` are left aside; those that it lacks are 0 (never a catalogue
        column: `Kernels` has them all).

        Raises:
            InvalidRequest: ``kernel_unknown`` when the batch is of another kernel type.
        """
        raise NotImplementedError

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        raise NotImplementedError

    def select(self, names: tuple[str, ...]) -> "KernelFeatures":
        """Some of these features, in that order. Raises KeyError."""
        raise NotImplementedError


def kernel_features(kernels: Kernels, view: View = "full") -> KernelFeatures:
    """The features of that kernel type and those columns."""
    return KernelFeatures(kernels.type, kernels.columns, view)
