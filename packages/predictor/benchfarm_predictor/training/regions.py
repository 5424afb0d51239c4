"""The choice region by region: each search space with enough rows has its own weights over the candidates.

Spaces that the nearest donor knows and the rows do not are regions too, with what predicts best a space that only
donors saw. Elsewhere donors say nothing where there are sums of kernels: a donor has seen all spaces that could be held
back, and looks better there than on strange ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.combined import MAX_WIDENING, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.conformal import Intervals, calibrate
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Model
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training.candidates import Base, Candidate
from benchfarm_predictor.training.choice import Choice, choose
from benchfarm_predictor.training.kernel_sums import KernelModels
from benchfarm_predictor.training.measured import MIN_ROWS
from benchfarm_predictor.training.model_candidates import (
    SUMS,
    ModelProblem,
    all_bases,
    joint_candidates,
    model_problem,
    restricted,
    restricted_candidates,
    space_candidates,
)
from benchfarm_predictor.training.model_donors import ModelView

Bools = npt.NDArray[np.bool_]
LEAST_ELSEWHERE: Final = 0.25
"""In log: no interval outside all regions is narrower. Spaces that were never sampled were 8 to 33 % off."""
LEAST_LENT: Final = 0.1
"""The same in regions that donors alone know."""
UNTRIED: Final = 0.4
"""The same where no space could be held back to find out."""
LEAST_SCALE: Final = 0.1
"""Of a feature in a region, in octaves and quarters: rows that are all the same say less than that."""
KIN_SHARE: Final = 0.9
REACH: Final = 2.0
"""A region ends at so many times the distance of its farthest row."""


Shape = tuple[Floats, Floats, float]
"""Centre and scale, float64[d], and radius of a region, as ``Regional`` has them."""


@dataclass(frozen=True, eq=False)
class Region:
    """A search space with the choice for it: that of its rows, or of a space that donors alone know."""

    name: str
    choice: Choice
    shape: Shape


@dataclass(frozen=True, eq=False)
class RegionalChoice:
    """What was chosen for each region and for elsewhere.

    Attributes:
        regions: those with rows. ``lent``: those that a donor knows.
        places: int64[n], the number of each row's region, their count for elsewhere.
        unseen: float64[n], log ms of each row as ``Choice.unseen``; of rows outside all regions by what saw nothing of
            their whole group, if that was possible.
    """

    problem: ModelProblem
    regions: tuple[Region, ...]
    lent: tuple[Region, ...]
    elsewhere: "Elsewhere"
    places: Ints
    unseen: Floats

    @property
    def names(self) -> tuple[str, ...]:
        """Of the chosen candidates, as `space: candidate` and `elsewhere: candidate`; the best of each first."""
        every = (*self.regions, *self.lent)
        if not every:
            return self.elsewhere.choice.names
        own = [f"{region.name}: {name}" for region in every for name in region.choice.names]
        return (*own, *(f"elsewhere: {name}" for name in self.elsewhere.choice.names))

    @property
    def errors(self) -> Floats:
        """Absolute log errors of ``unseen``: float64[n]."""
        return np.abs(self.unseen - self.problem.target)

    @property
    def is_counted(self) -> Bools:
        """Rows by which the predictor is scored and its intervals made: bool[n]. Where there are regions, only theirs:
        the others were said of by models that saw nothing of their space."""
        return self.places < len(self.regions) if self.regions else self.elsewhere.is_kin

    def intervals(self, level: float, rows: Ints | None = None) -> tuple[Intervals, Floats]:
        """Intervals for the region whose errors are least, and by how much each other one's are wider, lent ones and
        elsewhere last: float64[regions + lent + 1]. From some of the rows, or all."""
        rows = np.arange(len(self.places)) if rows is None else rows
        count = len(self.regions)
        errors, places, used = self.errors[rows], self.places[rows], self.is_counted[rows]
        bounds = np.array([_bound(errors[places == number], level) for number in range(count)])
        if not count:
            bounds = np.array([_bound(errors[used], level)])
        wider = np.concatenate([bounds[:count], self._strange_bounds(bounds, level)]) - bounds.min()
        predicted_ms = np.exp(self.unseen[rows][used])
        adjusted = np.maximum(errors[used] - (wider[places[used]] if count else 0.0), 0.0)
        intervals = calibrate(predicted_ms, predicted_ms * np.exp(adjusted), level)
        return intervals, np.clip(np.exp(wider), 1.0, MAX_WIDENING)

    def crossed_inside(self, level: float) -> Bools:
        """Whether each row lies in the interval that is calibrated without its fold: bool[n]."""
        inside = np.zeros(len(self.places), dtype=bool)
        for fold in self.problem.folds:
            intervals, widenings = self.intervals(level, fold.train)
            predicted_ms = np.exp(self.unseen[fold.held])
            extra = widenings[self.places[fold.held]] if self.regions else None
            _, high_ms = intervals.bounds(predicted_ms, extra)
            inside[fold.held] = self.errors[fold.held] <= np.log(high_ms / predicted_ms) + 1e-12
        return inside

    def model(self, widenings: Floats) -> Model:
        """The choices as one model that holds each part once."""
        every = (*self.regions, *self.lent)
        if not every:
            return self.elsewhere.choice.model
        choices = (*(region.choice for region in every), self.elsewhere.choice)
        parts: dict[int, Model] = {}
        rows: list[dict[int, float]] = []
        offsets = np.zeros(len(choices))
        for at, choice in enumerate(choices):
            weighed: dict[int, float] = {}
            for member, weight in zip(choice.members, choice.weights, strict=True):
                offsets[at] += _take_apart(member.model, weight, parts, weighed)
            rows.append(weighed)
        weights = np.array([[weighed.get(key, 0.0) for key in parts] for weighed in rows])
        return Regional(
            members=tuple(parts.values()),
            weights=weights,
            offsets=offsets,
            regions=tuple(region.name for region in every),
            features=SumFeatures("shares"),
            centres=np.stack([region.shape[0] for region in every]),
            scales=np.stack([region.shape[1] for region in every]),
            radii=np.array([region.shape[2] for region in every]),
            widenings=widenings,
            lent=len(self.lent),
        )

    def _strange_bounds(self, bounds: Floats, level: float) -> Floats:
        """Of lent regions and of elsewhere: none is narrower than one that has rows."""
        tried = ((self.elsewhere.lent_apart, LEAST_LENT),) * len(self.lent) + ((self.elsewhere.apart, LEAST_ELSEWHERE),)
        said = [max(_bound(errors, level), least) if len(errors) else UNTRIED for errors, least in tried]
        found: Floats = np.maximum(np.array(said), bounds.max())
        return found


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What is chosen for what lies in no region.

    Attributes:
        unseen: float64[n], log ms of each row, its whole space held back if that was possible.
        is_kin: bool[n], rows whose kernel types other spaces have, too: of the others more is said than a latency.
        apart: float64, absolute log errors of these; empty where no space could be held back.
        lent: what is chosen where donors alone know a space, ``lent_apart`` likewise; None without a donor.
    """

    choice: Choice
    unseen: Floats
    is_kin: Bools
    apart: Floats
    lent: Choice | None
    lent_apart: Floats


