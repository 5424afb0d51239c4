"""Which configurations a predictor was trained on, and how far outside a configuration lies."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Batch


@dataclass(frozen=True, eq=False)
class TrainedRange:
    """Per kernel type its columns with least and largest value seen; int64[columns] each."""

    columns: Mapping[str, tuple[str, ...]]
    low: Mapping[str, Ints]
    high: Mapping[str, Ints]

    @classmethod
    def of(cls, batch: Batch) -> "TrainedRange":
        """The range of what a model is fitted on."""
        raise NotImplementedError

    def octaves_outside(self, batch: Batch) -> Floats:
        """float64[n]: 0 inside; else the sum over columns of how often the nearest bound must be doubled or halved."""
        raise NotImplementedError
