"""Small files that must be whole or absent, whatever happens to the machine."""

import errno
import os
import threading
from pathlib import Path

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_whole(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True, named: bool = True) -> None:
    """Replaces `path` atomically; with `durable` it is on the disk when this returns. Raises OSError.

    Without `named` its name may not be, which is faster: after a power cut the file is whole, or it is what was there
    before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fdatasync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable and named:
        sync_folder(path.parent)


def sync_content(path: Path) -> None:
    """Makes what a file holds durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes names that were added to or removed from a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that there is no room left."""
    return error.errno in DISK_FULL_ERRNOS
