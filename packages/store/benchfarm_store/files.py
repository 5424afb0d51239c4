"""Stored files: content-addressed, written whole or not at all, readable by the owner only."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from benchfarm_core.errors import NotFound, TooLarge, Unavailable

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_AWAY: Final = (errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV)
"""What a disk says that is not mounted, or not as it was."""


class ReceivedFile(NamedTuple):
    """A file that came in and is not kept yet."""

    path: Path
    sha256: str
    size_bytes: int


class Files:
    """Files under one folder: `incoming/` while they stream, `ab/abcd...` by SHA-256 once kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    def receive(self, chunks: Iterable[bytes], limit_bytes: int) -> ReceivedFile:
        """Stream to a temporary file, counting. Raises TooLarge, Unavailable (`disk_full` where that is why); keeps
        nothing then."""
        path = self._incoming / secrets.token_hex(16)
        try:
            with room():
                return self._write(path, chunks, limit_bytes)
        except BaseException:  # boundary: whatever ended the stream, its half of a file goes with it
            _remove(path)
            raise

    def _write(self, path: Path, chunks: Iterable[bytes], limit_bytes: int) -> ReceivedFile:
        digest = hashlib.sha256()
        size_bytes = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > limit_bytes:
                    raise TooLarge(f"the file is larger than {limit_bytes} bytes")
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return ReceivedFile(path, digest.hexdigest(), size_bytes)

    def keep(self, received: ReceivedFile) -> Path:
        """Make a received file permanent under its SHA-256; the same content twice is one file."""
        target = self._place(received.sha256)
        with room():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            with _held(target.parent) as folder:
                os.utime(received.path)  # its age counts from here, see `remove_aged`
                received.path.replace(target)
                os.fsync(folder)
        return target

    def path(self, sha256: str) -> Path:
        """Where a kept file lies. Raises NotFound."""
        target = self._place(sha256)
        if not target.is_file():
            raise NotFound("there is no such file")
        return target

    def discard(self, received: ReceivedFile) -> None:
        """Forget a received file; after `keep`, or twice, this changes nothing."""
        _remove(received.path)

    def aged(self, first_byte: int, older_than_s: float, now_s: float) -> list[str]:
        """Kept files in one of the 256 folders that were last adopted so long ago; times as `time.time` counts."""
        folder = self.root / f"{first_byte:02x}"
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return [name for name in names if _is_hash(name) and _is_older(folder / name, older_than_s, now_s)]

    def remove_aged(self, sha256: str, older_than_s: float, now_s: float) -> bool:
        """Delete a kept file that nobody needs, unless it was adopted again since it was looked at."""
        target = self._place(sha256)
        if not target.parent.is_dir():
            return False
        with _held(target.parent):
            if not _is_older(target, older_than_s, now_s):
                return False
            target.unlink()
        return True

    def sweep_incoming(self, older_than_s: float, now_s: float) -> int:
        """Remove temporary files and folders of that age, left by a dead process; times as `time.time` counts."""
        stale = [path for path in self._incoming.iterdir() if _is_older(path, older_than_s, now_s)]
        for path in stale:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(stale)

    def _place(self, sha256: str) -> Path:
        if not _is_hash(sha256):
            raise NotFound("that is no SHA-256")
        return self.root / sha256[:2] / sha256


def _is_hash(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def _is_older(path: Path, age_s: float, now_s: float) -> bool:
    """A path that is gone meanwhile has no age."""
    try:
        return now_s - path.lstat().st_mtime > age_s
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    """A disk that went away says so again here, which would hide why; what stays on it is swept."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def room() -> Iterator[None]:
    """Says of the farm's disk what it says: Unavailable, `disk_full` where it is full."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable("the farm has no room for this file; nothing was kept", code="disk_full") from error
        if error.errno in _AWAY:
            why = error.strerror or "its disk is away"
            raise Unavailable(f"the farm's folder of files cannot be used now ({why}); nothing was kept") from error
        raise


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    """A folder for one process at a time, as a descriptor: adopting and deleting never meet."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
