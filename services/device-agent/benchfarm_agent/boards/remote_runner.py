"""What measures on a board that the agent does not run on: the native runner, or the Python one in a folder of its own.

A kit is put on a board once, by its hash; the hash is looked at again at each lease.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from benchfarm_agent.boards.board_folder import RUN_S, BoardFolder
from benchfarm_agent.ports.interface import Port
from benchfarm_core.confine import CONFINED_ID
from benchfarm_core.errors import TransientDeviceError
from benchfarm_engines.launch import launch_environment
from benchfarm_engines.native_build import TIMING

UNPACK_S: Final = 120.0
HASH_S: Final = 60.0
PYTHON_FOLDER: Final = "python-"
"""So begins the name of the folder that a Python runner has on its board, once it was unpacked whole; then come
sixteen digits."""
_SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/system/bin"
_HASH_OF: Final = 'if [ -f "$1" ]; then sha256sum "$1"; else echo absent; fi'
_WHOLE: Final = """
cd "$1" 2>/dev/null || { echo absent; exit 0; }
sha256sum CHECK
sha256sum -c CHECK >/dev/null 2>&1 && echo whole
true
"""
_UNPACK: Final = """
rm -rf "$3".part && mkdir "$3".part && "$1" -I -m tarfile -e "$2" "$3".part || exit 1
rm -rf "$3" && mv "$3".part "$3" && rm -f "$2"
"""
_LEAVE_ONLY: Final = """
for path in "$1"/*; do case "$path" in "$2") ;; *) rm -rf "$path" ;; esac; done
"""


@dataclass(frozen=True)
class Confinement:
    """What a runner may use on its board: as whom it runs, memory in bytes, time in s, and its files there."""

    memory_bytes: int
    cpu_s: int
    is_root: bool
    readable: Sequence[str]
    writable: Sequence[str]
    strict: bool


class RunnerKit(Protocol):
    """One runner for one kind of board."""

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that it may have; what they are there is asked on the board."""

    @property
    def timing(self) -> str:
        """What its times are comparable with: part of the board's generation, empty where nothing but it counts."""

    async def ensure(self, port: Port, folder: BoardFolder) -> None:
        """The runner on the board is the one that was made for it, byte by byte, and nothing else lies beside it.

        Raises TransientDeviceError when that cannot be brought about, OSError (ENOSPC) where there is no room.
        """

    def argv(self, folder: BoardFolder) -> list[str]:
        """The runner's command on the board."""

    def launch_argv(self, folder: BoardFolder, limit_s: float) -> list[str]:
        """The same for one launch, which ends on the board after `limit_s` whatever becomes of the agent."""

    def limits(self, confinement: Confinement) -> dict[str, Any]:
        """The cage of one launch, as the launch request has it."""


class NativeKit:
    """One static binary: ncnn alone, for boards without Python."""

    engines = ("ncnn",)
    timing = f"native {TIMING}"

    def __init__(self, binary: Path, sha256: str) -> None:
        self._binary = binary
        self._sha256 = sha256

    async def ensure(self, port: Port, folder: BoardFolder) -> None:
        await ensure_binary(port, folder, self._binary, self._path(folder), self._sha256)

    def argv(self, folder: BoardFolder) -> list[str]:
        return [self._path(folder)]

    def launch_argv(self, folder: BoardFolder, limit_s: float) -> list[str]:
        return [*self.argv(folder), "--lock", folder.running, "--limit-s", str(math.ceil(limit_s))]

    def limits(self, confinement: Confinement) -> dict[str, Any]:
        return _limits(confinement)

    def _path(self, folder: BoardFolder) -> str:
        return f"{folder.runner}/native-{self._sha256[:16]}"


class PythonKit:
    """The Python runner with numpy and engines in a folder of its own; only the interpreter is the board's."""

    timing = ""

    def __init__(self, archive: Path, check_sha256: str, *, python: str, engines: tuple[str, ...]) -> None:
        """archive: of `python_kit`; check_sha256: of its list of files; python: the interpreter on the board."""
        self.engines = engines
        self._archive = archive
        self._check_sha256 = check_sha256
        self._python = python

    async def ensure(self, port: Port, folder: BoardFolder) -> None:
        path = self._path(folder)
        if await self._is_whole(port, path):
            return
        packed = f"{folder.runner}/kit.tar.gz"
        # what is not whole goes too: where this is broken off, it is to be seen that the board has no runner
        await port.run(["sh", "-c", _LEAVE_ONLY, "sh", folder.runner, ""], timeout_s=UNPACK_S)
        await folder.push(self._archive, packed)
        ran = await port.run(["sh", "-c", _UNPACK, "sh", self._python, packed, path], timeout_s=UNPACK_S)
        if ran.returncode != 0 or not await self._is_whole(port, path):
            words = ran.stderr.decode(errors="replace").strip()[-200:]
            raise TransientDeviceError(f"the runner cannot be unpacked on the board: {words or 'its files differ'}")

    def argv(self, folder: BoardFolder) -> list[str]:
        return [self._python, "-I", f"{self._path(folder)}/start.py"]

    def launch_argv(self, folder: BoardFolder, limit_s: float) -> list[str]:
        """Under the board's lock, which names the lease. The port's own limit on the board is all that it has."""
        del limit_s
        return [*self.argv(folder), "--lock", folder.running, folder.lease]

    def limits(self, confinement: Confinement) -> dict[str, Any]:
        user = CONFINED_ID if confinement.is_root else None
        return _limits(confinement) | {"uid": user, "gid": user}

    def _path(self, folder: BoardFolder) -> str:
        return f"{folder.runner}/{PYTHON_FOLDER}{self._check_sha256[:16]}"

    async def _is_whole(self, port: Port, path: str) -> bool:
        ran = await port.run(["sh", "-c", _WHOLE, "sh", path], timeout_s=HASH_S)
        said = ran.stdout.decode(errors="replace").split()
        return said[:1] == [self._check_sha256] and said[-1:] == ["whole"]


@dataclass(frozen=True)
class MissingRunner:
    """There is no runner for a board, and why: it is shown with the reason and measures nothing."""

    engines: tuple[str, ...]
    why: str
    timing: str = ""


async def ensure_binary(port: Port, folder: BoardFolder, binary: Path, path: str, sha256: str) -> None:
    """A program on the board is the one with this hash, alone in its folder; raises as `RunnerKit.ensure` does."""
    if await _hash_of(port, path) == sha256:
        return
    await port.run(["sh", "-c", _LEAVE_ONLY, "sh", path.rpartition("/")[0], path], timeout_s=RUN_S)
    await folder.push(binary, path, mode=0o755)
    if (found := await _hash_of(port, path)) != sha256:
        raise TransientDeviceError(f"the runner on the board is not the one that was put there ({found[:60]})")


def command_line(argv: Sequence[str], scratch: str) -> list[str]:
    """A command on the board in a scratch folder, with no more of an environment than a runner needs."""
    environment = {**launch_environment(scratch), "PATH": _SYSTEM_PATH}
    given = [f"{name}={value}" for name, value in environment.items()]
    return ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", scratch, "env", "-i", *given, *argv]


def _limits(confinement: Confinement) -> dict[str, Any]:
    return {
        "memory_bytes": confinement.memory_bytes,
        "cpu_s": confinement.cpu_s,
        "readable": list(confinement.readable),
        "writable": list(confinement.writable),
        "network": False,
        "uid": None,
        "gid": None,
        "strict": confinement.strict,
    }


async def _hash_of(port: Port, path: str) -> str:
    """The SHA-256 of a file on the board, `absent` without it, else what the board said instead."""
    ran = await port.run(["sh", "-c", _HASH_OF, "sh", path], timeout_s=HASH_S)
    said = (ran.stdout or ran.stderr).decode(errors="replace").split()
    if ran.returncode != 0:
        raise TransientDeviceError(f"the board cannot say what its runner is: {' '.join(said)[:200]}")
    return said[0] if said else ""
