"""Donors: platforms whose predictors and rows help to predict another one."""

from dataclasses import dataclass

import numpy as np

from benchfarm_predictor.combined import Residual
from benchfarm_predictor.kernels import Floats, Kernels, Rows
from benchfarm_predictor.models import Model
from benchfarm_predictor.training.measured import Measured, config_keys


@dataclass(frozen=True, eq=False)
class Donor:
    """A platform's predictor of one kernel type with the rows that it learnt from.

    Attributes:
        name: of the platform.
        model: fitted on all of ``measured``.
        measured: the donor's own rows.
        unseen_ms: float64[rows], what the donor predicts for each of its rows when that row is held back.
        networks: what fine-tuning starts from; None without PyTorch.
        networks_unseen_ms: float64[rows], what these say of the donor's rows, each held back.
    """

    name: str
    model: Model
    measured: Measured
    unseen_ms: Floats
    networks: Residual | None = None
    networks_unseen_ms: Floats | None = None

    def over(self, kernels: Kernels) -> "DonorView":
        """The donor over some configurations of the same kernel type.

        A donor knows its own rows by heart. Judged on those it would look better than it will be on new ones, so there
        it says what it said when they were held back.
        """
        places = {key: at for at, key in enumerate(config_keys(self.measured.kernels))}
        own = np.array([places.get(key, -1) for key in config_keys(kernels)], dtype=np.int64)
        is_own = own >= 0
        predicted_ms = np.where(is_own, self.unseen_ms[own], self.model.predict(kernels))
        measured_ms = np.where(is_own, self.measured.latency_ms[own], np.nan)
        memorised = np.zeros(len(own))
        if self.networks is not None and self.networks_unseen_ms is not None:
            by_heart = np.log(self.networks.predict(kernels))
            memorised = np.where(is_own, np.log(self.networks_unseen_ms[own]) - by_heart, 0.0)
        return DonorView(self, np.log(predicted_ms), np.log(measured_ms), memorised)


@dataclass(frozen=True, eq=False)
class DonorView:
    """A donor over n configurations: logarithms of ms, float64[n].

    ``predicted`` without having seen the row; ``measured`` is NaN where the donor was not measured. ``memorised``: how
    far the donor's networks are, having seen a row, from what they said of it before; 0 for rows that they never saw.
    """

    donor: Donor
    predicted: Floats
    measured: Floats
    memorised: Floats

    def take(self, rows: Rows) -> "DonorView":
        """Over some of the configurations, in that order."""
        return DonorView(self.donor, self.predicted[rows], self.measured[rows], self.memorised[rows])
