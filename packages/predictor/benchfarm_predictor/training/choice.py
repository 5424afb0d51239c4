"""The automatic choice: which candidates a kernel's predictor is made of, by the n rows alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.combined import Stacked
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Model
from benchfarm_predictor.training.absent import TORCH, why_absent
from benchfarm_predictor.training.candidates import NEAREST, Candidate, Family, Problem, candidates
from benchfarm_predictor.training.losses import losses

MEMBERS_MAX: Final = 6
CLEAR: Final = 2.0
"""Standard errors; less is no difference."""
WEIGHT_MIN: Final = 0.1
"""Of the best one's weight: who has less is left out, since every member costs time in each prediction."""
PARTS: Final = 10
"""In so many parts rows are predicted by the choice of the others."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Chosen candidates with their weights, which sum to 1; the best first.

    Attributes:
        unseen: float64[n], log ms of each row by models that did not see it, chosen without it: for calibration.
        loss: mean of ``losses`` of ``unseen`` over the rows.
    """

    members: tuple[Candidate, ...]
    weights: tuple[float, ...]
    unseen: Floats
    loss: float

    @property
    def model(self) -> Model:
        """The geometric mean of the members; one member alone is itself."""
        if len(self.members) == 1:
            return self.members[0].model
        return Stacked(tuple(member.model for member in self.members), self.weights, 0.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the members, the best first."""
        return tuple(member.name for member in self.members)


def all_candidates(problem: Problem, *, with_networks: bool = True) -> list[Candidate]:
    """Every candidate that can be fitted here; those of networks only where PyTorch is."""
    found = list(candidates(problem))
    if with_networks and why_absent(TORCH) is None:
        from benchfarm_predictor.training.networks import fine_tuned_candidate, network_candidate

        found.append(network_candidate(problem))
        tuned = (fine_tuned_candidate(problem, view) for view in problem.donors[:NEAREST])
        found += [candidate for candidate in tuned if candidate is not None]
    return found


def of_families(found: Sequence[Candidate], *families: Family) -> list[Candidate]:
    """Those that use donors in one of these ways."""
    return [candidate for candidate in found if candidate.family in families]


def choose(target: Floats, found: Sequence[Candidate], groups: Ints | None = None) -> Choice:
    """The best candidates by what they say of rows that they did not see, weighted by how sure their place is.

    Each weighs exp(-d^2 / 2), where d is how much worse than the best one it is, in standard errors of that difference
    over the rows. With few rows nobody can be told apart and many share; with many rows the best stand alone. Their
    mean is taken unless the best one is clearly better: the best of many looks better than it is.

    Args:
        target: float64[n], log ms.
        found: at least one.
        groups: int64[n]: what is said of a row was learnt without its whole group. Then groups are what is compared,
            each as much as any other however many rows it has, by their mean absolute errors, and what is said of a row
            was chosen without its group.
    """
    unseen = np.stack([candidate.unseen for candidate in found])
    order, weights = _weighed(unseen, target, groups)
    said = _said_by_others(unseen, target, groups)
    members = tuple(found[at] for at in order)
    return Choice(members, tuple(weights.tolist()), said, float(losses(said - target).mean()))


def _weighed(unseen: Floats, target: Floats, groups: Ints | None) -> tuple[Ints, Floats]:
    """The numbers of the chosen candidates, the best first, and their weights; ``unseen`` float64[candidates, n]."""
    each = _lost(unseen - target, groups)
    count = each.shape[1]
    best = int(np.argmin(each.mean(axis=1)))
    worse = each - each[best]
    errors = worse.std(axis=1) / np.sqrt(count)
    weights = np.exp(-0.5 * (worse.mean(axis=1) / np.maximum(errors, 1e-12)) ** 2)
    weights[best] = 1.0
    chosen = [at for at in np.argsort(-weights, kind="stable") if weights[at] >= WEIGHT_MIN][:MEMBERS_MAX]
    order: Ints = np.array(chosen, dtype=np.int64)
    shares = weights[order] / weights[order].sum()
    lost = _lost((shares @ unseen[order] - target)[None], groups)[0] - each[best]
    if float(lost.mean()) > CLEAR * float(lost.std()) / np.sqrt(count):
        return np.array([best], dtype=np.int64), np.ones(1)
    return order, shares


def _lost(log_errors: Floats, groups: Ints | None) -> Floats:
    """What is compared, float64[candidates, n] to float64[candidates, n or groups]: losses of rows, or groups' mean
    absolute errors; one group alone tells by its rows. Without their group rows are often so far off that losses are
    all one.
    """
    if groups is None:
        return losses(log_errors)
    each, names = np.abs(log_errors), np.unique(groups)
    if len(names) < 2:
        return each
    return np.stack([each[:, groups == name].mean(axis=1) for name in names], axis=1)


def _said_by_others(unseen: Floats, target: Floats, groups: Ints | None) -> Floats:
    """What is said of each row by the choice that the other parts of the rows make, or the other groups: float64[n].

    A choice looks better on the rows that made it than it is; intervals that were calibrated so would be too narrow.
    """
    number = np.random.default_rng(0).permutation(len(target)) % min(PARTS, len(target))
    if groups is not None and len(np.unique(groups)) > 1:
        number = groups
    said = np.empty(len(target))
    for part in np.unique(number):
        held = number == part
        others = held if held.all() else ~held
        order, weights = _weighed(unseen[:, others], target[others], None if groups is None else groups[others])
        said[held] = weights @ unseen[np.ix_(order, np.flatnonzero(held))]
    return said


def choose_model(problem: Problem) -> Choice:
    """The automatic choice among all candidates. Takes seconds."""
    return choose(problem.target, all_candidates(problem))
