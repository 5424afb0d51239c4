"""Folders of one session. What a killed session left goes when the next one makes its own."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "benchfarm-peers-"
MEMORY_DIR = Path("/dev/shm")
SERVERS_BYTES = 4 << 30  # several times what the data of a session's Postgres comes to


def scratch_dir(within: Path | None = None) -> Path:
    """A new private folder, named for this process, within another one or where the system has such. To be removed."""
    within = within or Path(tempfile.gettempdir())
    for left in within.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=within))


def memory_dir() -> Path | None:
    """The folder of this host whose files lie in memory; None where it has none with room for a session's servers."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
        if min(available, shutil.disk_usage(MEMORY_DIR).free) >= SERVERS_BYTES and os.access(MEMORY_DIR, os.W_OK):
            return MEMORY_DIR
    return None
