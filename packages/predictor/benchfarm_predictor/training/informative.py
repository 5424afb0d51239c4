"""What to measure next: the architectures and kernels that tell most.

Two things tell that a row is missing somewhere: nothing like it was measured, and models that are equally good on what
was measured disagree about it. What is asked for next is spread out, too: of two that are alike one is enough. Every
second one is taken as it was drawn, so that what cross-validation says of the rows holds for draws of the space.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import numpy as np

from benchfarm_core.architectures import Architecture
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import ArchitectureWorkload, workload_id
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels, catalogue_columns, is_text
from benchfarm_predictor.models import Batch, Model
from benchfarm_predictor.quantities import quantities
from benchfarm_predictor.smooth import distances
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training.learners import smooth_features
from benchfarm_predictor.training.measured import MIN_ROWS
from benchfarm_workloads.columns import Config
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernel_frequencies import BYTES_WEIGH_FLOPS
from benchfarm_workloads.spaces import draws, kernels

POOL: Final = 3
"""Times as many architectures are drawn as are wanted."""
POOL_MAX: Final = 600
"""Networks of so many are laid out at most: it takes milliseconds each."""


def space_plan(
    space: str, seed: str, count: int, *, known: Collection[str] = (), rules: FusionRules | None = None
) -> tuple[Architecture, ...]:
    """``count`` architectures of a space to measure, or as many as it has, none of whose workload ids is known.

    Every beginning of them is a good sample: first the least and the most work of what was drawn, so that both ends of
    the resolutions are there, then in turn the one that is farthest from all before it and one as it was drawn. The
    same for the same seed on every machine.

    Raises:
        InvalidRequest: ``space_unknown``, or a count below 0.
    """
    if count < 0:
        raise InvalidRequest(f"count={count} must be 0 or more", field="count")
    pool = _pool(space, seed, count, frozenset(known))
    if not pool:
        return ()
    fusions = rules or FusionRules()
    lists = KernelLists.of(kernels(architecture, fusions) for architecture in pool)
    x = SumFeatures("shares").matrix(lists)
    work = SumFeatures().matrix(lists)[:, [name.endswith("_mmacs") for name in SumFeatures().names]].sum(axis=1)
    first = list(dict.fromkeys((int(np.argmin(work)), int(np.argmax(work)))))
    return tuple(pool[at] for at in _spread(x, np.ones(len(x)), first, min(count, len(pool))))


def next_models(plausible: Sequence[Model], measured: KernelLists, offered: KernelLists, count: int) -> tuple[int, ...]:
    """The numbers of the offered kernel lists to measure next, at most ``count``, the most telling first.

    ``plausible``: models that are nearly equally good on what was measured (``PlatformFit.plausible``).
    """
    features = SumFeatures("shares")
    x, known = features.matrix(offered), features.matrix(measured)
    return _next(x, known, disagreement(plausible, offered), count)


def next_kernels(plausible: Sequence[Model], measured: Kernels, offered: Kernels, count: int) -> tuple[int, ...]:
    """As ``next_models``, of kernels of one type.

    Raises:
        InvalidRequest: ``kernel_unknown`` when the two are of different types.
    """
    features = smooth_features(offered)
    x, known = features.matrix(offered), features.matrix(measured)
    return _next(x, known, disagreement(plausible, offered), count)


def kernels_to_time(lists: KernelLists, count: int, *, known: Sequence[Kernels] = ()) -> tuple[tuple[str, Config], ...]:
    """Which kernels of these whole models to time by themselves: at most ``count`` distinct ones, none of the known.

    Kernel types share them by the square root of what they cost in all models, each at least ``MIN_ROWS`` if it has so
    many, since with fewer nothing of its own is fitted. Within a type those that cost most come first, but spread out.
    In turn one of each type, so that every beginning has all types.
    """
    measured = {each.type: each for each in known}
    turns: list[list[tuple[str, Config]]] = []
    weights = []
    for name, entries in lists.by_type.items():
        if not entries.kernels.is_known:
            continue
        cost = _cost(entries.kernels)
        chosen = _kernels_of_type(entries.kernels, cost, measured.get(name), count)
        turns.append([(name, _config(entries.kernels, at)) for at in chosen])
        weights.append(float(np.sqrt(lists.sums_of(entries, cost).sum())))
    quotas = [max(MIN_ROWS, round(count * each / max(sum(weights), 1e-12))) for each in weights]
    within = _in_turn([each[:quota] for each, quota in zip(turns, quotas, strict=True)])
    beyond = _in_turn([each[quota:] for each, quota in zip(turns, quotas, strict=True)])
    return (*within, *beyond)[:count]


def disagreement(plausible: Sequence[Model], batch: Batch) -> Floats:
    """Standard deviation of the models' log ms about each row: float64[n]; 0 of fewer than two models."""
    if len(plausible) < 2 or not len(batch):
        return np.zeros(len(batch))
    said: Floats = np.std([np.log(model.predict(batch)) for model in plausible], axis=0)
    return said


