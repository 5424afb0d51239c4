"""Which boards wait at their gates, since when and why: what the farm is told of it, and when it is news."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchfarm_agent.boards.interface import Board
from benchfarm_agent.clock import boottime_s
from benchfarm_core.agent_protocol import ToldWait

TELL_AFTER_S: Final = 1.0
"""A shorter wait is told to nobody."""
TELL_EVERY_S: Final = 10.0
"""How often the farm hears how busy a board that waits is now."""
FORGOTTEN_S: Final = 60.0
"""A board that was not looked at for so long does not wait any more: nobody wanted it."""
SHOWN_CHARS: Final = 300


@dataclass
class _Wait:
    began_s: float
    looked_s: float
    reason: str
    told_s: float | None = None


class GateWaits:
    """The boards that wait, by name. A wait goes on from one lease to the next: quiet ends it, or a lease that ends
    otherwise."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self._waits: dict[str, _Wait] = {}

    def looked(self, board: str, why: str | None) -> None:
        """Somebody has looked at a board's gate: `why` it is shut, or None."""
        now_s = boottime_s()
        wait = self._waits.get(board)
        if why is None:
            if wait is not None:
                del self._waits[board]
                if wait.told_s is not None:
                    self._on_news()
            return
        if wait is None or now_s - wait.looked_s > FORGOTTEN_S:
            wait = self._waits[board] = _Wait(now_s, now_s, why)
        wait.looked_s, wait.reason = now_s, why
        is_due = now_s - wait.began_s >= TELL_AFTER_S if wait.told_s is None else now_s - wait.told_s >= TELL_EVERY_S
        if is_due:
            wait.told_s = now_s
            self._on_news()

    def told(self, boards: Mapping[str, Board]) -> dict[str, ToldWait]:
        """What the farm is to know now. boards: by the farm's id."""
        now_s = boottime_s()
        waits = {id_: wait for id_, board in boards.items() if (wait := self._waits.get(board.name)) is not None}
        return {
            id_: ToldWait(waited_s=now_s - wait.began_s, reason=wait.reason[:SHOWN_CHARS])
            for id_, wait in waits.items()
            if wait.told_s is not None and now_s - wait.looked_s <= FORGOTTEN_S
        }
