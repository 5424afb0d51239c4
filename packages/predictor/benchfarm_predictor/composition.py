"""A whole model's latency from its kernels: their sum, and the correction that whole models teach.

Two models on kernel lists. A: a ridge on ``sums.SumFeatures``, from some 80 measured models up the better one. B:
``KernelSum``, which needs few whole models but kernels timed in situ. Kernels timed alone do not add up: context
changes them by factors that no correction of three numbers repairs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value
from benchfarm_predictor.features import general_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import (
    Array,
    Arrays,
    Batch,
    Decoder,
    Meta,
    Model,
    Number,
    checked,
    damaged,
    milliseconds,
    under,
    within,
)
from benchfarm_predictor.ridge import FLOOR, LARGE_PENALTIES, PENALTIES, RidgeFit, fit_on_matrix, fit_ridge
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.tabled_lists import tabled
from benchfarm_predictor.training_rows import checked_ms

MAX_TYPES: Final = 128
SUM_PENALTIES: Final = LARGE_PENALTIES
"""Of whole-model sums. With smaller ones a ridge passes through every row where rows are as few as sums; then leaving a
row out says little: of 192 such fits on 12 or 20 made-up networks 34 were more than twice as far off on new ones, with
these 19; from 40 on nothing changes. Of measured networks (ONNX Runtime, two spaces of 90, 40 draws each) the mean
error fell from 4.9 to 4.6 % with 20 rows; with 12, 40 and 60 it was the same to 0.05 points.
"""
PER_MS: Final = 2.0**36
"""Times of kernels are multiples of one part in so many of a millisecond: sums are exact up to two minutes, in whatever
order they are added up."""
_ROWS: Final = 64
_FALLBACK: Final = "fallback"
_LEAST_SLACK: Final = 1e-9
_FINES: Final = np.diag([0.01, 1.0, 1.0])
"""Of factor, offset and time per kernel: two whole models tell a factor, and nothing about the others."""


class _KernelSumMeta(Value):
    kind: Literal["kernel_sum"] = "kernel_sum"
    types: tuple[str, ...] = Field(max_length=MAX_TYPES)
    models: tuple[dict[str, Any], ...] = Field(max_length=MAX_TYPES)
    fallback: dict[str, Any] | None
    guessed: tuple[str, ...] = Field(default=(), max_length=MAX_TYPES)
    factor: Number
    offset_ms: Number
    per_kernel_ms: Number


class _TabledSumMeta(Value):
    kind: Literal["tabled_sum"] = "tabled_sum"
    number: int = Field(ge=0, lt=MAX_TYPES)
    factor: Number
    offset_ms: Number
    per_kernel_ms: Number


@dataclass(frozen=True, eq=False)
class KernelSum:
    """factor x sum of kernels + offset_ms + per_kernel_ms x number of kernels, never below a tenth of the first.

    ``kernels``: a model for each kernel type. ``guessed``: types among them that were timed otherwise than the rest.
    ``fallback``: a model on `general` features for every other catalogue type. A kernel that neither knows adds nothing
    to the sum; ``unknown_kernels`` tells of all three.
    """

    kind: ClassVar[str] = "kernel_sum"
    kernels: Mapping[str, Model]
    fallback: Model | None
    factor: float = 1.0
    offset_ms: float = 0.0
    per_kernel_ms: float = 0.0
    guessed: frozenset[str] = frozenset()

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms. Raises InvalidRequest, ``kernel_unknown``, for a batch of single kernels."""
        lists = whole_models(batch)
        sums = self.kernel_sums(lists)
        scaled = self.factor * sums
        return _above_floor(scaled + self.offset_ms + self.per_kernel_ms * lists.kernel_counts, scaled)

    def kernel_sums(self, lists: KernelLists) -> Floats:
        """Sums of the kernels' own predictions, not corrected: float64[n] in ms."""
        return lists.sums(self._each, self, "ms")

    def guessed_share(self, lists: KernelLists, judged: Collection[str] = ()) -> Floats:
        """How much of each model's sum is guessed: float64[n] in [0, 1]. Guesses of ``judged`` types do not count."""
        if all(self._is_sure(entries.kernels, judged) for entries in lists.by_type.values()):
            return np.zeros(len(lists))  # nothing is predicted twice for it
        share: Floats = self.guessed_sums(lists, judged) / np.maximum(self.kernel_sums(lists), 1e-300)
        return np.clip(share, 0, 1)

    def guessed_sums(self, lists: KernelLists, judged: Collection[str] = ()) -> Floats:
        """The part of ``kernel_sums`` that is guessed: float64[n] in ms. Guesses of ``judged`` types do not count."""

        def guessed(kernels: Kernels) -> Floats:
            return np.zeros(len(kernels)) if self._is_sure(kernels, judged) else self._each(kernels)

        return lists.sums(guessed, self, f"guessed beside {sorted(judged)}")

    def _is_sure(self, kernels: Kernels, judged: Collection[str]) -> bool:
        return self.knows(kernels) or kernels.type in judged

    def knows(self, kernels: Kernels) -> bool:
        """Whether the type has a model of its own that is no guess."""
        return kernels.type in self.kernels and kernels.type not in self.guessed

    def predicts(self, kernels: Kernels) -> bool:
        """Whether the type has a model of its own or is guessed; every other kernel adds nothing."""
        return kernels.type in self.kernels or (self.fallback is not None and kernels.is_known)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        arrays: dict[str, Array] = {}
        models, fallback = [], None
        for number, model in enumerate(self.kernels.values()):
            own, meta = model.to_arrays()
            arrays |= under(own, str(number))
            models.append(meta)
        if self.fallback is not None:
            own, fallback = self.fallback.to_arrays()
            arrays |= under(own, _FALLBACK)
        said = _KernelSumMeta(
            types=tuple(self.kernels),
            models=tuple(models),
            fallback=fallback,
            guessed=tuple(sorted(self.guessed)),
            factor=self.factor,
            offset_ms=self.offset_ms,
            per_kernel_ms=self.per_kernel_ms,
        )
        return arrays, said.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_KernelSumMeta, meta)
        if len(said.types) != len(said.models) or len(set(said.types)) != len(said.types):
            raise damaged(f"{len(said.types)} kernel types have {len(said.models)} models")
        if not set(said.guessed) <= set(said.types):
            raise damaged("a kernel type without a model is said to be guessed by it")
        models = [decoder.model(within(arrays, str(number)), each) for number, each in enumerate(said.models)]
        fallback = None if said.fallback is None else decoder.model(within(arrays, _FALLBACK), said.fallback)
        kernels = dict(zip(said.types, models, strict=True))
        guessed = frozenset(said.guessed)
        return cls(kernels, fallback, said.factor, said.offset_ms, said.per_kernel_ms, guessed)

    def _each(self, kernels: Kernels) -> Floats:
        """float64[u] of one type's kernels; 0 where nothing is known.

        Each kernel's is the same whatever else is asked, and so fine that all sums are exact.
        """
        model = self.kernels.get(kernels.type, self.fallback if kernels.is_known else None)
        if model is None or not len(kernels):
            return np.zeros(len(kernels))
        return np.rint(model.predict(_filled_up(kernels))[: len(kernels)] * PER_MS) / PER_MS


