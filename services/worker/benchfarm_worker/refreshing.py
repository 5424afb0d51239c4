"""Makes a platform's predictors anew where new results call for it; what is no better is kept as rejected."""

import logging
import time
from collections.abc import Sequence
from typing import Final

from benchfarm_core.adapting import DonorChoice
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.predictors import TrainingRows
from benchfarm_core.refreshing import RefreshReason, is_drifted, why_due
from benchfarm_store import host_leases, refreshes, training_rows
from benchfarm_store.adaptation_donors import donor_rows
from benchfarm_store.database import Database
from benchfarm_store.refreshes import Due
from benchfarm_worker import fitting, publishing
from benchfarm_worker.fitting import Known

MAX_DONORS: Final = 4
LONGEST_REST_S: Final = 20.0
"""Nothing else is trained meanwhile."""
LOOK_EVERY_S: Final = 0.5

logger = logging.getLogger(__name__)


def step(database: Database, platform_id: str, boot_id: str, wait_s: float) -> None:
    """Look after one platform's predictors. Twice changes nothing: the same rows make the same file.

    It waits for leases on this host as adaptations do, but for seconds only.
    """
    with database.transaction() as tx:
        due = refreshes.due_on(tx, platform_id)
    for one in due:
        _rest(database, boot_id, min(wait_s, LONGEST_REST_S))
        refresh(database, one)


def refresh(database: Database, due: Due) -> RefreshReason | None:
    """Make one subject's predictor anew, if it is due; why it was."""
    with database.transaction() as tx:
        own = training_rows.training_rows(tx, due.platform_id)
        active = publishing.active_file(tx, due.platform_id, due.subject)
        reason = _why(due, own, active)
        if reason is None:
            return None
        others = donor_rows(tx, due.platform_id, due.platform, DonorChoice.ANY, MAX_DONORS)
        judging = publishing.judging_rows(tx, due.platform_id)
    held = [row.workload_id for row in judging.kernels] + [row.workload_id for row in judging.models]
    judged = publishing.judge(Known.of(own, held, others), due.subject, judging, active)
    if isinstance(judged, str):
        return None
    with database.transaction() as tx:
        made = publishing.keep(tx, due.platform_id, due.subject, judged)
    told = {"platform": own.platform, "subject": due.subject, "why": reason, "answers": made.is_active}
    logger.info("made a predictor anew", extra=told | {"detail": made.detail})
    return reason


def _why(due: Due, rows: TrainingRows, active: bytes | None) -> RefreshReason | None:
    found = why_due(due.since)
    if found is not None or active is None:
        return found
    return RefreshReason.DRIFT if is_drifted(_log_ratios(due, rows, active)) else None


def _log_ratios(due: Due, rows: TrainingRows, active: bytes) -> Sequence[float]:
    """Measured over predicted of what came since, as natural logarithms."""
    new = rows.model_copy(
        update={
            "models": tuple(row for row in rows.models if row.measured_at > due.made_at),
            "kernels": tuple(row for row in rows.kernels if row.measured_at > due.made_at),
        }
    )
    try:
        return fitting.log_ratios(active, new, due.subject)
    except InvalidRequest:
        return []


def _rest(database: Database, boot_id: str, longest_s: float) -> None:
    """Wait while this host measures."""
    until_s = time.monotonic() + longest_s
    while time.monotonic() < until_s:
        with database.transaction(read_only=True) as tx:
            if not host_leases.is_measuring(tx, boot_id):
                return
        time.sleep(LOOK_EVERY_S)
