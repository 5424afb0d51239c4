"""What is chosen for whole models that are like none of the search spaces that were measured.

Nobody can be asked about those. What comes nearest is to hold back a whole space with all that was learnt of it: its
whole models, the kernels that are like those that its models alone have, what donors know of kernels, and the say in
what is chosen. Spaces are compared, not rows: what is good on one more architecture is nothing new. Spaces that are
like each other say little of one that is like neither. So where kernels add up to the models that there are, their sum
answers, and no ridge on whole-model sums; and farther away than any space that was tried intervals grow.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.bounded import Boxes
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.training.candidates import Candidate
from benchfarm_predictor.training.choice import Choice, choose
from benchfarm_predictor.training.held_kernels import sums_without
from benchfarm_predictor.training.kernel_sums import KernelModels
from benchfarm_predictor.training.measured import MIN_ROWS
from benchfarm_predictor.training.model_candidates import (
    SUMS,
    ModelProblem,
    all_bases,
    joint_candidates,
    model_problem,
    restricted_candidates,
)
from benchfarm_predictor.training.model_donors import ModelView
from benchfarm_predictor.training.platform_rows import PlatformRows

Bools = npt.NDArray[np.bool_]
LEAST_ELSEWHERE: Final = 0.4
"""In log: no interval outside all regions is narrower. Spaces that were never sampled were 8 to 33 % off, and who is
predicted a third too fast is that far off."""
LEAST_LENT: Final = 0.1
"""The same in regions that donors alone know."""
UNTRIED: Final = 0.5
"""The same where no space could be held back to find out, or a donor knew those that were."""
KIN_SHARE: Final = 0.9
FARTHER: Final = float(np.log(3.0))
"""In log: by no more do intervals grow where sums of kernels are farther away than any space that was tried: that much
do engines differ from one kernel type to another."""
FARTHER_UNSUMMED: Final = float(np.log(10.0))
"""The same where something else answers; it is not known to be enough."""
LEAST_TRIED: Final = 0.5
"""In octaves and quarters: spaces that lie nearer to each other have tried nothing."""
FAR: Final = float(np.log(2.0))
"""In log: who is farther off than that in the median, and than the ridge, is no candidate where none was tried."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A choice for strangers and how it did.

    Attributes:
        choice: its models are fitted on all rows.
        unseen: float64[n], log ms of each row by the chosen candidates without the row's fold.
        apart: float64[n], absolute log errors with the row's whole space held back; NaN where that says nothing.
        least: no interval is narrower, in log.
        tried: how far from the other spaces those lay that were held back, in octaves and quarters: the farthest one.
    """

    choice: Choice
    unseen: Floats
    apart: Floats
    least: float
    tried: float = LEAST_TRIED

    def bound(self, groups: Ints, rows: Ints, level: float) -> float:
        """What bounds the error in another space, by these rows: of the spaces' own bounds the one with that
        probability, which of few spaces is the largest. ``groups``: int64[n], the space of each row."""
        tried = rows[~np.isnan(self.apart[rows])]
        spaces = np.unique(groups[tried])
        each = [error_bound(self.apart[tried[groups[tried] == space]], level) for space in spaces]
        return max(self.least, error_bound(np.array(each), level))


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What is chosen for what lies in no region.

    Attributes:
        own: for what nobody knows. ``lent``: for what donors alone know; None without a donor.
        farther: by how much intervals grow for what nobody knows, at the most, in log.
        groups: int64[n], the space of each row.
        is_told: bool[n], rows of whose kernels nearly all are of types that other folds have, too: of the others more
            is said than a latency, namely that their kernels are unknown.
    """

    own: Tried
    lent: Tried | None
    farther: float
    groups: Ints
    is_told: Bools


def choose_elsewhere(
    problem: ModelProblem,
    found: Sequence[Candidate],
    *,
    kernels: PlatformRows,
    sums: Sequence[KernelModels],
    views: Sequence[ModelView],
) -> Elsewhere:
    """The choices among ``found``, the joint candidates of all rows. ``kernels``: what ``sums`` were learnt from.

    Where there are sums of kernels they are all that is said of what nobody knows, unless they are far off on the rows
    that there are; else a donor is the better stranger.
    """
    lists = problem.rows.lists
    groups = _groups(problem.rows.spaces)
    is_kin = _are_shared(lists, groups)
    known = [_known_to(view, problem) for view in views]
    strange = _strange(problem, groups, kernels, sums, views) if _can_hold_back(groups, is_kin) else []
    summing = _summing(problem.target, found, sums)
    telling = [each for each in strange if _is_sum(each, summing)] if summing else strange
    own = _for_nobodys(problem, found, telling, groups, is_kin, np.any(known, axis=0) if known and not sums else None)
    lent = None
    if views:
        lent = _tried(problem, found, strange, groups, is_kin & known[0], LEAST_LENT) or _untried(
            problem, [each for each in found if each.family == "scale-only"]
        )
    own = own or _untried(problem, _sums_alone(problem.target, found, sums, summing))
    farther = FARTHER if summing else FARTHER_UNSUMMED
    return Elsewhere(own, lent, farther, groups, _are_shared(lists, problem.numbers))


def error_bound(errors: Floats, level: float) -> float:
    """What bounds a new row's error with that probability; the largest where there are too few."""
    rank = min(ceil((len(errors) + 1) * level - 1e-9), len(errors))
    return float(np.sort(errors)[rank - 1]) if len(errors) else 0.0


def _groups(spaces: Sequence[str | None]) -> Ints:
    """int64[n]: rows of one search space have one number, those of none another."""
    names = sorted({each or "" for each in spaces})
    return np.array([names.index(each or "") for each in spaces], dtype=np.int64)


