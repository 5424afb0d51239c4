"""A job's events: numbered per job, in order, without gaps."""

from datetime import datetime
from enum import StrEnum

from benchfarm_core.values import Answer


class EventKind(StrEnum):
    """What happened."""

    STATE = "state"
    PROGRESS = "progress"
    ITEM_FAILED = "item_failed"


class Event(Answer):
    """One event; `number` is what Last-Event-ID refers to."""

    number: int
    kind: EventKind
    at: datetime
    data: dict[str, object]