@dataclass(frozen=True, eq=False)
class TabledSum:
    """A ``KernelSum`` in a table of a search space, whose sums are in the table; ``number``: its place among them."""

    kind: ClassVar[str] = "tabled_sum"
    number: int
    factor: float
    offset_ms: float
    per_kernel_ms: float

    @property
    def sum_name(self) -> str:
        """Of the sums in the table, in ms."""
        return f"kernel_ms/{self.number}"

    @property
    def guessed_name(self) -> str:
        """Of what of these sums is guessed."""
        return f"guessed_ms/{self.number}"

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms. Raises InvalidRequest, ``predictor_file_foreign``, for kernel lists."""
        lists = tabled(whole_models(batch))
        scaled = self.factor * lists.total(self.sum_name)
        return _above_floor(scaled + self.offset_ms + self.per_kernel_ms * lists.kernel_counts, scaled)

    def guessed_share(self, lists: KernelLists) -> Floats:
        """As that of ``KernelSum``."""
        sums = tabled(lists)
        share: Floats = sums.total(self.guessed_name) / np.maximum(sums.total(self.sum_name), 1e-300)
        return np.clip(share, 0, 1)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        said = _TabledSumMeta(
            number=self.number, factor=self.factor, offset_ms=self.offset_ms, per_kernel_ms=self.per_kernel_ms
        )
        return {}, said.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        del arrays, decoder  # it has neither arrays nor members
        said = checked(_TabledSumMeta, meta)
        return cls(said.number, said.factor, said.offset_ms, said.per_kernel_ms)


def _filled_up(kernels: Kernels) -> Kernels:
    """With the first kernels again, to a multiple of ``_ROWS``: how a product of matrices adds up a row may follow from
    how many rows are left at its end. The same object for the same kernels, for what is made of it is kept with it."""
    if len(kernels) % _ROWS == 0:
        return kernels
    found = kernels.made.get(_filled_up)
    if not isinstance(found, Kernels):
        found = kernels.made[_filled_up] = kernels.take(np.arange(-(-len(kernels) // _ROWS) * _ROWS) % len(kernels))
    return found


@dataclass(frozen=True, eq=False)
class KernelSumFit:
    """A fitted correction, its penalty, and what it predicts for each whole model left out: float64[n] in ms.

    The models of kernels are taken as they are: leaving a whole model out leaves their rows in.
    """

    model: KernelSum
    penalty: float
    left_out_ms: Floats


def fit_whole_model(lists: KernelLists, latency_ms: Floats) -> RidgeFit:
    """Model A: ridge on per-family sums, rows weighted 1/T^2, penalty by leave-one-out.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``.
    """
    return fit_ridge(SumFeatures(), lists, latency_ms, target="ms", penalties=SUM_PENALTIES)


def fit_fallback(rows: Mapping[str, tuple[Kernels, Floats]]) -> Model:
    """A model on what all catalogue types have in common, from rows of several types: (kernels, float64[n] in ms) each.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``; ``kernel_unknown`` for a foreign type.
    """
    features = general_features()
    matrices = [features.matrix(kernels) for kernels, _ in rows.values()]
    x = np.concatenate(matrices) if matrices else np.zeros((0, len(features.names)))
    latency_ms = np.concatenate([np.asarray(latency) for _, latency in rows.values()]) if matrices else np.zeros(0)
    return fit_on_matrix(features, x, latency_ms, target="log", penalties=LARGE_PENALTIES).model


@dataclass(frozen=True, eq=False)
class SumCorrection:
    """What brings sums of kernels to whole-model latencies, as ``KernelSum`` has it; the rest as ``KernelSumFit``."""

    factor: float
    offset_ms: float
    per_kernel_ms: float
    penalty: float
    left_out_ms: Floats

    def applied(self, sums_ms: Floats, counts: Floats) -> Floats:
        """The latencies of whole models with these sums and numbers of kernels: float64[n] in ms."""
        scaled = self.factor * sums_ms
        return _above_floor(scaled + self.offset_ms + self.per_kernel_ms * counts, scaled)

    def of(self, plain: KernelSum) -> KernelSum:
        """The sum with this correction."""
        return replace(plain, factor=self.factor, offset_ms=self.offset_ms, per_kernel_ms=self.per_kernel_ms)


def fit_kernel_sum(plain: KernelSum, lists: KernelLists, latency_ms: Floats) -> KernelSumFit:
    """Model B: a sum of kernels with the correction that whole models teach; ``plain``: the sum without one.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``.
    """
    measured = checked_ms(latency_ms, len(lists), least=2)
    found = fit_sum_correction(plain.kernel_sums(lists), lists.kernel_counts, measured)
    return KernelSumFit(found.of(plain), found.penalty, found.left_out_ms)


def fit_sum_correction(sums: Floats, counts: Floats, latency_ms: Floats) -> SumCorrection:
    """The three numbers by least squares of relative errors, held near (1, 0, 0) by a penalty that is chosen by
    leave-one-out of what would be answered, floor and all. ``sums`` in ms and ``counts`` of kernels: float64[n].

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``fit_ridge``.
    """
    measured = checked_ms(latency_ms, len(sums), least=2)
    unit_ms, unit_count = float(np.median(measured)), max(float(np.median(counts)), 1.0)
    columns = np.stack([sums, np.full_like(sums, unit_ms), counts * (unit_ms / unit_count)], axis=1) / measured[:, None]
    rest = 1 - sums / measured
    found = []
    for penalty in PENALTIES:
        hat = np.linalg.solve(columns.T @ columns + penalty * _FINES, columns.T)
        steps = hat @ rest
        slack = np.maximum(1 - np.einsum("ij,ji->i", columns, hat), _LEAST_SLACK)
        errors = (rest - columns @ steps) / slack
        factors = 1 + steps[0] - hat[0] * errors  # each without its row
        left_out = _above_floor(measured * (1 - errors), factors * sums)
        found.append((float(np.mean(np.abs(left_out / measured - 1))), penalty, steps, left_out))
    _, penalty, steps, left_out = min(found, key=lambda each: each[0])
    factor, offset, per_kernel = (float(step) for step in steps)
    numbers = (1 + factor, offset * unit_ms, per_kernel * unit_ms / unit_count)
    return SumCorrection(*numbers, penalty, left_out)


def _above_floor(corrected: Floats, scaled: Floats) -> Floats:
    """float64[n] in ms: an offset below zero, learnt from large models, would leave nothing of a small one. ``scaled``:
    sums times the factor; a share of the sum itself would bring back what the factor undoes."""
    return milliseconds(np.maximum(corrected, FLOOR * np.maximum(scaled, 0.0)), "ms", 0.0)


def whole_models(batch: Batch) -> KernelLists:
    """The batch as kernel lists. Raises InvalidRequest, ``kernel_unknown``, for single kernels."""
    if isinstance(batch, Kernels):
        detail = f"the predictor takes whole models, not kernels {batch.type[:40]}"
        raise InvalidRequest(detail, code="kernel_unknown")
    return batch