def _can_hold_back(groups: Ints, is_kin: Bools) -> bool:
    return bool(is_kin.sum() >= MIN_ROWS and len(groups) - np.bincount(groups).max() >= MIN_ROWS)


def _known_to(view: ModelView, problem: ModelProblem) -> Bools:
    """Rows of spaces that the donor knows: bool[n]."""
    return np.array([space in view.spaces for space in problem.rows.spaces], dtype=bool)


def _strange(
    problem: ModelProblem,
    groups: Ints,
    kernels: PlatformRows,
    sums: Sequence[KernelModels],
    views: Sequence[ModelView],
) -> list[Candidate]:
    """The joint candidates with what they say of each row when its whole space is held back."""
    apart = model_problem(problem.rows, groups, problem.seed)
    without = sums_without(kernels, sums, problem.rows.lists, groups, problem.seed)
    return joint_candidates(apart, all_bases(apart, sums, views, without))


def _for_nobodys(
    problem: ModelProblem,
    found: Sequence[Candidate],
    strange: Sequence[Candidate],
    groups: Ints,
    is_kin: Bools,
    known: Bools | None,
) -> Tried | None:
    """For what nobody knows; ``known``: bool[n], rows of spaces that a donor knows, None where donors are not asked.

    A donor is judged by spaces that it does not know. Where there are too few rows of such, it is chosen by those that
    it knows, and what they say of its errors counts only where it is bad.
    """
    if known is None:
        own = [candidate for candidate in strange if candidate.family == "scratch"]
        return _tried(problem, found, own, groups, is_kin, LEAST_ELSEWHERE)
    honest = _tried(problem, found, strange, groups, is_kin & ~known, LEAST_ELSEWHERE)
    return honest or _tried(problem, found, strange, groups, is_kin, UNTRIED)


def _tried(
    problem: ModelProblem,
    found: Sequence[Candidate],
    strange: Sequence[Candidate],
    groups: Ints,
    judging: Bools,
    least: float,
) -> Tried | None:
    """The choice by rows whose whole space was held back, of the candidates that were fitted on all rows; None where
    there are too few of them."""
    rows = np.flatnonzero(judging)
    if not strange or len(rows) < MIN_ROWS:
        return None
    picked = choose(problem.target[rows], restricted_candidates(strange, rows), groups[rows])
    fitted = {each.name: each for each in found}
    members = tuple(fitted[name] for name in picked.names)
    unseen: Floats = np.array(picked.weights) @ np.stack([member.unseen for member in members])
    apart = np.full(len(groups), np.nan)
    apart[rows] = np.abs(picked.unseen - problem.target[rows])
    choice = Choice(members, picked.weights, unseen, picked.loss)
    return Tried(choice, unseen, apart, least, _distance(problem, groups, rows))


def _distance(problem: ModelProblem, groups: Ints, rows: Ints) -> float:
    """How far the farthest of the spaces with these rows lies from all others: the median over its rows."""
    found = [LEAST_TRIED]
    for group in np.unique(groups[rows]):
        own, others = rows[groups[rows] == group], np.flatnonzero(groups != group)
        rest = problem.rows.take(others)
        outside = Boxes.around(rest.lists, rest.spaces).outside(problem.rows.take(own).lists)
        found.append(float(np.median(outside)))
    return max(found)


def _untried(problem: ModelProblem, found: Sequence[Candidate]) -> Tried:
    """The best of these on the spaces that there are."""
    choice = choose(problem.target, found)
    return Tried(choice, choice.unseen, np.full(len(problem.target), np.nan), UNTRIED)


def _sums_alone(
    target: Floats, found: Sequence[Candidate], sums: Sequence[KernelModels], summing: Collection[str]
) -> Sequence[Candidate]:
    """Sums of kernels follow what a model is made of; without them whatever there is. Where they are far off: whatever
    needs no donor and is not as far off. ``summing``: names of sums that are near."""
    if summing:
        return [each for each in found if each.name in summing]
    if not any(each.name in _names(sums) for each in found):
        return found
    return [each for each in _near(target, found) if each.family == "scratch"]


def _summing(target: Floats, found: Sequence[Candidate], sums: Sequence[KernelModels]) -> frozenset[str]:
    """Names of the sums of kernels that follow the models that there are: those that are farther off than that, and
    than the ridge, follow nothing. ``found``: joint candidates, with the ridge among them."""
    return frozenset(each.name for each in _near(target, found)) & _names(sums)


def _names(sums: Sequence[KernelModels]) -> frozenset[str]:
    return frozenset(f"{SUMS} {kernels.name}" for kernels in sums)


def _near(target: Floats, found: Sequence[Candidate]) -> list[Candidate]:
    off = {each.name: float(np.median(np.abs(each.unseen - target))) for each in found}
    return [each for each in found if off[each.name] <= max(FAR, off["ridge"])]


def _is_sum(candidate: Candidate, summing: Collection[str]) -> bool:
    """Whether a candidate is one of these sums, or one with a correction; a mean with anything else is not."""
    return candidate.name.partition("+")[0] in summing and " & " not in candidate.name


def _are_shared(lists: KernelLists, groups: Ints) -> Bools:
    """Lists of whose kernels nearly all are of types that another group has: bool[n]; ``groups`` int64[n]."""
    shared = np.zeros(len(lists))
    for entries in lists.by_type.values():
        own = groups[entries.owner]
        is_shared = len(np.unique(own)) > 1
        shared += lists.sums_of(entries, np.full(len(entries.kernels), float(is_shared)))
    return shared >= KIN_SHARE * lists.kernel_counts
