"""A platform's predictors from its rows and donors: one for a kernel type, one for whole models.

Whole models are chosen for space by space. What is best in one search space need not be best in the next, and errors
are others there; so each space with enough rows has weights of its own over all candidates, chosen by its own rows held
back, and its own interval (decision 0030). What is like none of them gets the weights that predict a space best when
all its rows are held back, and a wider interval.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Final

import numpy as np
import numpy.typing as npt

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, PredictorEvidence
from benchfarm_predictor.combined import Regional, Scaled
from benchfarm_predictor.composition import KernelSum, fit_kernel_sum
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor, read, write
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.training.candidates import Candidate, problem_of
from benchfarm_predictor.training.choice import all_candidates, choose
from benchfarm_predictor.training.judging import judge, score_of
from benchfarm_predictor.training.kernel_sums import MAX_DONORS, KernelModels, kernel_models, light_donors
from benchfarm_predictor.training.losses import losses
from benchfarm_predictor.training.measured import MIN_ROWS, Fold
from benchfarm_predictor.training.model_candidates import SUMS, all_bases, fold_numbers, joint_candidates, model_problem
from benchfarm_predictor.training.model_donors import ModelView, PlatformDonor, model_views
from benchfarm_predictor.training.platform_rows import MeasuredModels, PlatformRows
from benchfarm_predictor.training.regions import regional_choice

LEVEL: Final = 0.9
"""The coverage that intervals are made for."""
DONOR_MODELS: Final = 2000
"""Whole models, drawn by the seed, that a donor learns from."""
DOUBTFUL: Final = 2.0
"""Candidates whose loss is at most so many times the best one's tell by their disagreement where rows are missing."""
MAX_PLAUSIBLE: Final = 8
LEAST_CORRECTED: Final = 2
"""Whole models from which on a sum of kernels is brought to them."""
LEAST_LENT: Final = 3
"""Whole models from which on a donor is taken to be alike. Without one of its own a platform may be of any speed."""

__all__ = ["LEVEL", "PlatformFit", "donor_of", "fit_kernel", "fit_model", "judge"]


@dataclass(frozen=True, eq=False)
class Told:
    """What a fit says of n rows of its own: ``predicted_ms`` and ``measured_ms``, float64[n].

    ``inside``: bool[n], whether the interval holds what was measured. ``spaces``: of whole models, None of other rows.
    """

    predicted_ms: Floats
    measured_ms: Floats
    inside: npt.NDArray[np.bool_]
    spaces: tuple[str | None, ...]

    def score(self, spaces: Collection[str] = ()) -> HoldoutScore | None:
        """Of all rows, or of those of some search spaces; None where there is none of them."""
        rows = np.array([not spaces or space in spaces for space in self.spaces], dtype=bool)
        if not rows.any():
            return None
        return score_of(self.predicted_ms[rows], self.measured_ms[rows], self.inside[rows])

    @property
    def least_error(self) -> float:
        """The relative error of the row that it comes nearest to."""
        return float(np.min(np.abs(self.predicted_ms / self.measured_ms - 1), initial=np.inf))


@dataclass(frozen=True, eq=False)
class PlatformFit:
    """A fitted predictor with how it came about.

    Attributes:
        chosen: names of the candidates that it is made of; of regions `space: candidate`.
        rows: by kind, those of the platform that it was fitted on.
        unseen_ms: float64[n], what was said of each row as ``Choice.unseen``; empty where there were too few rows to
            hold any back.
        unseen: the score of that; None likewise.
        told: the same row by row; of too few rows to hold any back what is said of them all the same, without an
            interval. None where there is no row at all.
        plausible: models of candidates that are nearly as good as the best: where they disagree, rows are missing.
    """

    predictor: Predictor
    chosen: tuple[str, ...]
    rows: Mapping[str, int]
    unseen_ms: Floats
    unseen: HoldoutScore | None
    plausible: tuple[Model, ...] = ()
    told: Told | None = None

    def unseen_in(self, spaces: Collection[str]) -> HoldoutScore | None:
        """The score of what was said of rows of these search spaces, of all where none is named."""
        return None if self.unseen is None or self.told is None else self.told.score(spaces)

    @property
    def donors(self) -> tuple[str, ...]:
        """Platform keys of the donors that it was made with."""
        return self.predictor.header.lineage.donors

    def file(self) -> bytes:
        """The predictor's file, which can be read again."""
        return self._file

    @cached_property
    def _file(self) -> bytes:
        return write(self.predictor)

    def evidence(
        self,
        *,
        board_s: float = 0.0,
        holdout: HoldoutScore | None = None,
        adaptation_id: str | None = None,
        rules: str | None = None,
    ) -> PredictorEvidence:
        """What is published with it. `rules`: the hash of those that its rows' kernel lists were made by."""
        return PredictorEvidence(
            chosen=tuple(name[:200] for name in self.chosen[:100]),
            rows=dict(self.rows),
            donors=self.donors,
            board_s=board_s,
            holdout=holdout,
            unseen=self.unseen,
            adaptation_id=adaptation_id,
            rules=rules,
        )


