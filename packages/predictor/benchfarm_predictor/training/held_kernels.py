"""Sums of kernels as they would be had the models of one search space never been seen, nor kernels like theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchfarm_predictor.kernel_lists import Entries, KernelLists
from benchfarm_predictor.kernels import Ints
from benchfarm_predictor.smooth import distances
from benchfarm_predictor.training.kernel_sums import KernelModels, fitted_once, kernel_models
from benchfarm_predictor.training.learners import smooth_features
from benchfarm_predictor.training.measured import Measured
from benchfarm_predictor.training.platform_rows import PlatformRows

_SHARED = -1


def sums_without(
    rows: PlatformRows, sums: Sequence[KernelModels], lists: KernelLists, groups: Ints, seed: int
) -> dict[str, tuple[KernelModels, ...]]:
    """By the name of each sum what it would be without each group in turn; ``groups``: int64[n], of the lists.

    A timed kernel is a group's where the kernel in the lists that is most like it is in lists of that group alone.
    Donors say nothing in these sums: they know all kernels.
    """
    timed = (rows.alone, rows.in_situ)
    alone, in_situ = ({name: _owners(each, lists, groups) for name, each in by_type.items()} for by_type in timed)
    found: dict[str, list[KernelModels]] = {each.name: [] for each in sums}
    for group in range(int(groups.max()) + 1):
        rest = replace(rows, alone=_left(rows.alone, alone, group), in_situ=_left(rows.in_situ, in_situ, group))
        for each in sums:
            found[each.name].append(_without(each, rows, rest, seed))
    return {name: tuple(each) for name, each in found.items()}


def _without(sums: KernelModels, rows: PlatformRows, rest: PlatformRows, seed: int) -> KernelModels:
    """The sum from the rest of the rows; nothing adds to it where they teach nothing."""
    if rest.counts == rows.counts and not sums.donors:
        return sums
    made = kernel_models(rest, (), seed, fitted_once)
    return made[0] if made else KernelModels(sums.name, {}, None)


def _left(timed: Mapping[str, Measured], owners: Mapping[str, Ints], group: int) -> dict[str, Measured]:
    """By kernel type the rows that are not the group's; a type none of whose rows are left is not there."""
    kept = {name: measured.take(owners[name] != group) for name, measured in timed.items()}
    return {name: measured for name, measured in kept.items() if len(measured)}


def _owners(measured: Measured, lists: KernelLists, groups: Ints) -> Ints:
    """The group whose kernels each row is one of: int64[n], -1 of what several have, or none."""
    entries = lists.by_type.get(measured.kernels.type)
    if entries is None:
        return np.full(len(measured), _SHARED, dtype=np.int64)
    features = smooth_features(entries.kernels)
    apart = distances(features.matrix(measured.kernels), features.matrix(entries.kernels))
    owners: Ints = _only_groups(entries, groups)[apart.argmin(axis=1)]
    return owners


def _only_groups(entries: Entries, groups: Ints) -> Ints:
    """The group in whose lists alone each kernel is: int64[u], -1 where it is in lists of several."""
    first = np.full(len(entries.kernels), np.iinfo(np.int64).max)
    last = np.full(len(entries.kernels), _SHARED)
    np.minimum.at(first, entries.kernel, groups[entries.owner])
    np.maximum.at(last, entries.kernel, groups[entries.owner])
    return np.where(first == last, first, _SHARED)
