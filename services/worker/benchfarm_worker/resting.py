"""What computes on a host that measures lets it measure, and is asked again; for ever it does not wait."""

import time
from typing import Final

from benchfarm_store import host_leases
from benchfarm_store.database import Database

_since_s: Final[dict[tuple[str, str], float]] = {}
"""Since when each work waits, as `time.monotonic` counts. A process that begins anew waits anew."""


def rests(database: Database, work: str, subject_id: str, boot_id: str, wait_s: float) -> bool:
    """Whether some work is left to a later message, because a board of this host's run `boot_id` measures: for `wait_s`
    at most from when it was first to be done."""
    with database.transaction(read_only=True) as tx:
        is_measuring = host_leases.is_measuring(tx, boot_id)
    now_s, key = time.monotonic(), (work, subject_id)
    if is_measuring and now_s - _since_s.setdefault(key, now_s) < wait_s:
        return True
    _since_s.pop(key, None)
    return False
