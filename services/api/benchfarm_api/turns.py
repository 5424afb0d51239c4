"""Whose turn it is: answers of one size are made one after the other.

Threads that compute at once hand one interpreter lock to each other all the time: of a core, eight searches at once had
two thirds of what one has (`python -m bench.asking_together`). A question of thousands of answers may take a second;
small ones do not wait for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

SMALL_ANSWERS: Final = 1_000
"""About 20 ms of a core: who asks one architecture waits for no more than that of each one before him."""


class Turns:
    """Small and large questions, one of each at a time."""

    def __init__(self) -> None:
        self._small, self._large = Lock(), Lock()

    @contextmanager
    def turn(self, answers: int) -> Iterator[None]:
        """Waits until a question of so many answers may be worked on, and holds the turn for the block."""
        with self._small if answers <= SMALL_ANSWERS else self._large:
            yield