def regional_choice(
    problem: ModelProblem,
    bases: Sequence[Base],
    found: Sequence[Candidate],
    *,
    sums: Sequence[KernelModels],
    views: Sequence[ModelView],
) -> RegionalChoice:
    """The choices among ``found``, the joint candidates of ``bases``, and among each space's own candidates."""
    rows = problem.rows
    elsewhere = _elsewhere(problem, found, sums, views)
    unseen = elsewhere.unseen.copy()
    names = [name for name in sorted({each for each in rows.spaces if each}) if len(rows.of_space(name)) >= MIN_ROWS]
    regions: list[Region] = []
    places = np.full(len(rows), len(names), dtype=np.int64)
    for number, name in enumerate(names):
        own = rows.of_space(name)
        pool = restricted_candidates(found, own)
        part = model_problem(rows.take(own), problem.numbers[own], problem.seed, len(problem.folds))
        if len(own) < len(rows):
            pool += space_candidates(part, [restricted(base, own) for base in bases])
        choice = choose(part.target, pool)
        regions.append(Region(name, choice, _shape(SumFeatures("shares").matrix(part.rows.lists))))
        unseen[own], places[own] = choice.unseen, number
    lent = _lent_regions(views, elsewhere.lent, frozenset(names))
    return RegionalChoice(problem, tuple(regions), lent, elsewhere, places, unseen)


def _lent_regions(views: Sequence[ModelView], choice: Choice | None, known: frozenset[str]) -> tuple[Region, ...]:
    """Regions of the nearest donor that are not known."""
    if choice is None or not views or not isinstance(views[0].model, Regional):
        return ()
    donor = views[0].model
    shapes = zip(donor.regions, donor.centres, donor.scales, donor.radii.tolist(), strict=True)
    return tuple(
        Region(name, choice, (centre, scale, radius)) for name, centre, scale, radius in shapes if name not in known
    )


