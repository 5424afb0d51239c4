"""How alike two platforms are in one kernel type, by their latencies over the probe set.

LitePred (NSDI 2024), its similarity detection: the divergence of latency vectors, each normalised to sum 1; the least
one wins. Unlike its released code: ascending, in full precision, with an interval, and with a bound beyond which
nobody is near.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.metrics import spearman
from benchfarm_predictor.training_rows import checked_ms

NO_NEIGHBOUR: Final = 0.5
"""Divergence from which on a donor's shape is not the target's: log ratios of a standard deviation of about 1.

Over 320 convolutions on one processor, engines diverge from each other by 0.04 (two versions of one) to 0.3 (the
farthest pair, which still helped each other below 80 samples); three GPUs by 0.01 to 0.02; latencies dealt out anew to
the configurations by 4.
"""
LEAST_COMMON: Final = 8
"""Configurations that a donor and the target must share; with fewer nothing is said of that donor."""
RESAMPLES: Final = 200
_TAILS: Final = (5.0, 95.0)


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
    target_ms: Floats,
    donors_ms: Mapping[str, Floats],
    *,
    bound: float = NO_NEIGHBOUR,
    seed: int = 0,
    least: int = LEAST_COMMON,
) -> tuple[Likeness, ...]:
    """The donors, the most alike first; among equals by name.

    All vectors are float64[n] over the same configurations. NaN stands for what a donor has not; donors with fewer than
    ``least`` others are left out, so that the answer may be empty.

    Raises:
        InvalidRequest: ``training_rows_invalid``: a vector of another length, or what is no positive number.
    """
    target = checked_ms(target_ms, len(target_ms))
    found = []
    for name, given in sorted(donors_ms.items()):
        has = ~np.isnan(np.asarray(given, dtype=np.float64))
        donor = checked_ms(np.where(has, given, 1.0), len(target))
        if has.sum() >= least:
            found.append(_likeness(name, donor[has], target[has], bound, seed))
    return tuple(sorted(found, key=lambda each: each.divergence))


def divergence(donor_ms: Floats, target_ms: Floats) -> Floats:
    """KL(donor || target) over the last axis, both normalised to sum 1 there: 0 for equal shapes, else positive."""
    p = donor_ms / donor_ms.sum(axis=-1, keepdims=True)
    q = target_ms / target_ms.sum(axis=-1, keepdims=True)
    found: Floats = np.maximum(np.sum(p * np.log(p / q), axis=-1), 0.0)
    return found


def _likeness(name: str, donor: Floats, target: Floats, bound: float, seed: int) -> Likeness:
    drawn = np.random.default_rng(seed).integers(0, len(target), size=(RESAMPLES, len(target)))
    low, high = np.percentile(divergence(donor[drawn], target[drawn]), _TAILS)
    found = float(divergence(donor, target))
    return Likeness(
        donor=name,
        divergence=found,
        low=float(low),
        high=float(high),
        spearman=spearman(donor, target),
        log_ratio_variance=float(np.var(np.log(target / donor))),
        count=len(target),
        is_near=found < bound,
    )
