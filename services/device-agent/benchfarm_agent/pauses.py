"""Pauses between tries: longer each time, of random length, so that a lab's agents do not come back all at once."""

import random
from typing import Final

FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0


class Pauses:
    """The pauses of one caller, in seconds. `next_s` grows from about 0.1 s to about 5 s until `reset`."""

    def __init__(self) -> None:
        self._bound_s = FIRST_S

    @property
    def is_fresh(self) -> bool:
        """Whether there was no pause since the beginning or the last `reset`."""
        return self._bound_s == FIRST_S

    def next_s(self) -> float:
        """How long to wait before the next try."""
        bound_s = self._bound_s
        self._bound_s = min(bound_s * 2, LONGEST_S)
        return random.uniform(bound_s / 2, bound_s)

    def reset(self) -> None:
        """A try went well."""
        self._bound_s = FIRST_S
