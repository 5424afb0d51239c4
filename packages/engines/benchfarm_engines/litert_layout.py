"""Order of axes in memory. Pure.

A tensor has a *shape* in the workload's order of axes, and *axes*: the i-th axis in memory is the workload's axis
axes[i], as in ``edges``. So a transposition is a change of names, data move only where an operator needs another
order, and images lie with their channels last throughout.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

Shape = tuple[int, ...]
Axes = tuple[int, ...]

IMAGE: Final[Axes] = (0, 2, 3, 1)
"""Channels last."""


class Regrouping(NamedTuple):
    """How a tensor is reshaped: first its memory in the order ``before``, then the same memory read as ``after``."""

    before: Axes
    after: Axes


def plain(rank: int) -> Axes:
    """The workload's own order."""
    return tuple(range(rank))


def stored(shape: Shape, axes: Axes) -> Shape:
    """The shape in memory."""
    return tuple(shape[axis] for axis in axes)


def same_memory(shape: Shape, axes: Axes, others: Axes) -> bool:
    """Whether two orders differ by axes of size 1 alone."""
    return _solid(shape, axes) == _solid(shape, others)


def transposed(axes: Axes, perm: Sequence[int]) -> Axes:
    """The order of the same memory after the workload's axes were renamed: its new axis i is the old perm[i]."""
    return tuple(list(perm).index(axis) for axis in axes)


def extended(axes: Axes, rank: int) -> Axes:
    """The order of a tensor that broadcasting gives more axes in front."""
    added = rank - len(axes)
    return (*range(added), *(axis + added for axis in axes))


def regrouping(source: Shape, axes: Axes, target: Shape) -> Regrouping:
    """How a tensor of shape ``source`` becomes ``target``, with its memory moved as little as possible."""
    groups = _groups(source, target)
    place = {axis: number for number, axis in enumerate(axes)}
    groups.sort(key=lambda group: min(place[axis] for axis in group.source))
    likely = [plain(len(target)), IMAGE] if axes == plain(len(axes)) else [IMAGE, plain(len(target))]
    wanted = [each for each in likely if len(each) == len(target)]
    if _members(groups) == _solid(source, axes):
        before = axes
    else:  # data must move: into an order that nobody has to move again
        orders = [_in_order(groups, each) for each in wanted or [plain(len(target))]]
        groups = min(orders, key=lambda order: _inversions([place[axis] for axis in _members(order)]))
        before = _arranged(_members(groups), source, [plain(len(source)), IMAGE])
    return Regrouping(before, _arranged([axis for group in groups for axis in group.target], target, wanted))


class _Group(NamedTuple):
    """Neighbouring axes that hold the same elements before and after."""

    source: list[int]
    target: list[int]


def _in_order(groups: Sequence[_Group], axes: Axes) -> list[_Group]:
    return sorted(groups, key=lambda group: axes.index(group.target[0]))


def _members(groups: Sequence[_Group]) -> list[int]:
    return [axis for group in groups for axis in group.source]


def _inversions(places: Sequence[int]) -> int:
    return sum(places[i] > places[j] for j in range(len(places)) for i in range(j))


def _solid(shape: Shape, axes: Iterable[int]) -> list[int]:
    return [axis for axis in axes if shape[axis] != 1]


def _groups(source: Shape, target: Shape) -> list[_Group]:
    """Runs of axes of both shapes with equal products, axes of size 1 left out."""
    left, right = _solid(source, range(len(source))), _solid(target, range(len(target)))
    groups: list[_Group] = []
    while left and right:
        group = _Group([left.pop(0)], [right.pop(0)])
        sizes = [source[group.source[0]], target[group.target[0]]]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                group.source.append(left.pop(0))
                sizes[0] *= source[group.source[-1]]
            else:
                group.target.append(right.pop(0))
                sizes[1] *= target[group.target[-1]]
        groups.append(group)
    return groups


def _arranged(solid: list[int], shape: Shape, wanted: Sequence[Axes]) -> Axes:
    """An order in which the axes of more than one element come as said; one of ``wanted`` where that fits."""
    for axes in wanted:
        if len(axes) == len(shape) and _solid(shape, axes) == solid:
            return axes
    return (*(axis for axis in range(len(shape)) if shape[axis] == 1), *solid)
