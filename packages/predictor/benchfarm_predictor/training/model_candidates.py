"""Candidates for whole models: bases and what corrects them, each judged on rows that it did not see.

Bases: a ridge on whole-model sums, sums of kernels with their correction, donors. Corrections learn the ratio to a base
from what whole models are made of (``SumFeatures("shares")``), and are held within what they were taught on
(``bounded.py``). All of it is closed form and needs numpy alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchfarm_predictor.bounded import Bounded, Boxes, bounded
from benchfarm_predictor.combined import Residual, Scaled, Stacked
from benchfarm_predictor.composition import SUM_PENALTIES, fit_sum_correction, fit_whole_model
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Model
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training.candidates import Base, Candidate, Family
from benchfarm_predictor.training.kernel_sums import KernelModels
from benchfarm_predictor.training.learners import smooth_surface
from benchfarm_predictor.training.model_donors import ModelView
from benchfarm_predictor.training.platform_rows import MeasuredModels

FOLDS: Final = 10
FOLDS_OF_MANY: Final = 5
MANY_ROWS: Final = 300
SEARCH_ROWS: Final = 150
"""On so many rows the shape of a surface is chosen: there are dozens of surfaces to fit."""
SURFACE_ROWS: Final = 1500
"""Drawn by the seed, that a surface goes through: what it costs is a power of three of them."""
SUMS: Final = "kernels"
"""Begins the names of bases that are sums of kernels."""

Correct = Callable[[KernelLists, Floats, int], Model]
"""Fits a ratio to a base: kernel lists, float64[n] in log, seed."""


@dataclass(frozen=True, eq=False)
class ModelFold:
    """A part of n whole models that is held back, and the rest: row numbers and the rows."""

    train: Ints
    held: Ints
    train_rows: MeasuredModels
    held_rows: MeasuredModels


@dataclass(frozen=True, eq=False)
class ModelProblem:
    """n whole models with the fold of each, int64[n]. Make it by ``model_problem``."""

    rows: MeasuredModels
    numbers: Ints
    folds: tuple[ModelFold, ...]
    seed: int

    @property
    def target(self) -> Floats:
        """Log ms: float64[n]."""
        return self.rows.log_ms


def model_problem(rows: MeasuredModels, numbers: Ints, seed: int, count: int = 0) -> ModelProblem:
    """The rows with their folds: at least ``count``, of which some may be empty."""
    folds = []
    for number in range(max(int(numbers.max()) + 1, count)):
        train, held = np.flatnonzero(numbers != number), np.flatnonzero(numbers == number)
        folds.append(ModelFold(train, held, rows.take(train), rows.take(held)))
    return ModelProblem(rows, numbers, tuple(folds), seed)


def fold_numbers(rows: MeasuredModels, seed: int) -> Ints:
    """int64[n]: folds that are alike, each with its share of every space's fast and slow architectures."""
    count = min(FOLDS if len(rows) <= MANY_ROWS else FOLDS_OF_MANY, len(rows))
    chance = np.random.default_rng(seed)
    numbers = np.empty(len(rows), dtype=np.int64)
    spaces = np.array([space or "" for space in rows.spaces])
    order = np.lexsort((rows.latency_ms, spaces))
    for start in range(0, len(order), count):
        block = order[start : start + count]
        numbers[block] = chance.permutation(count)[: len(block)]
    return numbers


def all_bases(
    problem: ModelProblem,
    sums: Sequence[KernelModels],
    donors: Sequence[ModelView],
    without: Mapping[str, Sequence[KernelModels]] | None = None,
) -> list[Base]:
    """The ridge first, then sums of kernels, then donors, each donor also by what it measured where it did.

    ``without``: by the name of a sum, for each fold what the sum is where kernels are held back with the fold.
    """
    found = [ridge_base(problem)]
    known = [each for each in sums if each.knows_any(problem.rows.lists)]
    found += [_sum_base(problem, each, None if without is None else without[each.name]) for each in known]
    for view in donors:
        found += _donor_bases(problem, view)
    return found


