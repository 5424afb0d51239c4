"""A job's events: numbered without gaps under the job's row lock."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, text

from benchfarm_core.errors import NotFound
from benchfarm_core.events import Event, EventKind
from benchfarm_core.messages import Nudge, job_channel
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import job_column
from benchfarm_store.tables import events
from benchfarm_store.tokens import Caller


def append(tx: Transaction, job_id: str, kind: EventKind, data: Mapping[str, Any]) -> int:
    """Add an event and return its number; the update of the job's row is the lock."""
    number: int = tx.execute(
        text("UPDATE jobs SET event_number = event_number + 1 WHERE id = CAST(:id AS uuid) RETURNING event_number"),
        {"id": job_id},
    ).scalar_one()
    tx.execute(_INSERT, {"job": job_id, "number": number, "kind": kind, "now": tx.now, "data": json.dumps(data)})
    tx.after_commit(Nudge(channel=job_channel(job_id)))
    return number


_INSERT = text("""
    INSERT INTO events (job_id, number, kind, at, data)
    VALUES (CAST(:job AS uuid), :number, :kind, :now, CAST(:data AS jsonb))
""")


def after(tx: Transaction, job_id: str, by: Caller, number: int, limit: int) -> list[Event]:
    """Up to `limit` events with numbers above `number`. Raises NotFound for jobs of other accounts."""
    column = job_column(job_id)
    owner = tx.execute(text("SELECT account_id FROM jobs WHERE id = CAST(:id AS uuid)"), {"id": column})
    if owner.scalar_one_or_none() != by.account_number:
        raise NotFound("there is no such job")
    wanted = (events.c.job_id == column) & (events.c.number > number)
    rows = tx.execute(select(events).where(wanted).order_by(events.c.number).limit(limit)).all()
    return [Event(number=row.number, kind=row.kind, at=row.at, data=row.data) for row in rows]
