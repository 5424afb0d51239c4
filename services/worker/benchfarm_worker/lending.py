"""What donors lend, from what was read of them: rows are told between two transactions, for that takes seconds."""

from collections.abc import Sequence

from benchfarm_core.predictors import TrainingRows
from benchfarm_store import adaptation_donors
from benchfarm_store.adaptation_donors import FoundDonor
from benchfarm_store.database import Database


def lent(database: Database, found: Sequence[FoundDonor]) -> list[TrainingRows]:
    """The rows of each donor without what judges on this farm; entries of another catalogue are left out."""
    known = adaptation_donors.told_donors(found)
    with database.transaction(read_only=True) as tx:
        return adaptation_donors.lent(tx, known)
