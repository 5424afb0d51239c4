"""Children that answer: one JSON line for each question. They never run during a launch.

One that answers about the farm's own files is kept alive, started by its first question and again whenever it has
died. A stranger's file gets a child of its own, strictly confined and gone with it.
"""

import asyncio
import contextlib
import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from benchfarm_agent.processes import kill_group, start_child
from benchfarm_core.confine import CONFINED_ID
from benchfarm_core.failures import FailureCode
from benchfarm_engines.launch import ChildLimits, launch_environment

ANSWER_S: Final = 120.0
LINE_BYTES_MAX: Final = 2**20
MEMORY_BYTES: Final = 8 * 1024**3
"""Address space; what it really uses is a small part of it."""
CPU_S: Final = 24 * 3600
STRANGER_CPU_S: Final = 240

_DIED_OR_SILENT: Final = (ConnectionError, TimeoutError, ValueError)
"""What a question to a child ends in that is gone, hangs or babbles."""
_OF_THE_MACHINE: Final = frozenset({errno.EAGAIN, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of opening a file that say nothing about it."""

Argv = Callable[[ChildLimits], list[str]]
"""The command of a child that is confined by these limits."""


class Unusable(Exception):
    """A workload that cannot be prepared, with the failure that says why. subject: the operator that it is about."""

    def __init__(self, code: FailureCode, detail: str, subject: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.subject = subject


class KeptChild:
    """One child. It may read what `limits` say and write to `folder`, which is its home too."""

    def __init__(self, argv: Argv, limits: ChildLimits, folder: Path, *, lost: FailureCode) -> None:
        """lost: what a question is refused with that has ended two children."""
        self.folder = folder
        self._argv = argv
        self._limits = limits
        self._lost = lost
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            kill_group(self._process.pid)
            await self._process.wait()
            self._process = None

    async def ask(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
        """The answer, and the file that it wrote, now the caller's; none is left where it raises.

        Raises Unusable, and OSError where no child can be started: that is the machine's fault, not the question's.
        """
        out = self.folder / secrets.token_hex(8)
        line = json.dumps({**question, "out": str(out)}).encode() + b"\n"
        try:
            async with self._turn:
                answer = await self._answer(line)
            if answer.get("ok") is not True:
                raise Unusable(_code(answer.get("code")), str(answer.get("detail", ""))[:300], _subject(answer))
        except (Unusable, OSError):
            _remove(out)
            raise
        except asyncio.CancelledError:  # its answer would be taken for that of the next question
            await self.close()
            _remove(out)
            raise
        return answer, out

    async def _answer(self, line: bytes) -> dict[str, Any]:
        """One question to the child; a second child is asked when the first has died, perhaps of something else."""
        try:
            return await self._exchange(line)
        except _DIED_OR_SILENT:
            await self.close()
        try:
            return await self._exchange(line)
        except _DIED_OR_SILENT as error:
            await self.close()
            raise Unusable(self._lost, f"two processes died or fell silent over it: {error!r}"[:300]) from error

    async def _exchange(self, line: bytes) -> dict[str, Any]:
        process = await self._alive()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        await process.stdin.drain()
        answer = json.loads(await asyncio.wait_for(process.stdout.readline(), timeout=ANSWER_S))
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        return answer

    async def _alive(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            environment = launch_environment(str(self.folder))
            self._process = await start_child(
                self._argv(self._limits),
                env=environment,
                folder=self.folder,
                line_bytes_max=LINE_BYTES_MAX,
                hear_errors=False,
            )
        return self._process


def child_for_ours(argv: Argv, *, readable: Path, folder: Path, lost: FailureCode) -> KeptChild:
    """A child for files that the farm made, below `readable`."""
    limits = ChildLimits(memory_bytes=MEMORY_BYTES, cpu_s=CPU_S, readable=[str(readable)], writable=[str(folder)])
    return KeptChild(argv, limits, folder, lost=lost)


@contextlib.asynccontextmanager
async def child_for_stranger(
    argv: Argv, artifact: Path, parent: Path, *, lost: FailureCode
) -> AsyncIterator[KeptChild]:
    """A child for one file that a stranger wrote: it can read that file alone, and nothing of it is left behind.

    Its folder below `parent` goes too, and what it wrote with it. Raises OSError.
    """
    folder = _folder_for_stranger(parent)
    user = CONFINED_ID if os.geteuid() == 0 else None
    limits = ChildLimits(
        memory_bytes=MEMORY_BYTES,
        cpu_s=STRANGER_CPU_S,
        readable=[str(artifact)],
        writable=[str(folder)],
        strict=True,
        uid=user,
        gid=user,
    )
    child = KeptChild(argv, limits, folder, lost=lost)
    try:
        yield child
    finally:
        await child.close()
        rmtree(folder, ignore_errors=True)


def _folder_for_stranger(parent: Path) -> Path:
    """A new folder, whichever user the child ends up as; its name can be neither listed nor guessed."""
    parent.mkdir(exist_ok=True)
    parent.chmod(0o711)
    folder = Path(tempfile.mkdtemp(dir=parent))
    folder.chmod(0o777)
    return folder


def take_answer(path: Path, *, limit_bytes: int) -> bytes:
    """The file that a child wrote, which is gone afterwards; a child is as trustworthy as the file that it opened.

    Raises Unusable (conversion_failed) when it is no plain file or above the limit, OSError where the machine fails.
    """
    try:
        content = _plain_content(path, limit_bytes)
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        detail = f"what was made of it cannot be read: {error.strerror}"
        raise Unusable(FailureCode.CONVERSION_FAILED, detail) from error
    finally:
        _remove(path)
    if content is None:
        raise Unusable(FailureCode.CONVERSION_FAILED, f"what was made of it is no file of at most {limit_bytes} bytes")
    return content


def _remove(out: Path) -> None:
    """What a child wrote, whole or half."""
    for path in (out, out.with_suffix(".part")):
        with contextlib.suppress(OSError):
            path.unlink()


def _plain_content(path: Path, limit_bytes: int) -> bytes | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit_bytes:
            return None
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(limit_bytes)
    finally:
        os.close(descriptor)


def _code(text: object) -> FailureCode:
    try:
        return FailureCode(str(text))
    except ValueError:
        return FailureCode.ENGINE_ERROR


def _subject(answer: Mapping[str, Any]) -> str:
    return str(answer.get("subject", "")).replace("\0", "")[:60]
