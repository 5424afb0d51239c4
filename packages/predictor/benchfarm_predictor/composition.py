"""A whole model's latency from its kernels: their sum, corrected, with an interval and with what is not known.

Model A of the prototype is a ridge on ``sums.SumFeatures``; model B is ``KernelSum``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Model
from benchfarm_predictor.ridge import RidgeFit


@dataclass(frozen=True, eq=False)
class KernelSum:
    """factor x sum of kernels + offset_ms + per_kernel_ms x number of kernels.

    ``kernels``: a model for each kernel type. ``fallback``: a model on `general` features for every other catalogue
    type; without it such kernels count nothing, and are listed all the same (see ``compose``).
    """

    kind: ClassVar[str] = "kernel_sum"
    kernels: Mapping[str, Model]
    fallback: Model | None
    factor: float = 1.0
    offset_ms: float = 0.0
    per_kernel_ms: float = 0.0


def fit_whole_model(lists: KernelLists, latency_ms: Floats) -> RidgeFit:
    """Model A: ridge on per-family sums, rows weighted 1/T^2, penalty by leave-one-out.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``.
    """
    raise NotImplementedError


def fit_kernel_sum(
    kernels: Mapping[str, Model], fallback: Model | None, lists: KernelLists, latency_ms: Floats
) -> KernelSum:
    """Model B: the three numbers that bring sums of kernels to whole-model latencies, least squares of relative errors,
    held near (1, 0, 0) where lists are few.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``.
    """
    raise NotImplementedError
