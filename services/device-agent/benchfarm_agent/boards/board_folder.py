"""The agent's folder on a board: files by hash, the runner, the lock of a lease, one scratch folder per launch.

lock              who measures here: the agent, its lease, since when on the board's clock
running           held by a runner for as long as it lives: no two run at once, whoever started them
files/<sha256>    what launches open, put there once
runner/           what measures
tools/            an operator's own program that measures
launch-*/         scratch of launches, gone with them
"""

import errno
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from benchfarm_agent.ports.board_scripts import SWEEPING
from benchfarm_agent.ports.interface import Port, PortTransferFailed, Ran
from benchfarm_core.errors import TransientDeviceError

RUN_S: Final = 10.0
PUSH_BYTES_PER_S: Final = 200_000
"""The slowest line that a board is worth having on."""
HASHED_BYTES_PER_S: Final = 5_000_000
"""By the slowest board that is worth having."""
HASHED_AT_ONCE: Final = 400
"""Names that fit into one command."""
FILES_BYTES_MAX: Final = 512 * 1024**2
LOCK_STALE_S: Final = 900
"""A lock that was not renewed for so long belongs to an agent that is gone; each launch renews it."""
_HELD: Final = 9
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FULL: Final = ("No space left", "Disk quota exceeded", "ENOSPC")

_SWEEP: Final = f"""{SWEEPING}
mkdir -p "$1/files" "$1/runner" && chmod "$2" "$1" "$1/files" "$1/runner" || exit 1
rm -rf "$1/launch-$3"-* "$1/lock.$3"
if [ -f "$1/lock" ]; then
    read -r owner rest <"$1/lock"
    [ "$owner" = "$3" ] && rm -f "$1/lock"
fi
ls "$1/files"
"""
_TAKE: Final = """
mkdir -p "$1" || exit 1
now=$(date +%s)
if [ -f "$1/lock" ]; then
    read -r owner lease since <"$1/lock"
    case "$since" in "" | *[!0-9]*) since=0 ;; esac
    age=$((now - since))
    if [ "$owner" != "$2" ] && [ "$age" -ge 0 ] && [ "$age" -lt "$4" ]; then
        echo "$owner $lease"
        exit 9
    fi
fi
echo "$2 $3 $now" >"$1/lock.$2" && mv -f "$1/lock.$2" "$1/lock"
"""
_SCRATCH: Final = 'mkdir -p "$1" && chmod "$2" "$1"'
_REMOVE: Final = 'rm -rf "$@"'
_HASHES: Final = 'cd "$1" && shift && sha256sum "$@"'


