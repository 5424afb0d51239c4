"""Which predictors are due to be made anew: by what came since their newest version, whatever became of that.

A version that was refused counts as an attempt, so that the same rows are not tried twice.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.measurements import Timing
from benchfarm_core.messages import Task, TaskMessage, TrainingWork
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.refreshing import Since, may_have_drifted
from benchfarm_store.database import Transaction

MAX_DUE: Final = 20
"""Platforms that one look asks to look after; the next look takes the others."""


class Due(NamedTuple):
    """A subject with new results on a platform (its row), since a moment."""

    platform_id: int
    platform: Platform
    subject: str
    since: Since
    made_at: datetime


def wake(tx: Transaction) -> int:
    """Ask to look after the platforms whose predictors may be due; how many."""
    found = list(dict.fromkeys(row.public_id for row in tx.execute(_DUE, _parameters(None)) if _may_be_due(row)))
    for platform_id in found[:MAX_DUE]:
        tx.after_commit(TaskMessage(task=Task.TRAIN, args=(TrainingWork.REFRESH, platform_id)))
    return len(found[:MAX_DUE])


def due_on(tx: Transaction, platform: str) -> list[Due]:
    """The subjects of a platform (its id) that may be due, in the order of their names."""
    return [_due(row) for row in tx.execute(_DUE, _parameters(platform)) if _may_be_due(row)]


def _parameters(platform: str | None) -> dict[str, Any]:
    return {"platform": platform, "model": WHOLE_MODEL, "alone": Timing.ALONE}


def _may_be_due(row: Row[Any]) -> bool:
    return may_have_drifted(_due(row).since)


def _due(row: Row[Any]) -> Due:
    since = Since(row.learnt, row.new, row.is_other_generation)
    return Due(row.platform_id, Platform.model_validate(row.spec), row.subject, since, row.made_at)


# an adaptation that is under way will make them itself
_DUE = text("""
    SELECT a.platform_id, p.public_id, p.spec, a.subject, newest.made_at,
        coalesce(CAST(a.evidence->'rows'->>CASE WHEN a.subject = :model THEN 'models' ELSE 'alone' END AS int), 0)
            AS learnt,
        (SELECT count(*) FROM results r
            JOIN measurements m ON m.id = r.measurement_id AND m.state = 'done' AND m.purpose <> 'holdout'
            JOIN workloads w ON w.id = m.workload_id AND CASE WHEN a.subject = :model
                THEN w.kind IN ('model', 'architecture') ELSE w.family = a.subject AND m.timing = :alone END
            JOIN summaries s ON s.measurement_id = m.id AND s.active AND s.grade <> 'D' AND s.normalised_ms IS NOT NULL
            WHERE r.platform_id = a.platform_id AND r.measured_at > newest.made_at) AS new,
        EXISTS (SELECT FROM board_platforms o JOIN boards b ON b.id = o.board_id
            JOIN generations g ON g.id = b.generation_id
            WHERE o.platform_id = a.platform_id AND g.created_at > newest.made_at) AS is_other_generation
    FROM predictors a JOIN platforms p ON p.id = a.platform_id
    CROSS JOIN LATERAL (
        SELECT max(created_at) AS made_at FROM predictors
        WHERE platform_id = a.platform_id AND subject = a.subject) newest
    WHERE a.state = 'active' AND (CAST(:platform AS text) IS NULL OR p.public_id = :platform) AND NOT EXISTS (
        SELECT FROM adaptations d WHERE d.platform_id = a.platform_id AND d.finished_at IS NULL)
    ORDER BY a.platform_id, a.subject
""")
