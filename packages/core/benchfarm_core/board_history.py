"""What happened to a board: events of its history, each with its author and reason."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from benchfarm_core.values import Answer, Value


class BoardEventKind(StrEnum):
    """What changed. Of `online` and `offline` only those of the last months are kept."""

    REGISTERED = "registered"
    ONLINE = "online"
    OFFLINE = "offline"
    AGENT = "agent"
    BOARD_MODEL = "board_model"
    GENERATION = "generation"
    ADDRESS = "address"
    REBOOT = "reboot"
    GOLDEN = "golden"
    RECOVERY = "recovery"
    HEALTH = "health"
    NOTE = "note"


class RecoveryStep(StrEnum):
    """What an agent does for a board that stays away, the mildest first; `put_back` for one that it has changed."""

    RECONNECT = "reconnect"
    RESTART_ADB = "restart_adb"
    REBOOT = "reboot"
    POWER_CYCLE = "power_cycle"
    PUT_BACK = "put_back"


class BoardEventView(Answer):
    """One event of a board's history. `before` and `after` are empty where there is nothing to compare."""

    at: datetime
    kind: BoardEventKind
    before: str
    after: str
    reason: str
    author: str


class BoardEvent(BoardEventView):
    """An event of a board's stream; `id` is what Last-Event-ID refers to."""

    id: str


class NoteRequest(Value):
    """What a person has to say about a board."""

    text: str = Field(min_length=1, max_length=1000)