class BoardFolder:
    """The folder `root` of the board behind a port. `owner`: names the agent in locks; `is_shared`: runners there are
    another user than the one who logs in."""

    def __init__(self, port: Port, root: str, *, owner: str, is_shared: bool) -> None:
        self.root = root
        self._port = port
        self._owner = owner
        self._is_shared = is_shared
        self._files: dict[str, int] = {}  # what is there, least recently used first; sizes in bytes
        self._whole: set[str] = set()  # of these what was put there or read since the agent and the board started

    @property
    def runner(self) -> str:
        return f"{self.root}/runner"

    @property
    def tools(self) -> str:
        return f"{self.root}/tools"

    @property
    def running(self) -> str:
        """What a runner holds while it lives."""
        return f"{self.root}/running"

    @property
    def lease(self) -> str:
        """Who measures here, by which lease."""
        return f"{self.root}/lock"

    async def sweep(self) -> None:
        """Makes the folder, removes what launches left and the agent's own lock. Raises TransientDeviceError.

        What calls left behind before the board's last start goes too: it lost its power in the middle of them.
        """
        said = await self._run(_SWEEP, self.root, "711" if self._is_shared else "700", self._owner)
        there = [name for name in said.split() if _SHA256.fullmatch(name)]
        self._files = {name: self._files.get(name, 0) for name in there}

    async def take(self, lease_token: str) -> None:
        """Writes the lock of a lease, or renews it. Raises TransientDeviceError when another agent measures here."""
        ran = await self._ran(_TAKE, self.root, self._owner, lease_token, str(LOCK_STALE_S))
        if ran.returncode == _HELD:
            holder = ran.stdout.decode(errors="replace").split()
            detail = f"another agent ({holder[0] if holder else 'unknown'}) measures on this board: stop one of them"
            raise TransientDeviceError(detail)
        if ran.returncode != 0:
            raise _broken(ran.stderr)

    async def put(self, paths: Iterable[Path]) -> dict[str, str]:
        """Puts files on the board that are not there yet; where each of them is. Raises TransientDeviceError, OSError.

        OSError is ENOSPC where the board's storage is full, also after what it does not need now was removed.
        """
        wanted = {str(path): _sha256(path) for path in paths}
        sizes = {sha256: _size_bytes(path) for path, sha256 in wanted.items()}
        await self._evict(FILES_BYTES_MAX - sum(sizes.values()), besides=set(sizes))
        await self._forget_damaged(sizes)
        for path, sha256 in wanted.items():
            if sha256 in self._files:
                self._files[sha256] = self._files.pop(sha256)
            else:
                await self._push(Path(path), sha256, besides=set(sizes))
            self._files[sha256] = sizes[sha256]
            self._whole.add(sha256)
        return {path: self._file(sha256) for path, sha256 in wanted.items()}

    async def push(self, local: Path, remote: str, *, mode: int = 0o644) -> None:
        """One file. Raises TransientDeviceError, OSError (ENOSPC)."""
        limit_s = RUN_S + _size_bytes(local) / PUSH_BYTES_PER_S
        try:
            await self._port.push(local, remote, mode=mode, timeout_s=limit_s)
        except PortTransferFailed as error:
            if _is_full(error.detail):
                raise OSError(errno.ENOSPC, "the board's storage is full") from error
            raise

    async def make_scratch(self) -> str:
        """A new folder for one launch. Raises TransientDeviceError."""
        path = f"{self.root}/launch-{self._owner}-{secrets.token_hex(8)}"
        await self._run(_SCRATCH, path, "777" if self._is_shared else "700")
        return path

    async def remove(self, *paths: str) -> None:
        """Removes files and folders. Raises TransientDeviceError."""
        await self._run(_REMOVE, *paths)

    def _file(self, sha256: str) -> str:
        return f"{self.root}/files/{sha256}"

    async def _forget_damaged(self, sizes: dict[str, int]) -> None:
        """A board that lost its power may have kept a name and half of what it stood for: that is put there anew."""
        unread = [sha256 for sha256 in sizes if sha256 in self._files and sha256 not in self._whole]
        for begin in range(0, len(unread), HASHED_AT_ONCE):
            some = unread[begin : begin + HASHED_AT_ONCE]
            argv = ["sh", "-c", _HASHES, "sh", f"{self.root}/files", *some]
            limit_s = RUN_S + sum(sizes[sha256] for sha256 in some) / HASHED_BYTES_PER_S
            said = (await self._port.run(argv, timeout_s=limit_s)).stdout.decode(errors="replace")
            self._whole.update(line[:64] for line in said.splitlines() if line[:64] == line[64:].lstrip(" *"))
        for sha256 in unread:
            if sha256 not in self._whole:
                del self._files[sha256]

    async def _push(self, path: Path, sha256: str, *, besides: set[str]) -> None:
        try:
            await self.push(path, self._file(sha256))
        except OSError as error:
            if error.errno != errno.ENOSPC or not set(self._files) - besides:
                raise
            await self._evict(0, besides=besides)
            await self.push(path, self._file(sha256))

    async def _evict(self, room_bytes: int, *, besides: set[str]) -> None:
        """Removes what was used longest ago until the rest fits into some room."""
        excess_bytes = sum(size for name, size in self._files.items() if name not in besides) - room_bytes
        gone = []
        for name in [name for name in self._files if name not in besides]:
            if excess_bytes <= 0:
                break
            excess_bytes -= self._files.pop(name)
            gone.append(self._file(name))
        if gone:
            await self.remove(*gone)

    async def _run(self, script: str, *parameters: str) -> str:
        ran = await self._ran(script, *parameters)
        if ran.returncode != 0:
            raise _broken(ran.stderr)
        return ran.stdout.decode(errors="replace")

    async def _ran(self, script: str, *parameters: str) -> Ran:
        """A script, once more without any files when there was no room for what it writes."""
        argv = ["sh", "-c", script, "sh", *parameters]
        ran = await self._port.run(argv, timeout_s=RUN_S)
        if ran.returncode != 0 and self._files and _is_full(ran.stderr.decode(errors="replace")):
            await self._evict(0, besides=set())
            ran = await self._port.run(argv, timeout_s=RUN_S)
        return ran


def _broken(stderr: bytes) -> TransientDeviceError:
    words = " ".join(stderr.decode(errors="replace").split())[:200]
    return TransientDeviceError(f"the board's folder cannot be used: {words or 'no reason given'}")


def _is_full(words: str) -> bool:
    return any(full in words for full in _FULL)


def _size_bytes(path: Path | str) -> int:
    return Path(path).stat().st_size


def _sha256(path: Path) -> str:
    """Files of the cache are named by their content."""
    if _SHA256.fullmatch(path.name):
        return path.name
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewritten(document: object, places: dict[str, str]) -> object:
    """A request whose paths of this machine are those of the board."""
    if isinstance(document, str):
        return places.get(document, document)
    if isinstance(document, dict):
        return {name: rewritten(value, places) for name, value in document.items()}
    if isinstance(document, Sequence):
        return [rewritten(value, places) for value in document]
    return document
