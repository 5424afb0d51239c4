"""One log file per child, bounded: the child writes to it directly, the supervisor keeps it short."""

import os
import shutil
from pathlib import Path

LIMIT_BYTES = 10 * 1024 * 1024


def open_log(log_file: Path) -> int:
    """A descriptor for a child to write to. O_APPEND: after a cut the child goes on at the new end."""
    return os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def cut_log(log_file: Path, limit_bytes: int = LIMIT_BYTES) -> bool:
    """Move what stands in the file to ``<name>.1`` when it exceeds the limit; tell whether that was done.

    By copy and truncate, since the child holds the file open: a line written between the two is lost, which is the
    price of children that need to know nothing about logs.
    """
    try:
        if log_file.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    shutil.copyfile(log_file, log_file.with_name(f"{log_file.name}.1"))
    os.truncate(log_file, 0)
    return True