def fit_kernel(
    rows: PlatformRows,
    kernel_type: str,
    donors: Sequence[PlatformDonor] = (),
    *,
    seed: int = 0,
    with_networks: bool = False,
) -> PlatformFit:
    """The predictor of one kernel type timed alone: the automatic choice among all candidates (decision 0030).

    The same rows, donors and seed give the same file. Without scikit-learn trees are no candidates, networks only
    where they are asked for and PyTorch is there. Where donors make a file that cannot be kept it is fitted without.

    Raises:
        InvalidRequest: ``training_rows_invalid``: too few rows, or all the same; the text says what to do.
    """
    return _kept(lambda lent: _fit_kernel(rows, kernel_type, lent, seed, with_networks), donors)


def _fit_kernel(
    rows: PlatformRows, kernel_type: str, donors: Sequence[PlatformDonor], seed: int, with_networks: bool
) -> PlatformFit:
    measured = rows.kernel(kernel_type)
    lenders = [donor.alone[kernel_type] for donor in donors if kernel_type in donor.alone][:MAX_DONORS]
    problem = problem_of(measured, tuple(lender.over(measured.kernels) for lender in lenders), seed)
    found = all_candidates(problem, with_networks=with_networks)
    choice = choose(problem.target, found)
    numbers = _numbers(problem.folds, len(measured))
    unseen_ms = np.exp(choice.unseen)
    used = tuple(lender.name for lender in lenders if _uses(choice.names, lender.name))
    predictor = Predictor(
        _header(rows, kernel_type, used),
        choice.model,
        calibrate(unseen_ms, measured.latency_ms, LEVEL),
        TrainedRange.of(measured.kernels),
    )
    inside = _crossed_inside(unseen_ms, measured.latency_ms, numbers)
    told = Told(unseen_ms, measured.latency_ms, inside, (None,) * len(measured))
    return PlatformFit(predictor, choice.names, {"alone": len(measured)}, unseen_ms, told.score(), told=told)


def fit_model(rows: PlatformRows, donors: Sequence[PlatformDonor] = (), *, seed: int = 0) -> PlatformFit:
    """The predictor of whole models; numpy alone fits it.

    With fewer than ``MIN_ROWS`` whole models nothing can be held back: then it is the sum of kernels timed in situ, or
    the nearest donor that at least ``LEAST_LENT`` models call alike, or the sum of kernels alone, brought to the models
    that there are, without a calibrated interval. The same rows, donors and seed give the same file. Where donors make
    a file that cannot be kept it is fitted without.

    Raises:
        InvalidRequest: ``training_rows_invalid``: too few rows of every kind, or all the same; the text says
            what to do.
    """
    return _kept(lambda lent: _fit_model(rows, lent, seed), donors)


