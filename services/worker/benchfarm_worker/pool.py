"""Compares a member of the pool with the others over the probe set; needs numpy, so the `train` queue runs it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from benchfarm_core.errors import NotFound
from benchfarm_core.measurements import Timing
from benchfarm_core.pool import Likeness, is_entry_id
from benchfarm_core.predictors import may_lend
from benchfarm_predictor.similarity import rank_donors
from benchfarm_store import likenesses, pool_entries
from benchfarm_store.database import Database
from benchfarm_store.likenesses import Probed
from benchfarm_worker import resting
from benchfarm_workloads.probes import probe_set

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


def step(database: Database, member_id: str, boot_id: str, wait_s: float) -> None:
    """One member's likenesses, as target and as donor, where they are due: messages come doubled.

    Where another compares it is left, and while this host measures, for `wait_s` at most: the sweep asks again.
    """
    if resting.rests(database, "liken", member_id, boot_id, wait_s):
        return
    look_again(database)
    with database.transaction() as tx:
        if not likenesses.hold(tx):
            logger.info("somebody else compares, the sweep asks again", extra={"member_id": member_id})
            return
        if member_id not in likenesses.due_members(tx):
            return
        platforms, entries = likenesses.probed_platforms(tx), likenesses.probed_entries(tx)
        if is_entry_id(member_id):
            entry = [one for one in entries if one.id == member_id]
            likenesses.keep_entry(tx, member_id, compare(platforms, entry))
            return
        own = next((one for one in platforms if one.id == member_id), None)
        if own is None:
            likenesses.forget_platform(tx, member_id)
            return
        others = [one for one in platforms if one.id != member_id]
        found = [*compare([own], [*others, *entries]), *compare(others, [own])]
        likenesses.keep_platform(tx, own, found)
    logger.info("compared over the probe set", extra={"member_id": member_id, "likenesses": len(found)})


def look_again(database: Database) -> int:
    """Find the present probes in entries that came before them; how many. Their rows are unpacked between two
    transactions: each takes up to a second, and whoever compares holds a lock."""
    with database.transaction(read_only=True) as tx:
        ids = pool_entries.outdated(tx)
    for entry_id in ids:
        with suppress(NotFound):  # somebody has just deleted it
            with database.transaction(read_only=True) as tx:
                packed = pool_entries.find_rows(tx, entry_id)
            found = pool_entries.FoundProbes.of(entry_id, packed)
            with database.transaction() as tx:
                pool_entries.keep_probes(tx, found)
    return len(ids)


def compare(targets: Iterable[Probed], donors: Sequence[Probed]) -> list[Likeness]:
    """Each target with each donor that may lend to it, in every subject of which both have enough probes."""
    found = []
    for target in targets:
        lending = [one for one in donors if may_lend(one.board_model, target.board_model)]
        for (subject, timing), ids in probe_set().subjects.items():
            places = [(id_, timing) for id_ in ids if (id_, timing) in target.times]
            found += _compare(target, lending, subject, timing, places)
    return found


def _compare(
    target: Probed, donors: Sequence[Probed], subject: str, timing: Timing, places: Sequence[tuple[str, Timing]]
) -> list[Likeness]:
    if not places or not donors:
        return []
    ranked = rank_donors(_times(target.times, places), {one.id: _times(one.times, places) for one in donors})
    return [Likeness(target=target.id, subject=subject, timing=timing, **dict(one)) for one in ranked]


def _times(times: Mapping[tuple[str, Timing], float], places: Sequence[tuple[str, Timing]]) -> Floats:
    """float64[places] in ms; NaN where there is none."""
    return np.array([times.get(place, np.nan) for place in places])
