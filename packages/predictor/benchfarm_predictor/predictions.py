"""What a predictor answers: milliseconds with an interval, and what it did not know.

An interval holds for configurations like those it was calibrated on. Outside them it is widened by rules that are no
guarantee: by ``PER_OCTAVE`` for each octave outside the trained range, up to ``UNKNOWN`` times where kernels are
guessed, and up to ``ALL_MISSING`` times where kernels are predicted as nothing. What widened it is listed, and its
coverage is 0: nothing is promised there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.combined import Regional
from benchfarm_predictor.conformal import Intervals
from benchfarm_predictor.elementary import exp
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints, Kernels
from benchfarm_predictor.models import Batch
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.trained_range import TrainedRange, totals
from benchfarm_predictor.unknown_kernels import Unknown, unknown_of

PER_OCTAVE: Final = 1.25
"""A third of an octave beyond every input that was seen, the better models were 3 to 8 % off, trees alone 10 %."""
_LOG_PER_OCTAVE: Final = math.log(PER_OCTAVE)
UNKNOWN: Final = 3.0
"""A kernel without a model is guessed from its costs: engines differ by that much from one kernel type to another."""
ALL_MISSING: Final = 10.0
"""Where so little is known that a model may take more than so many times what was predicted, nothing more is said."""
UNCALIBRATED: Final = Intervals(np.zeros(0), np.array([2.0]), 0.9, 0.0)
"""Where nothing was left to calibrate on: a factor of two, and no guarantee (coverage 0)."""
MAX_LISTED: Final = 20
"""Of unknown kernels and of findings, for each row."""
MAX_TEXT: Final = 200
"""Characters of each of them: operators of uploaded models have names of any length."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of n rows.

    Attributes:
        latency_ms, low_ms, high_ms: float64[n].
        coverage: float64[n], of the interval, as ``conformal.Intervals`` means it; 0 where a rule made it, because
            something is unknown, outside the trained range, or in no region that has rows.
        unknown: per row the kernel types that are guessed, or predicted as nothing.
        outside: per row what lies outside the trained range, as ``conv-bn-act: cout=2048 (16 to 960)``; totals of whole
            models first, as ``model: kernels=90 (40 to 70)``.
    """

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    coverage: Floats
    unknown: tuple[tuple[str, ...], ...]
    outside: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Of n rows: what ``Predictions`` has without its texts, and what those are made of.

    Attributes:
        unknown: of kernel lists what is unknown of them. octaves: outside the trained range; None: nowhere.
        places: of a model of regions those of the rows.
    """

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    coverage: Floats
    unknown: Unknown | None
    octaves: Floats | None
    places: Ints | None


def answer(predictor: Predictor, batch: Batch, listed: int = MAX_LISTED) -> Predictions:
    """The predictor's answer for each row of the batch; ``listed``: how many unknown kernels and findings are told.

    Raises:
        InvalidRequest: ``kernel_unknown`` when the batch is not of what the predictor takes.
    """
    found, model, trained = numbers(predictor, batch), predictor.model, predictor.trained
    unknown: tuple[tuple[str, ...], ...] = ((),) * len(batch)
    outside = unknown
    if found.unknown is not None and any(has.any() for has in found.unknown.types.values()):
        unknown = _listed(found.unknown.by_row(), listed)
    if trained is not None and found.octaves is not None:
        outside = _outside(trained, batch, listed)
    if found.places is not None and isinstance(model, Regional):
        outside = _with_strangers(outside, model, found.places)
    return Predictions(found.latency_ms, found.low_ms, found.high_ms, found.coverage, unknown, outside)


def numbers(predictor: Predictor, batch: Batch) -> Numbers:
    """The same without texts. Raises as ``answer``."""
    model, trained = predictor.model, predictor.trained
    latency_ms = model.predict(batch)
    extra = np.ones(len(latency_ms))
    unknown, octaves, places = None, None, None
    if isinstance(batch, KernelLists):
        unknown = unknown_of(model, batch, trained)
        extra = _widening(unknown)
    if trained is not None and (found := trained.octaves_outside(batch)).any():
        octaves = found
        extra = extra * exp(np.minimum(octaves, 64) * _LOG_PER_OCTAVE)
    is_ruled = extra > 1
    if isinstance(batch, KernelLists) and isinstance(model, Regional):
        places = model.places(batch)
        widening = model.widening(batch)
        extra = extra * widening
        is_ruled |= ~model.is_sampled(places) | (widening > model.widenings[places])
    intervals = predictor.intervals or UNCALIBRATED
    low, high = intervals.bounds(latency_ms, extra)
    coverage = np.where(is_ruled, 0.0, intervals.coverage)
    return Numbers(latency_ms, low, high, coverage, unknown, octaves, places)


def _widening(unknown: Unknown) -> Floats:
    """float64[n], at least 1: of what is guessed up to ``UNKNOWN``; what is predicted as nothing comes on top."""
    guess = 1 + (UNKNOWN - 1) * np.minimum(unknown.guessed + unknown.missing, 1)
    on_top: Floats = 1 / np.maximum(1 - unknown.missing, 1 / ALL_MISSING)
    return np.maximum(guess, on_top)


def _with_strangers(outside: tuple[tuple[str, ...], ...], model: Regional, places: Ints) -> tuple[tuple[str, ...], ...]:
    """With a word on whole models that lie in no region; ``places``: int64[n], their regions."""
    known = f"of {', '.join(model.regions)}" if model.regions else "for there were too few of each search space"
    said = (f"like no measured architectures {known}"[:MAX_TEXT],)
    is_strange = places == len(model.regions)
    return tuple(found + said if strange else found for found, strange in zip(outside, is_strange, strict=True))


def _outside(trained: TrainedRange, batch: Batch, listed: int) -> tuple[tuple[str, ...], ...]:
    found: list[list[str]] = [[] for _ in range(len(batch))]
    if isinstance(batch, Kernels):
        _add_findings(found, trained, batch, np.arange(len(batch)), np.arange(len(batch)), listed)
    else:
        every = np.arange(len(batch))
        _add_findings(found, trained, totals(batch), every, every, listed)
        for entries in batch.by_type.values():
            if trained.outside(entries.kernels).any():
                _add_findings(found, trained, entries.kernels, entries.owner, entries.kernel, listed)
    return _listed(found, listed)


def _add_findings(
    found: list[list[str]], trained: TrainedRange, kernels: Kernels, owner: Ints, kernel: Ints, listed: int
) -> None:
    """Adds the findings of ``kernels[kernel[i]]`` to row ``owner[i]``; thousands of models may hold the same kernel."""
    is_outside = trained.outside(kernels).sum(axis=1) > 0
    texts: dict[int, list[str]] = {}
    for row, at in zip(owner[is_outside[kernel]].tolist(), kernel[is_outside[kernel]].tolist(), strict=True):
        if len(found[row]) >= listed:
            continue
        if at not in texts:
            alone = kernels.take(slice(at, at + 1))
            texts[at] = [f"{kernels.type}: {finding}" for finding in trained.findings(alone, 0)]
        found[row] += texts[at]


def _listed(found: Sequence[Sequence[str]], listed: int) -> tuple[tuple[str, ...], ...]:
    """Different ones, cut; equal texts are one object, for thousands of rows say the same."""
    cut: dict[str, str] = {}
    return tuple(
        tuple(cut.setdefault(text, text[:MAX_TEXT]) for text in [*dict.fromkeys(each)][:listed]) if each else ()
        for each in found
    )