def joint_candidates(problem: ModelProblem, bases: Sequence[Base]) -> list[Candidate]:
    """Every base as it is, or scaled if it is a donor, and with each correction; then means of unlike ones."""
    found: list[Candidate] = []
    for base in bases:
        found.append(_scaled(problem, base) if _is_donor(base) else _as_it_is(problem, base))
        found += [_corrected(problem, base, *each) for each in _CORRECTIONS]
    return [*found, *_means(found)]


def space_candidates(problem: ModelProblem, bases: Sequence[Base]) -> list[Candidate]:
    """Of one search space's rows alone: a ridge of its own, and bases of all rows with a factor or a ratio of its own.

    ``bases`` are those of all rows, restricted to these.
    """
    own = ridge_base(problem, "own ridge")
    found = [_as_it_is(problem, own), _corrected(problem, own, *_CORRECTIONS[-1])]
    for base in bases:
        found.append(replace(_scaled(problem, base), name=f"{base.name} x own factor"))
        ratio = _corrected(problem, base, *_CORRECTIONS[0])
        found.append(replace(ratio, name=f"{base.name}+own ridge"))
    return [*found, *_means(found)]


def restricted(base: Base, rows: Ints) -> Base:
    """A base over some of the rows it was made for; its model stays that of all rows."""
    return Base(base.name, base.model, base.full[rows], tuple(said[rows] for said in base.by_fold))


def restricted_candidates(found: Iterable[Candidate], rows: Ints) -> list[Candidate]:
    """Candidates with what they say of some of the rows."""
    return [replace(candidate, unseen=candidate.unseen[rows]) for candidate in found]


def ridge_base(problem: ModelProblem, name: str = "ridge") -> Base:
    """Corrections learn from what the ridge says of a row that is left out, not of one that it knows."""
    by_fold = []
    for fold in problem.folds:
        fit = fit_whole_model(fold.train_rows.lists, fold.train_rows.latency_ms)
        said = np.empty(len(problem.rows))
        said[fold.train] = np.log(fit.left_out_ms)
        said[fold.held] = np.log(fit.model.predict(fold.held_rows.lists))
        by_fold.append(said)
    whole = fit_whole_model(problem.rows.lists, problem.rows.latency_ms)
    return Base(name, whole.model, np.log(whole.left_out_ms), tuple(by_fold))


def _sum_base(problem: ModelProblem, kernels: KernelModels, without: Sequence[KernelModels] | None) -> Base:
    """The kernels were not timed in these models, so that only the three numbers of the correction know the rows.

    ``without``: for each fold the kernels that are known there, None where all are.
    """
    lists, times_ms = problem.rows.lists, problem.rows.latency_ms
    counts, all_sums = lists.kernel_counts, kernels.plain.kernel_sums(lists)
    by_fold = []
    for fold, known in zip(problem.folds, without or [kernels] * len(problem.folds), strict=True):
        sums = all_sums if known is kernels else known.plain.kernel_sums(lists)
        fit = fit_sum_correction(sums[fold.train], counts[fold.train], times_ms[fold.train])
        said = np.empty(len(sums))
        said[fold.train] = np.log(fit.left_out_ms)
        said[fold.held] = np.log(fit.applied(sums[fold.held], counts[fold.held]))
        by_fold.append(said)
    whole = fit_sum_correction(all_sums, counts, times_ms)
    return Base(f"{SUMS} {kernels.name}", whole.of(kernels.plain), np.log(whole.left_out_ms), tuple(by_fold))


def _donor_bases(problem: ModelProblem, view: ModelView) -> Iterator[Base]:
    """What a donor predicts, and the same with what it measured of the rows: the ratio of two measurements is free of
    what its predictor gets wrong. Of rows held back it says only what it predicts."""
    said = (view.predicted,) * len(problem.folds)
    yield Base(view.name, view.model, view.predicted, said)
    if np.isnan(view.measured).all():
        return
    known = np.where(np.isnan(view.measured), view.predicted, view.measured)
    by_fold = []
    for fold in problem.folds:
        mixed = known.copy()
        mixed[fold.held] = view.predicted[fold.held]
        by_fold.append(mixed)
    yield Base(f"{view.name} (paired)", view.model, known, tuple(by_fold))


