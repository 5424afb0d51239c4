"""What this package takes from its environment; DATABASE_URL is an option of ``benchfarm up``."""

import os
import tempfile
from pathlib import Path


def inherited() -> dict[str, str]:
    """A copy of our own environment, for children."""
    return dict(os.environ)


def default_home() -> Path:
    """``$XDG_STATE_HOME/benchfarm``, by default ``~/.local/state/benchfarm``."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "benchfarm"


def runtime_dir() -> Path | None:
    """``$XDG_RUNTIME_DIR``, the user's own folder for sockets, where there is one that can be written to."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) if runtime and os.access(runtime, os.W_OK | os.X_OK) else None


def temporary_dirs() -> tuple[Path, ...]:
    """Shared temporary folders: the chosen one, and the one with the shortest name."""
    return Path(tempfile.gettempdir()), Path("/tmp")  # noqa: S108 - see what private_socket_dir refuses
