"""Polling with a limit, where the message can tell what was seen last."""

import time
from collections.abc import Callable

POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: Callable[[], str] | str, limit_s: float) -> float:
    """Returns after how many seconds a condition held. Raises TimeoutError when it does not within the limit."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > limit_s:
            raise TimeoutError(f"not within {limit_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)
    return time.monotonic() - began_s
