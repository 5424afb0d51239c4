"""Candidates: ways to make one predictor from n rows and what donors know, each judged on rows that it did not see.

A candidate corrects a base. The base is what it falls back to where the rows end: a ridge on features, or a donor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np

from benchfarm_predictor.combined import Residual, Scaled, Stacked
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.ridge import PENALTIES, fit_ridge, solve
from benchfarm_predictor.similarity import rank_donors
from benchfarm_predictor.training.absent import why_absent
from benchfarm_predictor.training.donors import DonorView
from benchfarm_predictor.training.learners import CORRECTIONS, Learner
from benchfarm_predictor.training.losses import losses
from benchfarm_predictor.training.measured import MANY_ROWS, Fold, Measured, check_rows, folds_of

Family = Literal["scratch", "scale-only", "residual", "stacked", "fine-tune"]
"""How a candidate uses donors: not at all, times a factor, corrected, several at once, as the start of training."""

STACK_PENALTIES: Final = (*PENALTIES, 1e6)
"""With the strongest one a stack is the donors' geometric mean times a factor."""
NEAREST: Final = 2
"""So many donors are corrected one by one; all are stacked."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fitted candidate. ``unseen``: float64[n], log ms of each row by a model that was fitted without its fold."""

    name: str
    family: Family
    model: Model
    unseen: Floats


@dataclass(frozen=True, eq=False)
class Problem:
    """n rows of the target and the donors over the same rows, the most alike first. Make it by ``problem_of``.

    ``far``: donors that were left out, since nobody would call them alike.
    """

    measured: Measured
    donors: tuple[DonorView, ...]
    folds: tuple[Fold, ...]
    seed: int
    far: tuple[str, ...] = ()

    @property
    def kernels(self) -> Kernels:
        """The rows' configurations."""
        return self.measured.kernels

    @property
    def target(self) -> Floats:
        """The rows' log ms: float64[n]."""
        return self.measured.log_ms

    @cached_property
    def ridge(self) -> "Base":
        """The base of what uses no donor."""
        return _ridge_base(self)


def problem_of(measured: Measured, donors: tuple[DonorView, ...], seed: int) -> Problem:
    """The rows with folds, and the donors in the order of how alike their predictions are to the rows.

    A donor beyond ``similarity.NO_NEIGHBOUR`` is left out: it would bend what the rows alone say better. Of two donors
    of one name the first stays.

    Raises:
        InvalidRequest: ``training_rows_invalid``: nothing can be learnt from the rows.
    """
    check_rows(measured)
    by_name: dict[str, DonorView] = {}
    for view in donors:
        by_name.setdefault(view.donor.name, view)
    said_ms = {name: np.exp(view.predicted) for name, view in by_name.items()}
    ranked = rank_donors(measured.latency_ms, said_ms, seed=seed)
    nearest_first = tuple(by_name[likeness.donor] for likeness in ranked if likeness.is_near)
    far = tuple(likeness.donor for likeness in ranked if not likeness.is_near)
    return Problem(measured, nearest_first, folds_of(measured, seed), seed, far)


@dataclass(frozen=True, eq=False)
class Base:
    """What a correction starts from.

    Attributes:
        full: float64[n], log ms against which the final correction is fitted.
        by_fold: for each fold float64[n]: for its training rows that against which the correction is fitted, for its
            held-back rows what the base says without having seen them.
    """

    name: str
    model: Model
    full: Floats
    by_fold: tuple[Floats, ...]


def candidates(problem: Problem, learners: Sequence[Learner] = CORRECTIONS) -> Iterator[Candidate]:
    """Every candidate that needs no PyTorch, one after the other: see ``networks`` for the others.

    ``learners``: of corrections; fewer cost less. Where rows are many, costly ones correct the ridge and the base that
    the others say is best: a refresh has to end in seconds.
    """
    cheap = [learner for learner in learners if not learner.is_costly]
    tried: list[tuple[float, Base, Family]] = []
    for base, family in _bases(problem):
        said = _held_parts(problem, base)
        found = [] if family == "residual" else [Candidate(base.name, family, base.model, said)]
        found += _corrected_by_each(problem, base, family, cheap)
        yield from found
        lost = (losses(unseen - problem.target).mean() for unseen in (said, *(each.unseen for each in found)))
        tried.append((float(min(lost)), base, family))
    if problem.donors:
        yield _scaled(problem, problem.donors[0])
    for base, family in _worth_trees(problem, tried):
        yield from _corrected_by_each(problem, base, family, [learner for learner in learners if learner.is_costly])


def _bases(problem: Problem) -> Iterator[tuple[Base, Family]]:
    yield problem.ridge, "scratch"
    for view in problem.donors[:NEAREST]:
        for base in (_donor_base(problem, view), _paired_base(problem, view)):
            if base is not None:
                yield base, "residual"
    if problem.donors:
        yield from ((stack, "stacked") for stack in _stack_bases(problem))


def _worth_trees(problem: Problem, tried: Sequence[tuple[float, Base, Family]]) -> list[tuple[Base, Family]]:
    """All bases of few rows; of many the ridge and the best of the others. ``tried``: with their losses so far."""
    if len(problem.measured) <= MANY_ROWS:
        return [(base, family) for _, base, family in tried]
    ridge, *others = tried
    best = sorted(others, key=lambda each: each[0])[:1]
    return [(base, family) for _, base, family in (ridge, *best)]