def _is_donor(base: Base) -> bool:
    return base.name not in ("ridge", "own ridge") and not base.name.startswith(SUMS)


def _family(base: Base) -> Family:
    return "residual" if _is_donor(base) else "scratch"


def _as_it_is(problem: ModelProblem, base: Base) -> Candidate:
    unseen = np.empty(len(problem.rows))
    for fold, start in zip(problem.folds, base.by_fold, strict=True):
        unseen[fold.held] = start[fold.held]
    return Candidate(base.name, _family(base), base.model, unseen)


def _scaled(problem: ModelProblem, base: Base) -> Candidate:
    """The base times the median ratio of the training rows."""
    unseen = np.empty(len(problem.rows))
    for fold, start in zip(problem.folds, base.by_fold, strict=True):
        unseen[fold.held] = start[fold.held] + np.median((problem.target - start)[fold.train])
    model = Scaled(base.model, float(np.exp(np.median(problem.target - base.full))))
    return Candidate(f"{base.name} x factor", "scale-only" if _is_donor(base) else "scratch", model, unseen)


def _corrected(problem: ModelProblem, base: Base, name: str, correct: Correct) -> Candidate:
    """The base with a correction, fitted once on all rows and once without each fold, and held within each time."""
    unseen = np.empty(len(problem.rows))
    for fold, start in zip(problem.folds, base.by_fold, strict=True):
        if len(fold.held):
            model = _held(correct, fold.train_rows, (problem.target - start)[fold.train], problem.seed)
            unseen[fold.held] = start[fold.held] + np.log(model.predict(fold.held_rows.lists))
    correction = _held(correct, problem.rows, problem.target - base.full, problem.seed)
    return Candidate(f"{base.name}+{name}", _family(base), Residual(base.model, correction), unseen)


def _held(correct: Correct, rows: MeasuredModels, ratios: Floats, seed: int) -> Bounded:
    """A correction that leaves neither the ratios nor the search spaces of its rows. ``ratios``: float64[n] in log."""
    return bounded(correct(rows.lists, ratios, seed), Boxes.around(rows.lists, rows.spaces), ratios)


def _means(found: Sequence[Candidate]) -> Iterator[Candidate]:
    """Of one that sums kernels and the first two of each kind that do not: their errors are unlike."""
    sums = [each for each in found if each.name.startswith(SUMS)]
    lent = [each for each in found if each.family == "residual"]
    own = [each for each in found if each.family == "scratch" and not each.name.startswith(SUMS)]
    for one in sums[:2]:
        for other in (*own[:1], *lent[:2]):
            model = Stacked((one.model, other.model), (0.5, 0.5), 0.0)
            yield Candidate(f"{one.name} & {other.name}", other.family, model, (one.unseen + other.unseen) / 2)


def _ridge_ratio(lists: KernelLists, target: Floats, seed: int) -> Model:
    """Linear in what a model is made of."""
    del seed  # there is nothing random in it
    return fit_ridge(SumFeatures("shares"), lists, np.exp(target), penalties=SUM_PENALTIES).model


def _smooth_ratio(lists: KernelLists, target: Floats, seed: int) -> Model:
    """A surface over it; no correction far from the rows."""
    features = SumFeatures("shares")
    if len(lists) > SURFACE_ROWS:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(lists))[:SURFACE_ROWS])
        some = lists.take(drawn)
        some.matrices[features] = features.matrix(lists)[drawn]
        lists, target = some, target[drawn]
    return smooth_surface(features, lists, target, seed, SEARCH_ROWS)


_CORRECTIONS: Final[tuple[tuple[str, Correct], ...]] = (("ridge", _ridge_ratio), ("smooth", _smooth_ratio))
