"""Where the Unix sockets of a farm live: a private directory with a short name.

The path of a Unix socket has at most 107 bytes, a farm's home may be longer. So the sockets lie in
``$XDG_RUNTIME_DIR/benchfarm-<key>``, or ``benchfarm-<uid>-<key>`` in the temporary directory, where ``key`` is a hash
of the home's path: the same home finds the same sockets again. The access control is the sockets' own: each may be
used by its owner alone, and so may Postgres' folder. Root's directory can be passed through, because without user
namespaces Postgres is another user.
"""

import hashlib
import os
from pathlib import Path

from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.settings import runtime_dir, temporary_dirs

LONGEST_SOCKET_PATH_BYTES = 107
LONGEST_SOCKET_NAME = "postgres/.s.PGSQL.5432"


def _candidates() -> list[tuple[Path, str]]:
    """Parent directories in order of preference, each with the prefix that our directory gets there."""
    runtime = runtime_dir()
    own = [(runtime, "benchfarm-")] if runtime else []
    return [*own, *((folder, f"benchfarm-{os.geteuid()}-") for folder in temporary_dirs())]


def socket_dir_path(home: Path) -> Path:
    """The directory that belongs to ``home``; it need not exist yet."""
    key = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    for parent, prefix in _candidates():
        path = parent / f"{prefix}{key}"
        if len(os.fsencode(path / LONGEST_SOCKET_NAME)) <= LONGEST_SOCKET_PATH_BYTES:
            return path
    raise FarmError("no directory with a name short enough for a socket: set TMPDIR to a short path")


def postgres_socket_dir(socket_dir: Path) -> Path:
    """Where Postgres listens below the farm's directory: it may belong to another user."""
    return socket_dir / "postgres"


def private_socket_dir(home: Path) -> Path:
    """Make the directory of ``home``, which nobody else can list or write to, or find it from an earlier run.

    Raises FarmError when somebody else made it first: in a shared temporary directory that may be an attack.
    """
    path, mode = socket_dir_path(home), 0o711 if os.geteuid() == 0 else 0o700
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        status = path.lstat()
        if path.is_symlink() or not path.is_dir() or status.st_uid != os.geteuid() or status.st_mode & 0o777 & ~mode:
            raise FarmError(f"{path} exists and is not a private directory of yours: remove it") from None
    except OSError as error:
        raise FarmError(f"cannot make the socket directory {path}: {error.strerror}") from error
    return path
