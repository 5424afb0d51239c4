"""Which members of the pool are to be compared anew: looked for once a minute, compared by whoever trains."""

from typing import Final

from benchfarm_store import likenesses
from benchfarm_store.database import Database

EVERY_S: Final = 60.0
"""Looking reads every platform's probes."""


class Likening:
    """Asks for comparisons; times are seconds as `time.time` counts them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next_look_s = 0.0

    def step(self, now_s: float) -> int:
        """Ask for what is due, where a look is; how many members that are."""
        if now_s < self._next_look_s:
            return 0
        self._next_look_s = now_s + EVERY_S
        with self._database.transaction() as tx:
            return likenesses.wake(tx)
