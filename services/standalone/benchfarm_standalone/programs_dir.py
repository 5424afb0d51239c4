"""Where the copy of Postgres' programs lies while a farm runs that needs one: see ``postgres.reachable_binaries``.

It is a sibling of the sockets' directory, since uid 65534 has to reach it, and so it may lie in a shared temporary
directory under a name that everybody can work out. Who could write there would choose what the farm runs.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.socket_dir import socket_dir_path

MODE = 0o711
"""Others may pass through, not list."""


def programs_dir_path(home: Path) -> Path:
    """The directory that belongs to ``home``; it need not exist."""
    sockets = socket_dir_path(home)
    return sockets.with_name(f"{sockets.name}-programs")


def own_programs_dir(path: Path) -> Path:
    """Make the directory, or find it from an earlier run; writable for us alone.

    Raises FarmError when somebody else made it first or could write to it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=MODE)
    except OSError as error:
        raise FarmError(f"cannot make the directory for Postgres' programs, {path}: {error.strerror}") from error
    if not _ours_alone(path):
        raise FarmError(
            f"{path} exists and is not a directory that you own and only you can write to: remove it, then start again"
        )
    path.chmod(MODE)  # mkdir's mode is cut by the umask
    return path


def remove_programs_dir(home: Path) -> None:
    """Remove the home's copy, if there is one. Only when its Postgres has stopped; what is not ours stays."""
    path = programs_dir_path(home)
    if _ours_alone(path):
        shutil.rmtree(path, ignore_errors=True)


def _ours_alone(path: Path) -> bool:
    """Whether it is a directory, no link to one, that we own and nobody else can write to."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
