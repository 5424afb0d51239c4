"""What a predictor answers: milliseconds with an interval, and what it did not know.

An interval holds for configurations like those it was calibrated on. Outside them it is widened by rules that are no
guarantee: by ``PER_OCTAVE`` for each octave outside the trained range, and up to ``UNKNOWN`` times where kernels are
guessed. What widened it is listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.conformal import Intervals
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints, Kernels
from benchfarm_predictor.models import Batch, Model
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.trained_range import TrainedRange

PER_OCTAVE: Final = 1.25
"""A third of an octave beyond every input that was seen, the better models were 3 to 8 % off, trees alone 10 %."""
UNKNOWN: Final = 3.0
"""A kernel without a model is guessed from its costs: engines differ by that much from one kernel type to another."""
UNCALIBRATED: Final = Intervals(np.zeros(0), np.array([2.0]), 0.9, 0.0)
"""Where nothing was left to calibrate on: a factor of two, and no guarantee (coverage 0)."""
MAX_LISTED: Final = 20
"""Of unknown kernels and of findings, for each row."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of n rows.

    Attributes:
        latency_ms, low_ms, high_ms: float64[n].
        coverage: what the interval guarantees inside the trained range.
        unknown: per row the kernel types that have no model.
        outside: per row what lies outside the trained range, as ``conv-bn-act: cout=2048 (16 to 960)``.
    """

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    coverage: float
    unknown: tuple[tuple[str, ...], ...]
    outside: tuple[tuple[str, ...], ...]


def answer(predictor: Predictor, batch: Batch) -> Predictions:
    """The predictor's answer for each row of the batch.

    Raises:
        InvalidRequest: ``kernel_unknown`` when the batch is not of what the predictor takes.
    """
    model, trained = predictor.model, predictor.trained
    latency_ms = model.predict(batch)
    extra = np.ones(len(latency_ms))
    unknown: tuple[tuple[str, ...], ...] = ((),) * len(extra)
    outside = unknown
    if isinstance(batch, KernelLists):
        unknown = _unknown(model, batch)
        extra = 1 + (UNKNOWN - 1) * _unknown_share(model, batch)
    if trained is not None:
        extra = extra * PER_OCTAVE ** np.minimum(trained.octaves_outside(batch), 64)
        outside = _outside(trained, batch)
    intervals = predictor.intervals or UNCALIBRATED
    low, high = intervals.bounds(latency_ms, extra)
    return Predictions(latency_ms, low, high, intervals.coverage, unknown, outside)


def _unknown_share(model: Model, lists: KernelLists) -> Floats:
    if isinstance(model, KernelSum):
        return model.unknown_share(lists)
    foreign = lists.sums(lambda kernels: np.full(len(kernels), float(not kernels.is_known)))
    share: Floats = foreign / np.maximum(lists.kernel_counts, 1)
    return share


def _unknown(model: Model, lists: KernelLists) -> tuple[tuple[str, ...], ...]:
    found: list[list[str]] = [[] for _ in range(len(lists))]
    for name, entries in lists.by_type.items():
        known = model.knows(entries.kernels) if isinstance(model, KernelSum) else entries.kernels.is_known
        if not known:
            for owner in np.unique(entries.owner):
                found[owner].append(name)
    return _listed(found)


def _outside(trained: TrainedRange, batch: Batch) -> tuple[tuple[str, ...], ...]:
    found: list[list[str]] = [[] for _ in range(len(batch))]
    if isinstance(batch, Kernels):
        _add_findings(found, trained, batch, np.arange(len(batch)), np.arange(len(batch)))
    else:
        for entries in batch.by_type.values():
            _add_findings(found, trained, entries.kernels, entries.owner, entries.kernel)
    return _listed(found)


def _add_findings(found: list[list[str]], trained: TrainedRange, kernels: Kernels, owner: Ints, kernel: Ints) -> None:
    """Adds the findings of ``kernels[kernel[i]]`` to row ``owner[i]``."""
    is_outside = trained.outside(kernels).sum(axis=1) > 0
    for row, at in zip(owner[is_outside[kernel]], kernel[is_outside[kernel]], strict=True):
        if len(found[row]) < MAX_LISTED:
            found[row] += [f"{kernels.type}: {finding}" for finding in trained.findings(kernels, int(at))]


def _listed(found: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(dict.fromkeys(each))[:MAX_LISTED] for each in found)