def _fit_model(rows: PlatformRows, donors: Sequence[PlatformDonor], seed: int) -> PlatformFit:
    sums = kernel_models(rows, [donor.in_situ for donor in donors], seed)
    few = _of_few_models(rows, sums, donors, seed) if len(rows.models) < MIN_ROWS else None
    if few is not None:
        return few
    models = rows.whole_models()
    views = model_views(donors, models, seed)
    problem = model_problem(models, fold_numbers(models, seed), seed)
    bases = all_bases(problem, sums, views)
    found = joint_candidates(problem, bases)
    choice = regional_choice(problem, bases, found, kernels=rows, sums=sums, views=views)
    unseen_ms = np.exp(choice.unseen)
    intervals, widenings = choice.intervals(LEVEL)
    model = choice.model(widenings)
    used = [view.name for view in views if _uses(choice.names, view.name)]
    used += [name for one in sums for name in one.donors if _uses(choice.names, f"{SUMS} {one.name}")]
    predictor = Predictor(
        _header(rows, WHOLE_MODEL, tuple(dict.fromkeys(used))),
        model,
        intervals,
        TrainedRange.of(models.lists),
    )
    told = Told(unseen_ms, models.latency_ms, choice.crossed_inside(LEVEL), models.spaces)
    plausible = _plausible(problem.target, found)
    return PlatformFit(predictor, choice.names, rows.counts, unseen_ms, told.score(), plausible, told)


def donor_of(rows: PlatformRows, *, seed: int = 0) -> PlatformDonor:
    """What a platform can lend to another one, fitted on its own rows alone; a few seconds at most."""
    own = PlatformDonor(
        rows.platform,
        alone=light_donors(rows.platform, rows.alone, seed),
        in_situ=light_donors(rows.platform, rows.in_situ, seed),
    )
    models = rows.models
    if len(models) > DONOR_MODELS:
        models = models.take(np.sort(np.random.default_rng(seed).permutation(len(models))[:DONOR_MODELS]))
    if len(models) < MIN_ROWS or float(np.ptp(models.latency_ms)) == 0:
        return own
    fit = fit_model(replace(rows, models=models), seed=seed)
    return replace(own, model=fit.predictor.model, models=models, unseen_ms=fit.unseen_ms)


def _kept(fit: Callable[[Sequence[PlatformDonor]], PlatformFit], donors: Sequence[PlatformDonor]) -> PlatformFit:
    """A fit whose file can be kept and read: with the donors, or without where what they lend is too large or too deep.

    Raises:
        InvalidRequest: ``training_rows_invalid``: of neither.
    """
    made = fit(donors)
    why = _why_not_kept(made)
    if why is not None and donors:
        made = fit(())
        why = _why_not_kept(made)
    if why is not None:
        header = made.predictor.header
        detail = f"{header.platform}: what its rows teach of {header.kernel_type} cannot be kept: {why}"
        raise InvalidRequest(detail, code="training_rows_invalid", field="rows")
    return made


def _why_not_kept(made: PlatformFit) -> str | None:
    """Why a file would not be written, or not be read by whoever answers from it; None where all is well."""
    try:
        read(made.file())
    except (TooLarge, InvalidRequest) as error:
        return error.detail
    return None


def _of_few_models(
    rows: PlatformRows, sums: Sequence[KernelModels], donors: Sequence[PlatformDonor], seed: int
) -> PlatformFit | None:
    """The first of: kernels in situ, a donor, kernels alone; None where there is none of them."""
    in_situ = [each for each in sums if each.name == "in situ"]
    lent: tuple[ModelView, ...] = ()
    if not in_situ and len(rows.models) >= LEAST_LENT:
        lent = model_views(donors, rows.models, seed, LEAST_LENT)
    if not lent and not sums:
        return None
    if lent:
        model, trained = _lent(lent[0], rows.models), _lenders_range(lent[0], donors)
        said_ms = model.predict(rows.models.lists)
        return _unjudged(rows, model, trained, f"{lent[0].name} x factor", (lent[0].name,), said_ms)
    kernels, (summed, said_ms) = sums[0], _sum_of(sums[0], rows.models)
    return _unjudged(rows, summed, _kernel_range(rows), f"{SUMS} {kernels.name}", kernels.donors, said_ms)