def _pool(space: str, seed: str, count: int, known: frozenset[str]) -> list[Architecture]:
    """Drawn architectures that are not known; fewer where the space is small."""
    wanted = min(POOL * count, max(POOL_MAX, count)) + len(known)
    drawn = _drawn(space, seed, wanted)
    fresh = [each for each in drawn if not known or workload_id(ArchitectureWorkload(**dict(each))) not in known]
    return fresh[: max(wanted - len(known), count)]


def _drawn(space: str, seed: str, count: int) -> list[Architecture]:
    """As many as there are, if the space has fewer."""
    while count:
        try:
            return draws(space, seed, count)
        except InvalidRequest as error:
            if error.field != "count":
                raise
            count //= 2
    return []


def _next(x: Floats, known: Floats, doubt: Floats, count: int) -> tuple[int, ...]:
    """Rows of float64[n, d] by distance to known ones, float64[m, d], times doubt, float64[n], and as they come."""
    if not len(x):
        return ()
    usual = float(np.mean(doubt))
    weights = 1 + doubt / usual if usual > 0 else np.ones(len(x))
    gaps = distances(x, known).min(axis=1) if len(known) else np.full(len(x), np.inf)
    return tuple(_spread(x, weights, [], min(count, len(x)), gaps))


def _spread(x: Floats, weights: Floats, first: Sequence[int], count: int, gaps: Floats | None = None) -> Iterator[int]:
    """``first``, then in turn the row with the largest gap x weight and the first one that is left: numbers of rows of
    float64[n, d]. ``gaps``: float64[n], distances to what is known."""
    gaps = np.full(len(x), np.inf) if gaps is None else gaps.copy()
    is_left = np.ones(len(x), dtype=bool)
    for turn in range(count):
        if turn < len(first):
            at = int(first[turn])
        elif (turn - len(first)) % 2:
            at = int(np.argmax(is_left))
        else:
            at = int(np.argmax(np.where(is_left, _finite(gaps) * weights, -1.0)))
        is_left[at] = False
        gaps = np.minimum(gaps, distances(x, x[at : at + 1])[:, 0])
        yield at


def _finite(gaps: Floats) -> Floats:
    """Where nothing is known everything is equally far."""
    return np.where(np.isinf(gaps), 1.0, gaps)


def _kernels_of_type(kernels: Kernels, cost: Floats, known: Kernels | None, count: int) -> list[int]:
    """Rows by cost and distance, without the known ones."""
    is_new = np.ones(len(kernels), dtype=bool)
    if known is not None and known.columns == kernels.columns:
        seen = {row.tobytes() for row in known.values}
        is_new = np.array([row.tobytes() not in seen for row in kernels.values], dtype=bool)
    rows = np.flatnonzero(is_new)
    if not len(rows):
        return []
    x = smooth_features(kernels).matrix(kernels)[rows]
    order = _spread(x, np.sqrt(cost[rows]), [int(np.argmax(cost[rows]))], min(count, len(rows)))
    return [int(rows[at]) for at in order]


def _in_turn(turns: Sequence[Sequence[tuple[str, Config]]]) -> list[tuple[str, Config]]:
    longest = max(map(len, turns), default=0)
    return [each[at] for at in range(longest) for each in turns if at < len(each)]


def _cost(kernels: Kernels) -> Floats:
    """Operations and bytes: latencies are not known yet."""
    found = quantities(kernels)
    assert found is not None
    return found.flops + BYTES_WEIGH_FLOPS * found.total_bytes


def _config(kernels: Kernels, row: int) -> Config:
    """A configuration as workloads name it."""
    choices = {column.name: column.choices for column in catalogue_columns(kernels.type) if is_text(column)}
    numbers = zip(kernels.columns, kernels.values[row].tolist(), strict=True)
    return {name: choices[name][value] if name in choices else value for name, value in numbers}
