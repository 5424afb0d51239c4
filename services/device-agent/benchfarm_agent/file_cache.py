"""Files by the hash of their content, bounded, and notes of what was made of what.

A file is held to its hash before it is used: when it is used first since the agent's start, and again when it was
touched since. What a power cut left of one would fail its workload for good otherwise, as if it were the user's fault.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Final, NamedTuple, TypeVar

from benchfarm_agent.files import is_disk_full, sync_content, write_whole
from benchfarm_core.values import Value, digest

FORMAT: Final = 2
"""Of the notes, and of what they name; another number starts the cache anew."""
FILE_MODE: Final = 0o644
"""A runner may run as another user. The folder cannot be listed by others, and names are hashes."""
IN_PREPARATION_S: Final = 300.0
"""Files used this lately may belong to a batch in preparation and stay even when the disk is full."""

_PIECE_BYTES: Final = 1024**2

logger = logging.getLogger(__name__)

_Note = TypeVar("_Note", bound=Value)


class _State(NamedTuple):
    """What changes whenever a file does; reading it changes nothing."""

    inode: int
    size_bytes: int
    changed_ns: int


class FileCache:
    """The least recently used go first when `limit_bytes` is passed; what is held stays.

    Where the methods write they raise OSError. Files may be used from several threads.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder / "files"
        self._root = folder
        self._notes = folder / f"notes-{FORMAT}"
        self._limit_bytes = limit_bytes
        self._held: list[frozenset[str]] = []
        self._whole: dict[str, _State] = {}  # files that were seen to be whole, as they were then

    def open(self) -> None:
        """Makes the folders; removes what a killed agent and its children left, and notes of another format."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        for part in self.folder.glob(".*"):
            part.unlink(missing_ok=True)
        for left in (*self._root.glob("workloads-*"), *self._root.glob("notes-*")):
            if left != self._notes:
                rmtree(left, ignore_errors=True)
        for child in ("references", "conversions", "strangers"):
            rmtree(self._root / child, ignore_errors=True)
        self._notes.mkdir(mode=0o700, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the file of a hash is, if it is there."""
        return self.folder / sha256

    def has(self, sha256: str) -> bool:
        """Whether a file is there and whole; marks it as used just now. What is damaged is there no more.

        Reads what was not seen to be whole yet, 500 MB in about a second.
        """
        path = self.path(sha256)
        try:
            if self._whole.get(sha256) != _state(path) and not _is_whole(path):
                return False  # what is made or fetched again takes its place
            os.utime(path)
            self._whole[sha256] = _state(path)
        except OSError:
            return False
        return True

    def put(self, content: bytes) -> Path:
        """Keeps bytes under their hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if self.has(sha256):
            return path
        try:
            self._write(path, content)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._evict(0, older_than_s=IN_PREPARATION_S)
            self._write(path, content)
        return path

    def take_in(self, part: Path, sha256: str) -> None:
        """Keeps a file of this folder, whose content was held to this hash, under it."""
        sync_content(part)
        os.replace(part, self.path(sha256))
        self._whole[sha256] = _state(self.path(sha256))

    def _write(self, path: Path, content: bytes) -> None:
        write_whole(path, content, mode=FILE_MODE, named=False)
        self._whole[path.name] = _state(path)

    def note(self, subject: object, note: Value) -> None:
        """Remembers what was made of a subject; any JSON value names one."""
        write_whole(self._notes / digest(subject), note.model_dump_json().encode(), durable=False)

    def noted(self, subject: object, kind: type[_Note]) -> _Note | None:
        """What was noted; an unreadable note counts as none."""
        try:
            return kind.model_validate_json((self._notes / digest(subject)).read_bytes())
        except (OSError, ValueError):
            return None

    @contextmanager
    def held(self, names: frozenset[str]) -> Iterator[None]:
        """Keeps files, by their hashes, from eviction; others go now where there are too many."""
        self._held.append(names)
        try:
            self._evict(self._limit_bytes)
            yield
        finally:
            self._held.remove(names)

    def hold_for_good(self, names: frozenset[str]) -> None:
        """Keeps files for as long as this cache lives."""
        if names not in self._held:
            self._held.append(names)

    def _evict(self, limit_bytes: int, *, older_than_s: float = 0.0) -> None:
        """Removes the least recently used files above a limit. What a note names and is gone is made anew."""
        kept = frozenset().union(*self._held)
        found = [(path, path.stat()) for path in self.folder.iterdir() if not path.name.startswith(".")]
        excess_bytes = sum(stat.st_size for _, stat in found) - limit_bytes
        newest_s = time.time() - older_than_s
        for path, stat in sorted(found, key=lambda pair: pair[1].st_mtime_ns):
            if excess_bytes <= 0 or stat.st_mtime > newest_s:
                return
            if path.name not in kept:
                path.unlink(missing_ok=True)
                excess_bytes -= stat.st_size


def _state(path: Path) -> _State:
    stat = path.stat()
    return _State(stat.st_ino, stat.st_size, stat.st_ctime_ns)


def _is_whole(path: Path) -> bool:
    """Whether a file is what its name says. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    if found.hexdigest() == path.name:
        return True
    logger.warning("a file of the cache is damaged and is made anew", extra={"file": path.name})
    return False
