"""Donors of whole models: what another platform's predictor says of them, and what was measured there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Model
from benchfarm_predictor.similarity import LEAST_COMMON, rank_donors
from benchfarm_predictor.training.donors import Donor
from benchfarm_predictor.training.platform_rows import MeasuredModels

NEAREST: Final = 2
"""So many donors are corrected."""
LEAST_COMMON_SHARE: Final = 0.5


@dataclass(frozen=True, eq=False)
class PlatformDonor:
    """A platform with what it knows, for the predictors of another one. Make it by ``platform_fit.donor_of``.

    Attributes:
        alone, in_situ: donors by kernel type.
        model: predicts whole models; None where too few of them were measured.
        models: the platform's own whole models; ``unseen_ms``: float64[n], what is predicted for each when it is held
            back.
    """

    name: str
    alone: Mapping[str, Donor] = field(default_factory=dict)
    in_situ: Mapping[str, Donor] = field(default_factory=dict)
    model: Model | None = None
    models: MeasuredModels | None = None
    unseen_ms: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class ModelView:
    """A donor over n whole models, in log ms, float64[n]: predicted without having seen the model, and measured (NaN
    where it was not). Both are of the kernels that the target's engine makes of a model, as its model will be asked.

    ``spaces``: of the donor's own whole models, None for those that are no architecture.
    """

    name: str
    model: Model
    predicted: Floats
    measured: Floats
    spaces: frozenset[str | None] = frozenset()


def model_views(
    donors: Sequence[PlatformDonor], rows: MeasuredModels, seed: int, least: int = LEAST_COMMON
) -> tuple[ModelView, ...]:
    """The nearest donors over the rows, the most alike first, by how they would have the rows' latencies relate.

    A donor that never had most of the rows' kernels, by their types, is left out, and so is one that nobody would call
    alike; of two of one name the first stays. With fewer than ``least`` rows nobody is called alike.
    """
    views: dict[str, ModelView] = {}
    for donor in donors:
        if donor.name not in views and (view := _view(donor, rows)) is not None:
            views[donor.name] = view
    said_ms = {name: np.exp(view.predicted) for name, view in views.items()}
    ranked = rank_donors(rows.latency_ms, said_ms, seed=seed, least=least)
    return tuple(views[likeness.donor] for likeness in ranked if likeness.is_near)[:NEAREST]


def _view(donor: PlatformDonor, rows: MeasuredModels) -> ModelView | None:
    if donor.model is None or donor.models is None:
        return None
    if _common_share(donor.models, rows) < LEAST_COMMON_SHARE:
        return None
    places = {name: at for at, name in enumerate(donor.models.ids)}
    own = np.array([places.get(name, -1) for name in rows.ids], dtype=np.int64)
    is_own = own >= 0
    said_ms = donor.model.predict(rows.lists)
    moved = np.ones(len(rows))
    if is_own.any():
        # engines fuse otherwise: the same network is other kernels here, and those are what the model will be asked of
        moved = said_ms / donor.model.predict(donor.models.lists)[own]
    predicted_ms = np.where(is_own, donor.unseen_ms[own] * moved, said_ms)
    measured_ms = np.where(is_own, donor.models.latency_ms[own] * moved, np.nan)
    spaces = frozenset(donor.models.spaces)
    return ModelView(donor.name, donor.model, np.log(predicted_ms), np.log(measured_ms), spaces)


def _common_share(donor: MeasuredModels, rows: MeasuredModels) -> float:
    """The share of the rows' kernels whose type the donor's models have."""
    counts = {name: int(entries.count.sum()) for name, entries in rows.lists.by_type.items()}
    common = sum(count for name, count in counts.items() if name in donor.lists.by_type)
    return common / max(sum(counts.values()), 1)
