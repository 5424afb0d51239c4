"""Files that the command writes for a person: what stands in their way is told in one sentence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import O_CREAT, O_EXCL, O_WRONLY, fdopen, fsync
from os import open as open_descriptor
from pathlib import Path
from secrets import token_hex
from typing import IO, Final, TypeVar

from benchfarm_core.accounts import CreatedToken, EnrolToken
from benchfarm_core.errors import InvalidRequest

Secret = TypeVar("Secret", CreatedToken, EnrolToken)

ROOM: Final = " " * 256 + "\n"
"""Longer than any token: a full disk is noticed before the farm makes one."""


@contextmanager
def writing(path: Path, *, field: str | None = None) -> Iterator[None]:
    """What the system refuses becomes an InvalidRequest that names the file and, as `field`, the option."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}", field=field) from error


def write_whole(path: Path, data: bytes, *, field: str) -> None:
    """All of a file or nothing: what was there stays until the new one is on the disk, also where that is full.

    What is no file of its own (`/dev/stdout`, a link) is written as it stands. Raises InvalidRequest.
    """
    with writing(path, field=field):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(data)
            return
        part = path.with_name(f".{path.name}.{token_hex(4)}")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def check_file(path: Path | None, *, field: str) -> None:
    """Before work that takes minutes: after it is too late to hear that the file cannot be there. Raises
    InvalidRequest."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise InvalidRequest(f"cannot write {path}: it must be a file in a folder that exists", field=field)


def kept_secret(output: Path | None, make: Callable[[], Secret]) -> Secret:
    """What `make` asks of the farm; with an `output` its token stands in that new file, and the file's name here.

    The file is there before the farm is asked, and gone when that fails: no token is made that nobody can read.
    """
    if output is None:
        return make()
    with writing(output, field="output"), _new_secret_file(output) as file:
        made = make()
        file.seek(0)
        file.write(f"{made.token}\n")
        file.truncate()
    return made.model_copy(update={"token": str(output)})


@contextmanager
def _new_secret_file(path: Path) -> Iterator[IO[str]]:
    """A file that was not there, readable by its owner alone from its first moment."""
    descriptor = open_descriptor(path, O_WRONLY | O_CREAT | O_EXCL, 0o600)
    try:
        with fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(ROOM)
            file.flush()
            yield file
    except BaseException:  # boundary: whatever ended the command, no empty file is left in the way of the next try
        path.unlink(missing_ok=True)
        raise
