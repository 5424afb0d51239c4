"""The agent's clock: CLOCK_BOOTTIME, which goes on while the machine sleeps. A lease does not wait for a laptop lid."""

import asyncio
import time
from typing import Final

LOOK_AGAIN_S: Final = 5.0
"""Sleeps of the event loop stop with the machine, so a long wait looks at the real clock this often."""


def boottime_s() -> float:
    """Seconds since the machine started, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def sleep_until(moment_s: float) -> None:
    """Returns once `boottime_s()` has reached `moment_s`."""
    while (left_s := moment_s - boottime_s()) > 0:  # noqa: ASYNC110  (a clock has no event to wait for)
        await asyncio.sleep(min(left_s, LOOK_AGAIN_S))