def _corrected_by_each(
    problem: Problem, base: Base, family: Family, learners: Sequence[Learner]
) -> Iterator[Candidate]:
    for learner in learners:
        if base is problem.ridge and learner.name == "ridge":
            continue
        if len(problem.measured) <= learner.max_rows and (learner.needs is None or why_absent(learner.needs) is None):
            yield corrected(problem, base, learner, family)


def corrected(problem: Problem, base: Base, learner: Learner, family: Family) -> Candidate:
    """A base with a learner's correction, fitted once on all rows and once without each fold."""
    unseen = np.empty(len(problem.measured))
    for fold, start in zip(problem.folds, base.by_fold, strict=True):
        model = learner.fit(fold.train_kernels, (problem.target - start)[fold.train], problem.seed)
        unseen[fold.held] = start[fold.held] + np.log(model.predict(fold.held_kernels))
    correction = learner.fit(problem.kernels, problem.target - base.full, problem.seed)
    return Candidate(f"{base.name}+{learner.name}", family, Residual(base.model, correction), unseen)


def _held_parts(problem: Problem, base: Base) -> Floats:
    """What the base alone says of each row without having seen it: float64[n]."""
    unseen = np.empty(len(problem.measured))
    for fold, start in zip(problem.folds, base.by_fold, strict=True):
        unseen[fold.held] = start[fold.held]
    return unseen


def _ridge_base(problem: Problem) -> Base:
    """A ridge in log space. Corrections learn from what it says of a row that is left out, not of one that it knows."""
    features = kernel_features(problem.kernels, "quadratic")
    by_fold = []
    for fold in problem.folds:
        fit = fit_ridge(features, fold.train_kernels, problem.measured.latency_ms[fold.train])
        said = np.empty(len(problem.measured))
        said[fold.train] = np.log(fit.left_out_ms)
        said[fold.held] = np.log(fit.model.predict(fold.held_kernels))
        by_fold.append(said)
    whole = fit_ridge(features, problem.kernels, problem.measured.latency_ms)
    return Base("ridge", whole.model, np.log(whole.left_out_ms), tuple(by_fold))


def _donor_base(problem: Problem, view: DonorView) -> Base:
    """A donor's predictions; it never saw the target, so every fold sees the same."""
    return Base(view.donor.name, view.donor.model, view.predicted, (view.predicted,) * len(problem.folds))


def _paired_base(problem: Problem, view: DonorView) -> Base | None:
    """The same, but corrections learn from what the donor measured: the ratio of two measurements is free of what the
    donor's predictor gets wrong. None where the donor measured none of the rows.
    """
    if np.isnan(view.measured).all():
        return None
    known = np.where(np.isnan(view.measured), view.predicted, view.measured)
    by_fold = []
    for fold in problem.folds:
        said = known.copy()
        said[fold.held] = view.predicted[fold.held]
        by_fold.append(said)
    return Base(f"{view.donor.name} (paired)", view.donor.model, known, tuple(by_fold))


def _scaled(problem: Problem, view: DonorView) -> Candidate:
    """A donor times one factor: the median ratio, of the training rows alone."""
    apart = problem.target - view.predicted
    unseen = np.empty(len(apart))
    for fold in problem.folds:
        unseen[fold.held] = view.predicted[fold.held] + np.median(apart[fold.train])
    model = Scaled(view.donor.model, float(np.exp(np.median(apart))))
    return Candidate(f"{view.donor.name} x factor", "scale-only", model, unseen)


def _stack_bases(problem: Problem) -> Iterator[Base]:
    """All donors, each to a power, times a factor; the powers by what they predict, and by what several measured."""
    predicted = np.stack([view.predicted for view in problem.donors], axis=1)
    measured = np.stack([view.measured for view in problem.donors], axis=1)
    is_known = ~np.isnan(measured)
    if len(problem.donors) == 1 or not is_known.any():
        yield _stack_base(problem, "stack", predicted, predicted)
    else:
        yield _stack_base(problem, "stack (paired)", np.where(is_known, measured, predicted), predicted)


def _stack_base(problem: Problem, name: str, known: Floats, predicted: Floats) -> Base:
    """A stack that is fitted on ``known`` and speaks of ``predicted``, both float64[n, donors] in log ms."""
    by_fold = []
    for fold in problem.folds:
        stack = _stacked(known[fold.train], problem.target[fold.train])
        said = predicted @ stack.weights + stack.offset
        said[fold.train] = stack.left_out
        by_fold.append(said)
    stack = _stacked(known, problem.target)
    weights = tuple(float(weight) for weight in stack.weights)
    model = Stacked(tuple(view.donor.model for view in problem.donors), weights, stack.offset)
    return Base(name, model, stack.left_out, tuple(by_fold))


@dataclass(frozen=True, eq=False)
class _Stack:
    """``weights`` float64[members]; ``left_out`` float64[n]: log ms of each row when it is left out."""

    weights: Floats
    offset: float
    left_out: Floats


def _stacked(logs: Floats, target: Floats) -> _Stack:
    """As ``combined.fit_stacked``, on logarithms of what the members say of rows that they did not see."""
    equal = 1 / logs.shape[1]
    apart = target - equal * logs.sum(axis=1)
    solved = solve(logs, apart, np.ones_like(apart))
    found = [(solved.left_out(penalty), penalty) for penalty in STACK_PENALTIES]
    said, penalty = min(found, key=lambda each: float(np.abs(each[0] - apart).mean()))
    weights, offset = solved.weights(penalty)
    return _Stack(equal + weights, float(offset), target - apart + said)
