"""A farm's home: what lies where in it, and the locks that keep two farms out of one home."""

import errno
import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from benchfarm_standalone.errors import FarmError

LEAST_FREE_BYTES = 300 * 1024 * 1024
LEFTOVERS_END_WITHIN_S = 30
POLL_S = 0.05


@dataclass(frozen=True)
class Home:
    """The folder with everything that a farm on this machine keeps."""

    path: Path

    @property
    def postgres_dir(self) -> Path:
        return self.path / "postgres"

    @property
    def valkey_dir(self) -> Path:
        return self.path / "valkey"

    @property
    def data_dir(self) -> Path:
        return self.path / "data"

    @property
    def log_dir(self) -> Path:
        return self.path / "log"

    @property
    def agent_dir(self) -> Path:
        return self.path / "agent"

    @property
    def admin_token_file(self) -> Path:
        return self.path / "admin.token"

    @property
    def enrol_token_file(self) -> Path:
        return self.agent_dir / "enrol.token"

    @property
    def starter_pool_file(self) -> Path:
        """What became of the starter pool, as JSON."""
        return self.path / "starter-pool.json"

    @property
    def state_file(self) -> Path:
        """What runs now, as JSON: see ``Farm``."""
        return self.path / "farm.json"

    def ready_file(self, name: str) -> Path:
        """What the named service writes when it is ready."""
        return self.path / f"{name}.ready"

    def make(self) -> None:
        """Make the folders, for the owner's eyes only. Raises FarmError when the place cannot hold a farm.

        Root's may be passed through, not listed: its agent runs strangers' models as another user, who has to reach
        the files meant for it below the agent's folder.
        """
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.path.mkdir(parents=True, mode=mode, exist_ok=True)
            self.path.chmod(self.path.stat().st_mode & 0o777 | mode)
            self.agent_dir.mkdir(mode=mode, exist_ok=True)
            for folder in (self.data_dir, self.log_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
            free_bytes = shutil.disk_usage(self.path).free
        except OSError as error:
            raise no_home(self.path, error) from error
        if free_bytes < LEAST_FREE_BYTES:
            raise FarmError(
                f"only {free_bytes // 2**20} MiB are free at {self.path} and a farm needs "
                f"{LEAST_FREE_BYTES // 2**20}: make room, or choose another --home"
            )


def no_home(path: Path, error: OSError) -> FarmError:
    """The error for a home that the file system refuses."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FarmError(f"the disk is full at {path}: make room, or choose another --home")
    return FarmError(f"cannot use {path} as the farm's home ({error.strerror}): choose another with --home")


class HomeLock:
    """The right to run a farm in a home. Two locks, since two questions are asked.

    ``farm.lock`` is held by the supervisor alone: held means that a farm runs here. ``children.lock`` is inherited by
    every child: held though ``farm.lock`` is free means that children of a killed supervisor are still on their way
    out, and must be waited for, since two Valkeys on one file would ruin it. The kernel frees both with the processes.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._own: int | None = None
        self.inherited: int | None = None

    def take(self) -> None:
        """Take both locks. Raises FarmError when another farm runs here, or its children do not end."""
        own = self._open("farm.lock")
        if not _try_lock(own):
            os.close(own)
            raise FarmError(
                f"a farm already runs in {self._home.path}{self._where()}: stop it, or choose another --home"
            )
        self._own = own
        self.inherited = self._open("children.lock")
        give_up_at_s = time.monotonic() + LEFTOVERS_END_WITHIN_S
        while not _try_lock(self.inherited):
            if time.monotonic() > give_up_at_s:
                self.release()
                raise FarmError(f"processes of an earlier farm in {self._home.path} do not end: end them first")
            time.sleep(POLL_S)

    def release(self) -> None:
        """Give both back. Safe to call again."""
        for descriptor in (self.inherited, self._own):
            if descriptor is not None:
                os.close(descriptor)
        self.inherited = self._own = None

    def _open(self, name: str) -> int:
        try:
            return os.open(self._home.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise no_home(self._home.path, error) from error

    def _where(self) -> str:
        """Where the farm that holds the lock answers; nothing while it has not said so."""
        try:
            state = json.loads(self._home.state_file.read_text())
            return f" at {state['url']}, process {state['pid']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
