"""How alike two platforms are in one kernel type, by their latencies over the probe set.

LitePred (NSDI 2024) section 4.3: the divergence of latency vectors, each normalised to sum 1; the least one wins.
Unlike its released code: ascending, in full precision, with an interval, and with a bound beyond which nobody is near.
"""

from collections.abc import Mapping
from typing import Final

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats

NO_NEIGHBOUR: Final = 0.1
"""Divergence from which on a donor's shape is not the target's: about log ratios of standard deviation 0.45."""


class Likeness(Value):
    """A donor against a target over the same configurations.

    ``divergence``: KL(donor || target) of the normalised vectors, blind to a constant factor; ``low``, ``high``: its
    90 % bootstrap interval. ``log_ratio_variance``: of ln(target / donor). ``is_near``: below the no-neighbour bound.
    """

    donor: str
    divergence: float
    low: float
    high: float
    spearman: float | None
    log_ratio_variance: float
    count: int
    is_near: bool


def rank_donors(
    target_ms: Floats, donors_ms: Mapping[str, Floats], *, bound: float = NO_NEIGHBOUR, seed: int = 0
) -> tuple[Likeness, ...]:
    """The donors, the most alike first. All vectors are float64[n] over the same configurations; a donor's rows that it
    has not are NaN and left aside.

    Raises:
        InvalidRequest: ``training_rows_invalid``: a vector of another length, no common row, no positive number.
    """
    raise NotImplementedError
