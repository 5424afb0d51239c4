"""From which platforms a predictor may start: own ones whose predictors answer, and entries of the pool."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import text

from benchfarm_core.adapting import DonorChoice, may_be_donor
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.pool_files import PoolEntry
from benchfarm_core.predictors import WHOLE_MODEL, TrainingRows
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.refreshing import is_other_version
from benchfarm_store import pool, pool_entries, predictors
from benchfarm_store.database import Transaction
from benchfarm_store.pool_entries import FoundEntry
from benchfarm_store.training_rows import FoundRows, told


class FoundDonor(NamedTuple):
    """What a donor lends for a subject, as it was read."""

    rows: FoundRows | FoundEntry
    subject: str


class ToldDonor(NamedTuple):
    """The rows of a donor; `entry`: of the pool, whose rows may be hold-outs here, None of an own platform."""

    rows: TrainingRows
    subject: str
    entry: PoolEntry | None


def find_donors(
    tx: Transaction, platform_id: int, platform: Platform, choice: DonorChoice, limit: int, subject: str = WHOLE_MODEL
) -> list[FoundDonor]:
    """What at most `limit` platforms can lend to one (its row, and itself) for a subject, only read: what takes time is
    `told_donors`, outside the transaction. Other versions of its engine come first, then the others in the order of
    their likeness in that subject, or in whole models where nothing is known of it.

    Those that were compared and are not near are left out, own ones that were not compared come last. Each platform
    lends once, by its key: an own one before what was imported, and of that the newest. Raises NotFound.
    """
    if choice == DonorChoice.NONE:
        return []
    heads = {head.platform_id for head in predictors.donors(tx, platform_id, subject)}
    rows = tx.execute(_PLATFORMS, {"ids": sorted(heads)}).all()
    own = {row.public_id: Platform.model_validate(row.spec) for row in rows}
    compared = pool.donors(tx, platform_id, subject, Timing.ALONE)
    if not compared:
        compared = pool.donors(tx, platform_id, WHOLE_MODEL, Timing.ALONE)
    known = own | {one.id: one.platform for one in compared if not one.is_own}
    far = {one.id for one in compared if not one.likeness.is_near}
    place = {one.id: number for number, one in enumerate(compared)}
    allowed = [id_ for id_, donor in known.items() if id_ not in far and may_be_donor(donor, platform, choice)]

    def order(donor: str) -> tuple[bool, int, str]:
        return not is_other_version(known[donor], platform), place.get(donor, len(place)), donor

    once = one_each(tx, {id_: known[id_] for id_ in allowed})
    found = (_find(tx, donor, subject) for donor in sorted(once, key=order)[:limit])
    return [one for one in found if one is not None]


def one_each(tx: Transaction, members: Mapping[str, Platform]) -> list[str]:
    """Of members of the same key the first: own ones, then entries from the newest on."""
    rows = tx.execute(_NEWEST_FIRST, {"ids": list(members)})
    places = {row.public_id: place for place, row in enumerate(rows, 1)}
    first: dict[str, str] = {}
    for id_ in sorted(members, key=lambda id_: (places.get(id_, 0), id_)):
        first.setdefault(members[id_].key, id_)
    return [*first.values()]


def _find(tx: Transaction, donor: str, subject: str) -> FoundDonor | None:
    """What it lends; None of one that somebody has just deleted."""
    try:
        return FoundDonor(pool.find_donor_rows(tx, donor, subject), subject)
    except NotFound:
        return None


def told_donors(found: Sequence[FoundDonor]) -> list[ToldDonor]:
    """The rows with the kernels of whole models; no transaction is needed for what takes seconds. Entries whose kernels
    are of another catalogue, or whose times are of other rules, are left out: nothing here can derive them anew."""
    known = (_told(one) for one in found)
    return [one for one in known if one is not None]


def _told(found: FoundDonor) -> ToldDonor | None:
    if isinstance(found.rows, FoundRows):
        return ToldDonor(told(found.rows), found.subject, None)
    try:
        rows = found.rows.unpacked()
    except InvalidRequest:
        return None
    return ToldDonor(rows, found.subject, found.rows.entry) if rows.rule_version == RULE_VERSION else None


def lent(tx: Transaction, known: Sequence[ToldDonor]) -> list[TrainingRows]:
    """What donors lend: of an entry all but what is a hold-out anywhere on this farm, and of a subject that is no whole
    model its kernels alone."""
    entries = [one.rows for one in known if one.entry is not None]
    held = pool_entries.held_of(tx, entries) if entries else frozenset()
    return [_of_subject(one, held) for one in known]


def _of_subject(found: ToldDonor, held: frozenset[str]) -> TrainingRows:
    rows = found.rows if found.entry is None else pool_entries.without(found.entry, found.rows, held)
    if found.subject == WHOLE_MODEL:
        return rows
    kernels = tuple(row for row in rows.kernels if row.kernel_type == found.subject)
    return rows.model_copy(update={"kernels": kernels, "models": ()})


_PLATFORMS = text("SELECT id, public_id, spec FROM platforms WHERE id = ANY(CAST(:ids AS int[]))")
_NEWEST_FIRST = text("""
    SELECT public_id FROM pool_entries WHERE public_id = ANY(CAST(:ids AS text[])) ORDER BY imported_at DESC, id DESC
""")
