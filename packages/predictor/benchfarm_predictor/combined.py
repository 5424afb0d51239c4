"""Models made of models: a donor times a factor, a base times a correction, means and stacks of several."""

from dataclasses import dataclass
from typing import ClassVar

from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Batch, Model


@dataclass(frozen=True, eq=False)
class Scaled:
    """factor x base: the base's shape at another speed."""

    kind: ClassVar[str] = "scaled"
    base: Model
    factor: float


@dataclass(frozen=True, eq=False)
class Residual:
    """base x correction. The correction was fitted on latency / base (target `log`: on its logarithm)."""

    kind: ClassVar[str] = "residual"
    base: Model
    correction: Model


@dataclass(frozen=True, eq=False)
class Mean:
    """The arithmetic mean of its members, in ms."""

    kind: ClassVar[str] = "mean"
    members: tuple[Model, ...]


@dataclass(frozen=True, eq=False)
class Stacked:
    """exp(offset) x product of member ^ weight: several donors at once. ``weights``: one for each member."""

    kind: ClassVar[str] = "stacked"
    members: tuple[Model, ...]
    weights: tuple[float, ...]
    offset: float


def fit_scaled(base: Model, batch: Batch, latency_ms: Floats) -> Scaled:
    """The factor is exp(median of log ratios): half of the rows lie above, whatever the outliers.

    Raises:
        InvalidRequest: ``training_rows_invalid``: no row, or a latency that is no positive number.
    """
    raise NotImplementedError


def fit_stacked(members: tuple[Model, ...], batch: Batch, latency_ms: Floats) -> Stacked:
    """Weights by ridge in log space, shrunk towards equal ones that sum to 1, the penalty by leave-one-out.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``.
    """
    raise NotImplementedError
