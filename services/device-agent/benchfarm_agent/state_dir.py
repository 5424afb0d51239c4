"""The agent's folder: who it is, what it still owes the farm, what it changed on boards, and its cache."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from benchfarm_core.errors import Conflict, InvalidRequest


@dataclass(frozen=True)
class StateDir:
    """Paths below one state folder.

    The folder itself can be passed but not listed by others, because a runner may run as another user and has
    to reach `cache` and `scratch`; everything else in it is the agent's alone.
    """

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def hardware_id(self) -> Path:
        return self.root / "hardware-id"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def engines(self) -> Path:
        """Environments of engines, see `engine_environments`."""
        return self.root / "engines"

    @property
    def runners(self) -> Path:
        """Runners for boards that the agent does not run on."""
        return self.root / "runners"

    @property
    def adb(self) -> Path:
        """The home of the agent's own adb server, with its keys."""
        return self.root / "adb"

    @property
    def standings(self) -> Path:
        """What a running agent sees of its boards, for `benchfarm agent boards`."""
        return self.root / "boards.json"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"


def open_state_dir(root: Path) -> tuple[StateDir, int]:
    """Makes the folders and takes the lock; the descriptor holds it until the process ends.

    Raises Conflict when another agent lives in the same folder, InvalidRequest when the place cannot hold an agent's.
    """
    try:
        state = _make(root)
        return state, _lock(state.root / "lock")
    except OSError as error:
        detail = f"cannot use {root} as the agent's folder ({error.strerror}): choose another with --state-dir"
        raise InvalidRequest(detail, field="state_dir") from error


def is_in_use(root: Path) -> bool:
    """Whether an agent runs in this folder."""
    try:
        os.close(_lock(root / "lock"))
    except Conflict:
        return True
    except OSError:
        return False
    return False


def _make(root: Path) -> StateDir:
    state = StateDir(root.resolve())
    for folder, mode in ((state.root, 0o711), (state.cache, 0o711), (state.scratch, 0o711)):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    for folder in (state.spool, state.journal):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    return state


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"another agent runs in {path.parent}: stop it or give this one another --state-dir") from error
    return descriptor
