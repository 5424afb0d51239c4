"""The choice region by region: each search space with enough rows has its own weights over the candidates.

A row is of the region in which it would be looked for if it were asked about, whatever space it was drawn from: there
it chooses, there it is scored, and there it makes the interval. Spaces that the nearest donor knows and the rows do not
are regions too. What lies in none is strange (`strangers.py`), also where no space has enough rows for a region.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.bounded import Boxes
from benchfarm_predictor.combined import MAX_WIDENING, Farther, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.conformal import Intervals, calibrate
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Model
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training.candidates import Base, Candidate
from benchfarm_predictor.training.choice import Choice, choose
from benchfarm_predictor.training.kernel_sums import KernelModels
from benchfarm_predictor.training.measured import MIN_ROWS
from benchfarm_predictor.training.model_candidates import (
    ModelProblem,
    model_problem,
    restricted,
    restricted_candidates,
    space_candidates,
)
from benchfarm_predictor.training.model_donors import ModelView
from benchfarm_predictor.training.platform_rows import PlatformRows
from benchfarm_predictor.training.strangers import Elsewhere, Tried, choose_elsewhere, error_bound

Bools = npt.NDArray[np.bool_]
LEAST_SCALE: Final = 0.1
"""Of a feature in a region, in octaves and quarters: rows that are all the same say less than that."""
REACH: Final = 2.0
"""A region ends at so many times the distance of its farthest row."""
LEAST_TAUGHT: Final = 2
"""Rows of a region that are left for learning whatever fold is held back."""
_SHARES: Final = SumFeatures("shares")


class Outline(NamedTuple):
    """A region as ``Regional`` has it: centre and scale, float64[d], and radius."""

    name: str
    centre: Floats
    scale: Floats
    radius: float


@dataclass(frozen=True, eq=False)
class RegionalChoice:
    """What was chosen for each region and for elsewhere.

    Attributes:
        regions: those with rows; ``choices``: theirs. ``lent``: those that donors alone know.
        places: int64[n], the number of each row's region, lent ones after the others, their count for elsewhere.
        unseen: float64[n], log ms of each row by what is chosen for its region, without having seen the row.
    """

    problem: ModelProblem
    regions: tuple[Outline, ...]
    choices: tuple[Choice, ...]
    lent: tuple[Outline, ...]
    elsewhere: Elsewhere
    places: Ints
    unseen: Floats

    @property
    def names(self) -> tuple[str, ...]:
        """Of the chosen candidates, as `space: candidate` and `elsewhere: candidate`; the best of each first."""
        of = zip((*(each.name for each in self._outlines), "elsewhere"), self._every_choice, strict=True)
        return tuple(f"{region}: {name}" for region, choice in of for name in choice.names)

    @property
    def errors(self) -> Floats:
        """Absolute log errors of ``unseen``: float64[n]."""
        return np.abs(self.unseen - self.problem.target)

    def intervals(self, level: float, rows: Ints | None = None) -> tuple[Intervals, Floats]:
        """Intervals for the region whose errors are least, and by how much each other one's are wider, lent ones and
        elsewhere last: float64[regions + lent + 1]. From some of the rows, or all."""
        rows = np.arange(len(self.places)) if rows is None else rows
        count, errors, places = len(self.regions), self.errors[rows], self.places[rows]
        # what lies in no region has bounds of its own, wide ones: regions need not be as wide for it
        used = places < count if count else self._told(rows)
        bounds = [error_bound(errors[places == number], level) for number in range(count)]
        bounds = bounds or [error_bound(errors[used], level)]
        strange = [max(*bounds, each) for each in self._strange_bounds(rows, level)]
        wider = np.array([*bounds, *strange] if count else strange) - min(bounds)
        predicted_ms = np.exp(self.unseen[rows][used])
        adjusted = np.maximum(errors[used] - (wider[places[used]] if count else 0.0), 0.0)
        intervals = calibrate(predicted_ms, predicted_ms * np.exp(adjusted), level)
        return intervals, np.exp(np.clip(wider, 0.0, np.log(MAX_WIDENING)))

    def crossed_inside(self, level: float) -> Bools:
        """Whether each row lies in the interval that is calibrated without its fold: bool[n]."""
        inside = np.zeros(len(self.places), dtype=bool)
        for fold in self.problem.folds:
            intervals, widenings = self.intervals(level, fold.train)
            predicted_ms = np.exp(self.unseen[fold.held])
            _, high_ms = intervals.bounds(predicted_ms, widenings[self.places[fold.held]])
            inside[fold.held] = self.errors[fold.held] <= np.log(high_ms / predicted_ms) + 1e-12
        return inside

    def model(self, widenings: Floats) -> Model:
        """The choices as one model that holds each part once."""
        choices = self._every_choice
        parts: dict[int, Model] = {}
        rows: list[dict[int, float]] = []
        offsets = np.zeros(len(choices))
        for at, choice in enumerate(choices):
            weighed: dict[int, float] = {}
            for member, weight in zip(choice.members, choice.weights, strict=True):
                offsets[at] += _take_apart(member.model, weight, parts, weighed)
            rows.append(weighed)
        return replace(
            _map(self._outlines),
            members=tuple(parts.values()),
            weights=np.array([[weighed.get(key, 0.0) for key in parts] for weighed in rows]),
            offsets=offsets,
            widenings=widenings,
            lent=len(self.lent),
            farther=self._farther(float(widenings[-1])),
        )

    def _farther(self, widening: float) -> Farther:
        """Nobody grows by less than what is least elsewhere: with regions that are as wide themselves it is all the
        same far away from them."""
        rows, own = self.problem.rows, self.elsewhere.own
        growth = max(float(np.log(widening)), own.least)
        return Farther(Boxes.around(rows.lists, rows.spaces), own.tried, growth, self.elsewhere.farther)

    @property
    def _outlines(self) -> tuple[Outline, ...]:
        return (*self.regions, *self.lent)

    @property
    def _every_choice(self) -> tuple[Choice, ...]:
        """Of each region, of the lent ones, and of elsewhere."""
        lent = () if self.elsewhere.lent is None else (self.elsewhere.lent.choice,) * len(self.lent)
        return (*self.choices, *lent, self.elsewhere.own.choice)

    def _told(self, rows: Ints) -> Bools:
        """Those of whose kernels more is known than from themselves; all, if there is none."""
        is_told = self.elsewhere.is_told[rows]
        return is_told if is_told.any() else np.ones(len(rows), dtype=bool)

    def _strange_bounds(self, rows: Ints, level: float) -> list[float]:
        """Of lent regions and of elsewhere: by spaces that were held back, and by the rows that lie there."""
        first, last = len(self.regions), len(self._outlines)
        lent = self.elsewhere.lent
        tried: list[Tried] = [] if lent is None else [lent] * len(self.lent)
        told = rows[self._told(rows)]
        there = [told[self.places[told] == number] for number in range(first, last + 1)]
        return [
            max(each.bound(self.elsewhere.groups, rows, level), error_bound(self.errors[at], level))
            for each, at in zip([*tried, self.elsewhere.own], there, strict=True)
        ]


def regional_choice(
    problem: ModelProblem,
    bases: Sequence[Base],
    found: Sequence[Candidate],
    *,
    kernels: PlatformRows,
    sums: Sequence[KernelModels],
    views: Sequence[ModelView],
) -> RegionalChoice:
    """The choices among ``found``, the joint candidates of ``bases``, and among each region's own candidates.

    ``kernels``: what ``sums`` were learnt from.
    """
    elsewhere = choose_elsewhere(problem, found, kernels=kernels, sums=sums, views=views)
    regions, lent, places = _found_regions(problem, views)
    choices = []
    unseen = elsewhere.own.unseen.copy()
    for number in range(len(regions)):
        rows = np.flatnonzero(places == number)
        choices.append(_choice_in(problem, bases, found, rows))
        unseen[rows] = choices[-1].unseen
    if elsewhere.lent is not None:
        is_lent = (places >= len(regions)) & (places < len(regions) + len(lent))
        unseen[is_lent] = elsewhere.lent.unseen[is_lent]
    return RegionalChoice(problem, regions, tuple(choices), lent, elsewhere, places, unseen)


def _choice_in(problem: ModelProblem, bases: Sequence[Base], found: Sequence[Candidate], rows: Ints) -> Choice:
    """By the rows of one region, also among what these alone teach."""
    pool = restricted_candidates(found, rows)
    part = model_problem(problem.rows.take(rows), problem.numbers[rows], problem.seed, len(problem.folds))
    if len(rows) < len(problem.rows):
        pool += space_candidates(part, [restricted(base, rows) for base in bases])
    return choose(part.target, pool)


def _found_regions(
    problem: ModelProblem, views: Sequence[ModelView]
) -> tuple[tuple[Outline, ...], tuple[Outline, ...], Ints]:
    """Regions with rows, lent ones, and the place of each row: int64[n].

    Each search space with enough rows is outlined by them. One that then holds too few, since its rows lie nearer to
    others, is none. Nor is one that a donor knows and that holds rows of a space which was measured.
    """
    rows = problem.rows
    labels = np.array([each or "" for each in rows.spaces])
    names = [name for name in sorted({*labels.tolist()} - {""}) if (labels == name).sum() >= MIN_ROWS]
    shares = _SHARES.matrix(rows.lists)
    regions = [_outline(name, shares[labels == name]) for name in names]
    lent = [each for each in _lent_outlines(views) if each.name not in names]
    while True:
        places = _map([*regions, *lent]).places(rows.lists)
        is_measured = np.isin(labels, [each.name for each in regions])
        taking = set(places[is_measured].tolist())
        kept = [each for number, each in enumerate(lent, len(regions)) if number not in taking]
        thin = [number for number in range(len(regions)) if not _can_choose(problem, places == number)]
        if len(kept) == len(lent) and not thin:
            return tuple(regions), tuple(lent), places
        if len(kept) == len(lent):
            regions.pop(min(thin, key=lambda number: int((places == number).sum())))
        lent = kept


def _can_choose(problem: ModelProblem, is_there: Bools) -> bool:
    """Whether a region with these rows, bool[n], can choose by rows held back."""
    count = int(is_there.sum())
    return count >= MIN_ROWS and count - int(np.bincount(problem.numbers[is_there]).max()) >= LEAST_TAUGHT


def _lent_outlines(views: Sequence[ModelView]) -> list[Outline]:
    """Regions of the nearest donor."""
    if not views or not isinstance(views[0].model, Regional):
        return []
    donor = views[0].model
    of = zip(donor.regions, donor.centres, donor.scales, donor.radii.tolist(), strict=True)
    return [Outline(*each) for each in of]


def _outline(name: str, x: Floats) -> Outline:
    """Of a region, from its rows' features, float64[n, d]."""
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), LEAST_SCALE)
    apart = np.sqrt((((x - centre) / scale) ** 2).mean(axis=1))
    return Outline(name, centre, scale, REACH * max(float(apart.max()), LEAST_SCALE))


def _map(outlines: Sequence[Outline]) -> Regional:
    """Regions that say nothing yet: what tells where a row lies is the same for rows that teach and rows that ask."""
    count, d = len(outlines), len(_SHARES.names)
    return Regional(
        members=(),
        weights=np.zeros((count + 1, 0)),
        offsets=np.zeros(count + 1),
        regions=tuple(each.name for each in outlines),
        features=_SHARES,
        centres=np.array([each.centre for each in outlines], dtype=np.float64).reshape(count, d),
        scales=np.array([each.scale for each in outlines], dtype=np.float64).reshape(count, d),
        radii=np.array([each.radius for each in outlines], dtype=np.float64),
        widenings=np.ones(count + 1),
    )


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
