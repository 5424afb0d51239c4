"""When a request is sent again, and after which pause."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

BUSY_STATUSES: Final = frozenset({429, 502, 503, 504})
"""Answers that say "not now": nothing was done, so that every request may be repeated after them.

502 and 504 come from a proxy that may have passed the request on; `may_repeat` treats them as a lost answer.
"""

_PROXY_STATUSES: Final = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """At most `attempts` sendings whose pauses add up to at most `budget_s`; doubling pauses with jitter.

    The defaults last out a restart of the farm's API: about 20 s of pauses.
    `sleep` and `chance` are arguments so that tests need not wait.
    """

    attempts: int = 8
    budget_s: float = 30.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 8.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    chance: Callable[[], float] = field(default=random.random, repr=False)

    def pause_s(self, attempt: int, spent_s: float, retry_after_s: float | None) -> float | None:
        """The pause after the failed sending number `attempt` (from 1); None when it was the last one.

        The farm's Retry-After is obeyed to the letter: when it does not fit into what is left of the budget, asking
        again earlier would be wrong and waiting longer was not agreed to.
        """
        if attempt >= self.attempts:
            return None
        backoff_s = min(self.longest_pause_s, self.first_pause_s * 2 ** (attempt - 1)) * (0.5 + self.chance() / 2)
        pause_s = backoff_s if retry_after_s is None else retry_after_s
        return pause_s if spent_s + pause_s <= self.budget_s else None


def may_repeat(status: int, *, repeatable: bool) -> bool:
    """Whether an answer with this status allows sending the same request again.

    `repeatable`: sending it twice has the effect of sending it once.
    """
    return status in BUSY_STATUSES and (repeatable or status not in _PROXY_STATUSES)