def _elsewhere(
    problem: ModelProblem, found: Sequence[Candidate], sums: Sequence[KernelModels], views: Sequence[ModelView]
) -> Elsewhere:
    """What predicts a space best of which nothing was seen. Where that cannot be tried sums of kernels do, which follow
    what a model is made of; without kernels what is best on all rows."""
    spaces = sorted({each or "" for each in problem.rows.spaces})
    groups = np.array([spaces.index(each or "") for each in problem.rows.spaces], dtype=np.int64)
    is_kin = _kin(problem.rows.lists, groups)
    kin = np.flatnonzero(is_kin)
    if len(kin) < MIN_ROWS or len(groups) - np.bincount(groups).max() < MIN_ROWS:
        plain = [each for each in found if each.name in {f"{SUMS} {kernels.name}" for kernels in sums}]
        choice = choose(problem.target, plain or found)
        scaled = [each for each in found if each.family == "scale-only"]
        lent = choose(problem.target, scaled) if scaled else None
        return Elsewhere(choice, choice.unseen, np.ones(len(groups), dtype=bool), np.zeros(0), lent, np.zeros(0))
    apart = model_problem(problem.rows, groups, problem.seed)
    strange = joint_candidates(apart, all_bases(apart, sums, views))
    own = _tried(apart, _without_donors(strange, sums), found, kin)
    lent = _tried(apart, strange, found, kin) if views else None
    errors = [np.zeros(0) if each is None else np.abs(each.unseen - apart.target)[kin] for each in (own, lent)]
    return Elsewhere(own, own.unseen, is_kin, errors[0], lent, errors[1])


def _without_donors(found: Sequence[Candidate], sums: Sequence[KernelModels]) -> list[Candidate]:
    """Where there are sums of kernels; else a donor is the better stranger."""
    return [candidate for candidate in found if candidate.family == "scratch" or not sums]


def _tried(apart: ModelProblem, strange: Sequence[Candidate], found: Sequence[Candidate], kin: Ints) -> Choice:
    """The choice by rows whose whole space was held back, of the candidates that were fitted on all rows."""
    picked = choose(apart.target[kin], restricted_candidates(strange, kin))
    tried, fitted = ({each.name: each for each in some} for some in (strange, found))
    unseen: Floats = np.array(picked.weights) @ np.stack([tried[name].unseen for name in picked.names])
    unseen[kin] = picked.unseen
    return Choice(tuple(fitted[name] for name in picked.names), picked.weights, unseen, picked.loss)


def _kin(lists: KernelLists, groups: Ints) -> Bools:
    """Lists of whose kernels nearly all are of types that another group has: bool[n]; ``groups`` int64[n]."""
    shared = np.zeros(len(lists))
    for entries in lists.by_type.values():
        own = groups[entries.owner]
        is_shared = len(np.unique(own)) > 1
        shared += lists.sums_of(entries, np.full(len(entries.kernels), float(is_shared)))
    return shared >= KIN_SHARE * lists.kernel_counts


def _take_apart(model: Model, weight: float, parts: dict[int, Model], weighed: dict[int, float]) -> float:
    """Adds what a model multiplies to the parts, each once, with its power; returns the rest, in log."""
    match model:
        case Residual():
            rest = _take_apart(model.base, weight, parts, weighed)
            return rest + _take_apart(model.correction, weight, parts, weighed)
        case Scaled():
            return weight * float(np.log(model.factor)) + _take_apart(model.base, weight, parts, weighed)
        case Stacked():
            shares = zip(model.members, model.weights, strict=True)
            rests = [_take_apart(member, weight * share, parts, weighed) for member, share in shares]
            return weight * model.offset + sum(rests)
        case _:
            parts[id(model)] = model
            weighed[id(model)] = weighed.get(id(model), 0.0) + weight
            return 0.0


def _shape(x: Floats) -> Shape:
    """Of a region, from its rows' features, float64[n, d]."""
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), LEAST_SCALE)
    apart = np.sqrt((((x - centre) / scale) ** 2).mean(axis=1))
    return centre, scale, REACH * max(float(apart.max()), LEAST_SCALE)


def _bound(errors: Floats, level: float) -> float:
    """What bounds a new row's error with that probability; the largest where there are too few."""
    rank = min(ceil((len(errors) + 1) * level - 1e-9), len(errors))
    return float(np.sort(errors)[rank - 1]) if len(errors) else 0.0
