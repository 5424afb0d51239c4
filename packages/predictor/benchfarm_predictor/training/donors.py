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
        networks: a part of the model that fine-tuning can start from; None without PyTorch.
    """

    name: str
    model: Model
    measured: Measured
    unseen_ms: Floats
    networks: Residual | None = None

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
        return DonorView(self, np.log(predicted_ms), np.log(measured_ms))


@dataclass(frozen=True, eq=False)
class DonorView:
    """A donor over n configurations: logarithms of ms, float64[n].

    ``predicted`` without having seen the row; ``measured`` is NaN where the donor was not measured.
    """

    donor: Donor
    predicted: Floats
    measured: Floats

    def take(self, rows: Rows) -> "DonorView":
        """Over some of the configurations, in that order."""
        return DonorView(self.donor, self.predicted[rows], self.measured[rows])
