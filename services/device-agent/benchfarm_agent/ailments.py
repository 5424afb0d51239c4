"""Boards that answer and cannot measure: how often that was seen in a row, and which of them rest for it.

Resting begins between two leases, so that nobody loses one by it, and only where something will then be done.
"""

from collections.abc import Callable
from typing import Final

AILING_AFTER: Final = 3
"""Leases in a row in which a board could not measure."""
DRIFTED: Final = "its golden suite drifted"


class Ailments:
    """Of the boards of one agent, by the names of their ways.

    may_recover: whether something would be done for a board now if it rested; it is asked again each time.
    """

    def __init__(self) -> None:
        self.may_recover: Callable[[str], bool] = lambda _: False
        self._in_a_row: dict[str, int] = {}
        self._doubted: dict[str, str] = {}

    def note_lease(self, label: str, why: str | None) -> None:
        """A lease has ended: why the board could not measure in it; empty where it could, None where nobody knows."""
        if why == "":
            self._measured(label)
        if not why:
            return
        self._in_a_row[label] = self._in_a_row.get(label, 0) + 1
        if self._in_a_row[label] >= AILING_AFTER:
            self.doubt(label, f"{why}, in {self._in_a_row[label]} leases in a row")

    def doubt(self, label: str, why: str) -> None:
        """It takes no lease any more, if something would be done for it."""
        if label not in self._doubted and self.may_recover(label):
            self._doubted[label] = why

    def why(self, label: str) -> str | None:
        """Why a board takes no lease; None where it does."""
        return self._doubted.get(label)

    def _measured(self, label: str) -> None:
        """It can measure after all; that it drifted says no lease."""
        self._in_a_row.pop(label, None)
        if self._doubted.get(label) != DRIFTED:
            self._doubted.pop(label, None)

    def come_back(self, label: str) -> None:
        """It was away, and may have started anew: whether it is doubted is seen again."""
        self._doubted.pop(label, None)

    def forget(self, label: str) -> None:
        """It begins anew."""
        self._in_a_row.pop(label, None)
        self._doubted.pop(label, None)
