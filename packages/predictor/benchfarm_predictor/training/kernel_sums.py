"""Models of kernels for sums of them: many types at once, each fitted in a fraction of a second with numpy alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.combined import Residual, Scaled, fit_scaled
from benchfarm_predictor.composition import KernelSum, fit_fallback
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Model
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.training.candidates import candidates, problem_of
from benchfarm_predictor.training.choice import choose
from benchfarm_predictor.training.donors import Donor, DonorView
from benchfarm_predictor.training.learners import SmoothLearner
from benchfarm_predictor.training.measured import MIN_ROWS, Measured, config_keys
from benchfarm_predictor.training.platform_rows import PlatformRows

LIGHT: Final = (SmoothLearner(search_rows=150),)
"""Learners of the corrections here: in sums, trees were no better, and cost ten times as much."""
DONOR_ROWS: Final = 400
"""Of a type, drawn by the seed, that a donor learns from: what costs is a power of three of them."""
MAX_DONORS: Final = 3
LEAST_PAIRED: Final = 5
"""Configurations timed both alone and in situ from which on these say how the two relate."""
CONTEXT: Final = (0.5, 2.0)
"""Of times alone a kernel takes 0.6 to 2 times in a model: a guess of that ratio beyond these is a guess of kernels."""

Kernelwise = Mapping[str, Measured]
"""Rows by kernel type."""
Fit = Callable[[Measured, tuple[DonorView, ...], int], tuple[Model, tuple[str, ...]]]
"""Fits one type's model to enough rows, with donors and a seed; with the names of what it is made of."""


@dataclass(frozen=True, eq=False)
class KernelModels:
    """What a sum consists of: a model for each kernel type, and what guesses the others.

    ``name``: how kernels were timed; ``guessed``: types that were timed otherwise. ``donors``: names of those that the
    chosen models use.
    """

    name: str
    models: Mapping[str, Model]
    fallback: Model | None
    donors: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()

    @property
    def plain(self) -> KernelSum:
        """The sum without a correction."""
        return KernelSum(self.models, self.fallback, guessed=self.guessed)

    def knows_any(self, lists: KernelLists) -> bool:
        """Whether the lists have a kernel type with a model of its own."""
        return any(name in self.models for name in lists.by_type)


def fitted_by_choice(measured: Measured, views: tuple[DonorView, ...], seed: int) -> tuple[Model, tuple[str, ...]]:
    """What rows held back say is best."""
    problem = problem_of(measured, views, seed)
    choice = choose(problem.target, list(candidates(problem, LIGHT)))
    return choice.model, choice.names


def fitted_once(measured: Measured, views: tuple[DonorView, ...], seed: int) -> tuple[Model, tuple[str, ...]]:
    """A ridge with its surface, whatever rows held back would say, and without donors: for sums that are made often."""
    del views
    features = kernel_features(measured.kernels, "quadratic")
    ridge = fit_ridge(features, measured.kernels, measured.latency_ms)
    surface = LIGHT[0].fit(measured.kernels, measured.log_ms - np.log(ridge.left_out_ms), seed)
    return Residual(ridge.model, surface), ("ridge+smooth",)


def kernel_models(
    rows: PlatformRows, donors: Sequence[Mapping[str, Donor]], seed: int, fit: Fit = fitted_by_choice
) -> tuple[KernelModels, ...]:
    """From kernels in situ, with types that were not timed there from kernels alone; all from kernels alone where those
    in situ teach nothing. Empty where neither do: of few rows of a type, without a donor, there is no model.

    Kernels take another time alone than in a model. So times alone are brought to those in situ by the median ratio,
    and what they say beside them is a guess. ``donors``: in situ, by kernel type.
    """
    in_situ = _models("in situ", rows.in_situ, _fallback(rows.in_situ), donors, seed, fit)
    others = {name: kernels for name, kernels in rows.alone.items() if name not in in_situ.models}
    fallback = _fallback(rows.alone)
    alone = _models("alone", others, fallback, (), seed, fit)
    if not in_situ.models:
        return (alone,) if alone.models else ()
    if fallback is None:
        return (in_situ,)
    ratio = _context_ratio(rows, fallback)
    guessed = {name: Scaled(model, ratio) for name, model in alone.models.items()}
    rest = Scaled(fallback, ratio) if in_situ.fallback is None else in_situ.fallback
    return (KernelModels("in situ", {**guessed, **in_situ.models}, rest, in_situ.donors, frozenset(guessed)),)


