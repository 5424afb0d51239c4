"""From which platforms an adaptation may start: own ones whose predictors answer, and entries of the pool."""

from sqlalchemy import text

from benchfarm_core.adapting import DonorChoice, may_be_donor
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL, TrainingRows
from benchfarm_store import pool, predictors
from benchfarm_store.database import Transaction


def donor_rows(
    tx: Transaction, platform_id: int, platform: Platform, choice: DonorChoice, limit: int
) -> list[TrainingRows]:
    """What at most `limit` platforms can lend to one (its row, and itself), in the order of their likeness to it.

    Those that were compared and are not near are left out, own ones that were not compared come last. Raises NotFound.
    """
    if choice == DonorChoice.NONE:
        return []
    heads = {head.platform_id for head in predictors.donors(tx, platform_id, WHOLE_MODEL)}
    rows = tx.execute(_PLATFORMS, {"ids": sorted(heads)}).all()
    own = {row.public_id: Platform.model_validate(row.spec) for row in rows}
    compared = pool.donors(tx, platform_id, WHOLE_MODEL, Timing.ALONE)
    known = own | {one.id: one.platform for one in compared if not one.is_own}
    far = {one.id for one in compared if not one.likeness.is_near}
    place = {one.id: number for number, one in enumerate(compared)}
    allowed = [id_ for id_, donor in known.items() if id_ not in far and may_be_donor(donor, platform, choice)]
    nearest = sorted(allowed, key=lambda donor: (place.get(donor, len(place)), donor))[:limit]
    found = (_rows(tx, donor) for donor in nearest)
    return [rows for rows in found if rows is not None]


def _rows(tx: Transaction, donor: str) -> TrainingRows | None:
    """What it lends; None of an entry whose kernels are of another catalogue."""
    try:
        return pool.donor_rows(tx, donor, WHOLE_MODEL)
    except InvalidRequest:
        return None


_PLATFORMS = text("SELECT id, public_id, spec FROM platforms WHERE id = ANY(CAST(:ids AS int[]))")
