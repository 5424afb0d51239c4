"""What a fitted model does not know of whole models: kernels that it guesses, and kernels that add nothing to it.

A model on whole-model sums tells by itself which families of kernels it never saw: their sums were 0 in every row. By
the trained range it is also known which kernel types were never there, although another of their family was.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.bounded import Bounded
from benchfarm_predictor.combined import Mean, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.composition import KernelSum, TabledSum
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.quantities import Quantities, quantities
from benchfarm_predictor.ridge import Ridge
from benchfarm_predictor.sums import SumFeatures, families, unseen_families
from benchfarm_predictor.trained_range import TOTALS_OF, TrainedRange

Bools = npt.NDArray[np.bool_]
FOREIGN_SHARE: Final = 0.3
"""No less of a model is unknown that holds an operator of unknown costs: one among a hundred small ones may be the one
that takes longest."""


@dataclass(frozen=True, eq=False)
class Unknown:
    """What is unknown of n kernel lists.

    Attributes:
        guessed: float64[n] in [0, 1], the share that is predicted by what other kernel types take, or by what kernels
            take that were timed otherwise.
        missing: float64[n] in [0, 1], the share that is predicted as nothing.
        types: bool[n] for each kernel type that is guessed or missing in some list: in which ones.
    """

    guessed: Floats
    missing: Floats
    types: Mapping[str, Bools]

    def by_row(self) -> list[list[str]]:
        """Per kernel list the names of the types that are unknown in it."""
        found: list[list[str]] = [[] for _ in range(len(self.guessed))]
        for name, has in self.types.items():
            for row in np.flatnonzero(has):
                found[row].append(name)
        return found


def unknown_of(model: Model, lists: KernelLists, trained: TrainedRange | None) -> Unknown:
    """What the model does not know of the lists. A model that is made of others knows what all of them know.

    Without a trained range only families of kernels are known to have been unseen, and foreign kernel types. With that
    of whole models, what a sum guesses is not unknown if they held it: intervals were made with such guesses.
    """
    members = _members(model, lists)
    if members:
        return _joined([_where(unknown_of(member, lists, trained), rows) for member, rows in members])
    if isinstance(model, KernelSum):
        return _of_kernel_sum(model, lists, trained)
    if isinstance(model, TabledSum):  # no space is tabled of which a kernel is missing
        return Unknown(model.guessed_share(lists), np.zeros(len(lists)), {})
    return _of_sums(model, lists, trained)


def _members(model: Model, lists: KernelLists) -> list[tuple[Model, Bools]]:
    """What the model is made of, and on which rows it counts: bool[n]."""
    every = np.ones(len(lists), dtype=bool)
    match model:
        case Scaled():
            return [(model.base, every)]
        case Residual():
            return [(model.base, every), (model.correction, every)]
        case Bounded():
            return [(model.ratio, every)]
        case Mean() | Stacked():
            return [(member, every) for member in model.members]
        case Regional():
            counts = model.weights[model.places(lists)] != 0
            members = [(member, counts[:, at]) for at, member in enumerate(model.members)]
            return [(member, rows) for member, rows in members if rows.any()] or members[:1]
        case _:
            return []


def _where(found: Unknown, rows: Bools) -> Unknown:
    """The same in some of the rows, nothing in the others."""
    types = {name: has & rows for name, has in found.types.items()}
    return Unknown(found.guessed * rows, found.missing * rows, types)


def _joined(found: Sequence[Unknown]) -> Unknown:
    types: dict[str, Bools] = {}
    for each in found:
        for name, has in each.types.items():
            types[name] = has | types[name] if name in types else has
    guessed = np.max([each.guessed for each in found], axis=0)
    missing = np.max([each.missing for each in found], axis=0)
    return Unknown(guessed, missing, types)


def judged_types(trained: TrainedRange | None) -> Collection[str]:
    """The kernel types of which guesses are not unknown: those of the whole models that intervals were made with."""
    return trained.columns.keys() if trained is not None and TOTALS_OF in trained.columns else ()


def _of_kernel_sum(model: KernelSum, lists: KernelLists, trained: TrainedRange | None) -> Unknown:
    judged = judged_types(trained)
    missing = {
        name: np.ones(len(entries.kernels))
        for name, entries in lists.by_type.items()
        if not model.predicts(entries.kernels)
    }
    unknown = {
        name: np.ones(len(entries.kernels))
        for name, entries in lists.by_type.items()
        if name in missing or not (name in judged or model.knows(entries.kernels))
    }
    return Unknown(model.guessed_share(lists, judged), _largest_share(lists, missing), _holders(lists, unknown))


def _of_sums(model: Model, lists: KernelLists, trained: TrainedRange | None) -> Unknown:
    features = getattr(model, "features", None)
    if isinstance(features, SumFeatures) and features.view == "shares":
        # a ratio to another model, which says itself what it does not know
        return Unknown(np.zeros(len(lists)), np.zeros(len(lists)), {})
    unseen: frozenset[str] = frozenset()
    if isinstance(model, Ridge) and isinstance(model.features, SumFeatures):
        unseen = unseen_families(model.features, model.centre)
    missing: dict[str, Floats] = {}
    guessed: dict[str, Floats] = {}
    for name, entries in lists.by_type.items():
        kernels = entries.kernels
        nothing = sum((part for family, part in families(kernels).items() if family in unseen), np.zeros(len(kernels)))
        is_new = not kernels.is_known or (trained is not None and name not in trained.columns)
        missing[name] = nothing
        guessed[name] = 1 - nothing if is_new else np.zeros(len(kernels))
    flags = {name: missing[name] + guessed[name] for name in missing}
    return Unknown(_largest_share(lists, guessed), _largest_share(lists, missing), _holders(lists, flags))


def _holders(lists: KernelLists, flags: Mapping[str, Floats]) -> dict[str, Bools]:
    """Which lists hold a flagged kernel of each type; ``flags``: float64[u] by kernel type, 1 or 0."""
    return {name: lists.sums_of(lists.by_type[name], each) > 0 for name, each in flags.items() if each.any()}


def _largest_share(lists: KernelLists, flags: Mapping[str, Floats]) -> Floats:
    """float64[n]: the largest of what flagged kernels are among a list's kernels, its FLOPs and its bytes.

    Nobody knows how long they take: one attention among fifty small kernels may be nearly all of it.
    """
    shares = np.zeros(len(lists))
    if not any(each.any() for each in flags.values()):
        return shares
    for measure in (_count, _flops, _bytes):
        if measure not in lists.made:
            lists.made[measure] = lists.sums(measure, measure)
        whole, part = lists.made[measure], np.zeros(len(lists))
        for name, each in flags.items():
            entries = lists.by_type[name]
            part += lists.sums_of(entries, each * measure(entries.kernels))
        shares = np.maximum(shares, part / np.maximum(whole, 1e-300))
    for name, has in _holders(lists, flags).items():
        if not lists.by_type[name].kernels.is_known:
            shares = np.maximum(shares, FOREIGN_SHARE * has)
    return np.clip(shares, 0, 1)


def _count(kernels: Kernels) -> Floats:
    return np.ones(len(kernels))


def _flops(kernels: Kernels) -> Floats:
    return _cost(kernels, lambda found: found.flops)


def _bytes(kernels: Kernels) -> Floats:
    return _cost(kernels, lambda found: found.total_bytes)


def _cost(kernels: Kernels, of: Callable[[Quantities], Floats]) -> Floats:
    """0 of foreign kernels, whose costs are not known."""
    found = quantities(kernels)
    return np.zeros(len(kernels)) if found is None else of(found)