def _unjudged(
    rows: PlatformRows, model: Model, trained: TrainedRange | None, name: str, used: tuple[str, ...], said_ms: Floats
) -> PlatformFit:
    """A fit of which too little could be held back for an interval. ``said_ms``: float64[n], of each whole model."""
    predictor = Predictor(_header(rows, WHOLE_MODEL, used), model, None, trained)
    few = rows.models
    told = Told(said_ms, few.latency_ms, np.zeros(len(few), dtype=bool), few.spaces) if len(few) else None
    return PlatformFit(predictor, (name,), rows.counts, np.zeros(0), None, (model,), told)


def _lent(view: ModelView, few: MeasuredModels) -> Model:
    """The donor's model times the median ratio to it: to what it measured, where it measured the same."""
    said = np.where(np.isnan(view.measured), view.predicted, view.measured)
    ratio = float(np.median(few.log_ms - said))
    if isinstance(view.model, Regional):  # so that what is strange to the donor is said to be strange
        return replace(view.model, offsets=view.model.offsets + ratio, lent=len(view.model.regions))
    return Scaled(view.model, float(np.exp(ratio)))


def _lenders_range(view: ModelView, donors: Sequence[PlatformDonor]) -> TrainedRange | None:
    """What the donor's model was fitted on."""
    models = next((donor.models for donor in donors if donor.name == view.name), None)
    return None if models is None else TrainedRange.of(models.lists)


def _sum_of(kernels: KernelModels, few: MeasuredModels) -> tuple[KernelSum, Floats]:
    """With what it says of each of the models, left out where it is corrected by them: float64[n] in ms."""
    if len(few) < LEAST_CORRECTED:
        return kernels.plain, kernels.plain.predict(few.lists) if len(few) else np.zeros(0)
    fit = fit_kernel_sum(kernels.plain, few.lists, few.latency_ms)
    return fit.model, fit.left_out_ms


def _kernel_range(rows: PlatformRows) -> TrainedRange:
    """Of kernels that were timed by themselves: nothing is said of whole models' totals."""
    ranges = [TrainedRange.of(each.kernels) for each in {**rows.alone, **rows.in_situ}.values()]
    columns: dict[str, tuple[str, ...]] = {}
    low: dict[str, Ints] = {}
    high: dict[str, Ints] = {}
    for each in ranges:
        columns.update(each.columns)
        low.update(each.low)
        high.update(each.high)
    return TrainedRange(columns, low, high)


def _header(rows: PlatformRows, subject: str, donors: tuple[str, ...]) -> Header:
    lineage = Lineage(
        donors=donors,
        data_hash=rows.data_hash,
        rule_version=rows.rule_version,
        code_version=version("benchfarm-predictor"),
    )
    return Header(kernel_type=subject, platform=rows.platform, lineage=lineage)


def _uses(chosen: Sequence[str], name: str) -> bool:
    """Whether a candidate's name says that it uses this; a stack uses all donors."""
    return any(name in each or each.startswith("stack") for each in chosen)


def _numbers(folds: Sequence[Fold], count: int) -> Ints:
    """The fold of each row: int64[n]."""
    numbers = np.zeros(count, dtype=np.int64)
    for number, fold in enumerate(folds):
        numbers[fold.held] = number
    return numbers


def _crossed_inside(unseen_ms: Floats, measured_ms: Floats, numbers: Ints) -> npt.NDArray[np.bool_]:
    """Whether each row lies in the interval that is calibrated without its fold: bool[n]."""
    inside = np.zeros(len(measured_ms), dtype=bool)
    for number in np.unique(numbers):
        held = numbers == number
        low_ms, high_ms = calibrate(unseen_ms[~held], measured_ms[~held], LEVEL).bounds(unseen_ms[held])
        inside[held] = (low_ms <= measured_ms[held]) & (measured_ms[held] <= high_ms)
    return inside


def _plausible(target: Floats, found: Sequence[Candidate]) -> tuple[Model, ...]:
    """The best candidates' models, the best first."""
    means = np.array([losses(candidate.unseen - target).mean() for candidate in found])
    order = [int(at) for at in np.argsort(means, kind="stable") if means[at] <= DOUBTFUL * means.min()]
    return tuple(found[at].model for at in order[:MAX_PLAUSIBLE])
