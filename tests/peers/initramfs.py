"""A Linux initramfs: the `newc` archive that the kernel unpacks into its first file system."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

TRAILER = "TRAILER!!!"
ALIGN_BYTES = 4


def archive_of(folder: Path) -> bytes:
    """All of a folder, owned by root."""
    paths = sorted(path for path in folder.rglob("*"))
    return _archive(_entry_of(path, folder) for path in paths)


def archive_of_texts(texts: Mapping[str, str], mode: int = 0o600) -> bytes:
    """Text files with the folders that they need, which only root may enter but for the first level."""
    folders = sorted({str(parent) for path in texts for parent in Path(path).parents} - {"."})
    made = [(name, stat.S_IFDIR | (0o755 if "/" not in name and name != "root" else 0o700), b"") for name in folders]
    return _archive([*made, *((path, stat.S_IFREG | mode, text.encode()) for path, text in texts.items())])


def _entry_of(path: Path, folder: Path) -> tuple[str, int, bytes]:
    status = path.lstat()
    content = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.fsencode(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    return path.relative_to(folder).as_posix(), status.st_mode, content


def _archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Entries are name, mode with the kind of file, content."""
    parts = [_member(number, *entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _member(0, TRAILER, 0, b"")])


def _member(number: int, name: str, mode: int, content: bytes) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (2), kind of device (2), length of the name, checksum
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(f"{field:08x}".encode() for field in fields)
    return _padded(header + name.encode() + b"\0") + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGN_BYTES)
