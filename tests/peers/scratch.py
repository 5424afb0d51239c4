"""Folders of one session for logs and keys. What a killed session left goes when the next one makes its own."""

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "benchfarm-peers-"


def scratch_dir() -> Path:
    """A new private folder, named for this process. Whoever asks removes it."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