def light_donors(name: str, by_type: Kernelwise, seed: int) -> dict[str, Donor]:
    """A platform as a donor of each kernel type of which it has enough rows that differ."""
    found = {}
    for type_name, measured in by_type.items():
        rows = np.sort(np.random.default_rng(seed).permutation(len(measured))[:DONOR_ROWS])
        used = measured.take(rows)
        if _can_be_learnt(used):
            problem = problem_of(used, (), seed)
            choice = choose(problem.target, list(candidates(problem, LIGHT)))
            found[type_name] = Donor(name, choice.model, used, np.exp(choice.unseen))
    return found


def _models(
    name: str, by_type: Kernelwise, fallback: Model | None, donors: Sequence[Mapping[str, Donor]], seed: int, fit: Fit
) -> KernelModels:
    """A model of each type with enough rows; of the others one that is lent, or the fallback, times a factor."""
    models: dict[str, Model] = {}
    used: dict[str, None] = {}
    for type_name, measured in by_type.items():
        lenders = [each[type_name] for each in donors if type_name in each][:MAX_DONORS]
        if _can_be_learnt(measured):
            views = tuple(lender.over(measured.kernels) for lender in lenders)
            models[type_name], names = fit(measured, views, seed)
            said = " ".join(names)
            used |= dict.fromkeys(lender.name for lender in lenders if lender.name in said or "stack" in said)
        elif lenders or fallback is not None:
            models[type_name] = _scaled(measured, lenders, fallback)
            used |= dict.fromkeys(lender.name for lender in lenders[:1])
    return KernelModels(name, models, fallback, tuple(used))


def _context_ratio(rows: PlatformRows, alone: Model) -> float:
    """The median of times in situ over times alone: of configurations that were timed both ways, else over what the
    fallback of kernels alone says of those in situ."""
    pairs = [_paired(rows.in_situ[name], rows.alone[name]) for name in rows.in_situ if name in rows.alone]
    if sum(map(len, pairs)) >= LEAST_PAIRED:
        return float(np.exp(np.median(np.concatenate(pairs))))
    known = [each for each in rows.in_situ.values() if each.kernels.is_known]
    if not known:
        return 1.0
    logs = np.concatenate([each.log_ms - np.log(alone.predict(each.kernels)) for each in known])
    return float(np.clip(np.exp(np.median(logs)), *CONTEXT))


def _paired(in_situ: Measured, alone: Measured) -> Floats:
    """Log ratios of the configurations that both have, float64[pairs]."""
    places = {key: at for at, key in enumerate(config_keys(alone.kernels))}
    pairs = [(at, places[key]) for at, key in enumerate(config_keys(in_situ.kernels)) if key in places]
    return np.array([in_situ.log_ms[at] - alone.log_ms[other] for at, other in pairs], dtype=np.float64)


def _scaled(measured: Measured, lenders: Sequence[Donor], fallback: Model | None) -> Scaled:
    """Of few rows only a factor is learnt."""
    base = lenders[0].model if lenders else fallback
    assert base is not None
    return fit_scaled(base, measured.kernels, measured.latency_ms)


def _fallback(by_type: Kernelwise) -> Model | None:
    known = {name: (each.kernels, each.latency_ms) for name, each in by_type.items() if each.kernels.is_known}
    return fit_fallback(known) if sum(len(latency_ms) for _, latency_ms in known.values()) >= MIN_ROWS else None


def _can_be_learnt(measured: Measured) -> bool:
    return len(measured) >= MIN_ROWS and float(np.ptp(measured.latency_ms)) > 0
