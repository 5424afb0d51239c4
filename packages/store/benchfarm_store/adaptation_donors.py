"""From which platforms an adaptation may start: those whose predictors answer, the most alike first."""

from sqlalchemy import text

from benchfarm_core.adapting import DonorChoice, may_be_donor
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL, TrainingRows
from benchfarm_store import likenesses, predictors
from benchfarm_store.database import Transaction
from benchfarm_store.training_rows import training_rows


def donor_rows(
    tx: Transaction, platform_id: int, platform: Platform, choice: DonorChoice, limit: int
) -> list[TrainingRows]:
    """What at most `limit` platforms can lend to one (its row, and itself), in the order of their likeness to it.

    Those that were not compared come last. Raises NotFound.
    """
    if choice == DonorChoice.NONE:
        return []
    heads = {head.platform_id for head in predictors.donors(tx, platform_id, WHOLE_MODEL)}
    rows = tx.execute(_PLATFORMS, {"ids": sorted(heads)}).all()
    allowed = {
        row.public_id: row.id for row in rows if may_be_donor(Platform.model_validate(row.spec), platform, choice)
    }
    near = likenesses.ranked(tx, platform_id, WHOLE_MODEL, Timing.ALONE, list(allowed))
    place = {likeness.donor: number for number, likeness in enumerate(near)}
    nearest = sorted(allowed, key=lambda donor: (place.get(donor, len(place)), donor))[:limit]
    return [training_rows(tx, allowed[donor]) for donor in nearest]


_PLATFORMS = text("SELECT id, public_id, spec FROM platforms WHERE id = ANY(CAST(:ids AS int[]))")
