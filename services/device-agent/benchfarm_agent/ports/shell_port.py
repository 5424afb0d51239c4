"""A port over a shell: everything that adb and SSH boards have in common."""

import abc
import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from benchfarm_agent.ports.board_scripts import (
    REFUSED,
    ending,
    fetching,
    in_commands,
    is_refused,
    new_name,
    reading,
    storing,
    supervised,
    texts_of,
    timed,
    writing,
)
from benchfarm_agent.ports.channel import Channel, Said
from benchfarm_agent.ports.interface import (
    LAUNCH_LIMIT_S,
    OUTPUT_BYTES_MAX,
    STDERR_TAIL_BYTES,
    BoardUnreachable,
    PortTransferFailed,
    PortWriteRefused,
    Ran,
    Streamed,
)
from benchfarm_agent.ports.lines import Lines

CHANNELS_MAX: Final = 8
"""Commands of one board at once; an OpenSSH server takes ten."""
OPEN_S: Final = 15.0
"""A launch that has not begun by then will not."""
END_S: Final = 5.0
"""How long ending a launch on its board may take."""
LATER_S: Final = 5.0
"""So much later than the agent the board itself ends a command."""
CHUNK_BYTES: Final = 2**16


class ShellPort(abc.ABC):
    """A port whose board has a POSIX shell. A kind of connection says how to open a channel."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turns = asyncio.Semaphore(CHANNELS_MAX)
        self._channels: set[Channel] = set()
        self._endings: set[asyncio.Task[bool]] = set()

    @property
    def name(self) -> str:
        return self._name

    @abc.abstractmethod
    async def _open(self, command: str) -> Channel:
        """Has the board's shell run a text. Raises BoardUnreachable."""

    async def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Ran:
        heard = _Heard()
        returncode = await self._run(argv, heard, timeout_s=timeout_s, stdin=stdin)
        return Ran(returncode, bytes(heard.stdout), bytes(heard.stderr))

    async def read(self, paths: Sequence[str], *, timeout_s: float = 5.0) -> dict[str, str | None]:
        texts: dict[str, str | None] = {}
        for portion in in_commands(paths) if paths else ():
            texts |= await self._read(portion, timeout_s)
        return texts

    async def _read(self, paths: Sequence[str], timeout_s: float) -> dict[str, str | None]:
        heard, mark = _Heard(), new_name()
        why = f"{self.name} has no shell that reads files"
        try:
            await self._run(reading(paths, mark), heard, timeout_s=timeout_s)
        except BoardUnreachable as error:
            # a file of which reading does not end spoils no other; a board that is only slow is none with files amiss
            if not isinstance(error.__cause__, TimeoutError) or heard.silent_s() < timeout_s / 2:
                raise
            why = error.detail
        texts = texts_of(bytes(heard.stdout), paths, mark)
        if texts is None:
            raise BoardUnreachable(why)
        return texts

    async def write(self, path: str, text: str, *, timeout_s: float = 5.0) -> None:
        ran = await self.run(writing(path, text), timeout_s=timeout_s)
        if ran.returncode != 0:
            raise PortWriteRefused(f"{self.name} refused {text[:60]!r} for {path}: {_words(ran)}")

    async def push(self, local: Path, remote: str, *, mode: int = 0o644, timeout_s: float) -> None:
        with local.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            command = storing(remote, size_bytes=size_bytes, mode=mode)
            heard = _Heard()
            async with self._within(timeout_s), self._channel(command) as channel:
                returncode = await _hear_taking(channel, heard, _chunks(file))
        if returncode != 0:
            words = _words(Ran(returncode, b"", bytes(heard.stderr))) or "it arrived incomplete"
            raise PortTransferFailed(f"{self.name} could not take {remote}: {words}")

    async def pull(self, remote: str, local: Path, *, timeout_s: float) -> None:
        with _whole_file(local) as file:
            heard = _Heard(sink=file)
            returncode = await self._run(fetching(remote), heard, timeout_s=timeout_s)
            if returncode != 0:
                words = _words(Ran(returncode, b"", bytes(heard.stderr)))
                raise PortTransferFailed(f"{self.name} did not give {remote}: {words}")

    async def stream(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes,
        on_line: Callable[[bytes], None],
        line_bytes_max: int,
        silence_s: float,
        lines_max: int,
        limit_s: float = LAUNCH_LIMIT_S,
    ) -> Streamed:
        name = new_name()
        command = supervised(argv, limit_s=limit_s + LATER_S, name=name, stdin_bytes=len(stdin), is_timed=True)
        lines = Lines(on_line, line_bytes_max=line_bytes_max, lines_max=lines_max)
        streamed, is_ended = None, True
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with self._within(min(OPEN_S, silence_s)):
                    channel = await stack.enter_async_context(self._channel(command))
                await stack.enter_async_context(_fed(channel, [stdin]))
                streamed = await _follow(channel, lines, name, silence_s=silence_s, limit_s=limit_s)
        finally:
            if streamed is None or streamed.cut is not None:
                is_ended = await self._end(name)
        if streamed.cut == "silent" and not is_ended:  # it is not the launch alone that says nothing
            raise BoardUnreachable(f"{self.name} fell silent and does not answer")
        return streamed

    async def close(self) -> None:
        for channel in tuple(self._channels):
            channel.close()
        await asyncio.gather(*self._endings)

    async def _run(self, argv: Sequence[str], heard: "_Heard", *, timeout_s: float, stdin: bytes = b"") -> int:
        name = new_name() if stdin else ""
        command = supervised(argv, limit_s=timeout_s + LATER_S, name=name, stdin_bytes=len(stdin))
        async with self._within(timeout_s), self._channel(command) as channel, _fed(channel, [stdin]):
            return await _hear_out(channel, heard, name)

    @contextlib.asynccontextmanager
    async def _within(self, limit_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            raise BoardUnreachable(f"{self.name} did not answer within {limit_s:g} s") from error

    @contextlib.asynccontextmanager
    async def _channel(self, command: str) -> AsyncIterator[Channel]:
        async with self._turns:
            channel = await self._open(command)
            self._channels.add(channel)
            try:
                yield channel
            finally:
                self._channels.discard(channel)
                channel.close()

    async def _end(self, name: str) -> bool:
        """Sees to it that nothing of a launch is left, also when the caller is cancelled; whether the board said so."""
        task = asyncio.ensure_future(self._end_on_board(name))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return await asyncio.shield(task)

    async def _end_on_board(self, name: str) -> bool:
        try:
            async with self._within(END_S):
                channel = await self._open(ending(name))
                try:
                    return await _hear_out(channel, _Heard()) == 0
                finally:
                    channel.close()
        except BoardUnreachable:  # then the board ends it by itself
            return False


class _Heard:
    """What a command has said; standard output goes to a file where one is given."""

    def __init__(self, sink: BinaryIO | None = None) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._sink = sink
        self._last_s = time.monotonic()

    def silent_s(self) -> float:
        """How long ago it said something."""
        return time.monotonic() - self._last_s

    def add(self, said: Said) -> None:
        """Raises BoardUnreachable when it is more than can be meant."""
        self._last_s = time.monotonic()
        if said.source == "stdout" and self._sink is not None:
            self._sink.write(said.data)
            return
        kept = self.stdout if said.source == "stdout" else self.stderr
        kept += said.data
        if len(kept) > OUTPUT_BYTES_MAX:
            raise BoardUnreachable(f"the board says more than {OUTPUT_BYTES_MAX} bytes to one command")


async def _hear_out(channel: Channel, heard: _Heard, name: str = "") -> int:
    """Everything up to the return code, or until the board refuses what was to run under this name."""
    while not isinstance(said := await channel.hear(), int):
        heard.add(said)
        if is_refused(name, bytes(heard.stderr)):
            return REFUSED
    return said


async def _hear_taking(channel: Channel, heard: _Heard, chunks: Iterable[bytes]) -> int:
    """Sends a file until it is through or the board complains."""
    async with _fed(channel, chunks, is_all=True) as feeding:
        while not isinstance(said := await channel.hear(), int):
            heard.add(said)
            if heard.stderr:
                feeding.cancel()
                await channel.end_input()
    return said


async def _follow(channel: Channel, lines: Lines, name: str, *, silence_s: float, limit_s: float) -> Streamed:
    """Passes lines on until the launch is over or has to be cut."""
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + limit_s
    line_until_s = now_s() + silence_s
    stderr_tail = b""
    while True:
        try:
            async with asyncio.timeout_at(min(line_until_s, until_s)):
                said = await channel.hear()
        except TimeoutError:
            return Streamed(None, "silent", _readable(stderr_tail))
        if isinstance(said, int):
            is_good = lines.end()
            stderr_tail, ran_s = timed(name, stderr_tail)
            return Streamed(said if is_good else None, None if is_good else "garbage", _readable(stderr_tail), ran_s)
        if said.source == "stderr":
            stderr_tail = (stderr_tail + said.data)[-STDERR_TAIL_BYTES:]
            if is_refused(name, stderr_tail):
                return Streamed(REFUSED, None, _readable(stderr_tail))
            continue
        before = lines.count
        if not lines.take(said.data):
            return Streamed(None, "garbage", _readable(stderr_tail))
        if lines.count > before:
            line_until_s = now_s() + silence_s


def _readable(said: bytes) -> str:
    return said.decode(errors="replace")


@contextlib.asynccontextmanager
async def _fed(channel: Channel, chunks: Iterable[bytes], *, is_all: bool = False) -> AsyncIterator[asyncio.Task[None]]:
    """Gives a command its input while its output is listened to; with `is_all` the input ends after it."""
    feeding = asyncio.ensure_future(_feed(channel, chunks, is_all=is_all))
    try:
        yield feeding
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(channel: Channel, chunks: Iterable[bytes], *, is_all: bool) -> None:
    try:
        for chunk in chunks:
            if chunk:
                await channel.send(chunk)
        if is_all:
            await channel.end_input()
    except BoardUnreachable:  # the listener hears why
        pass
    except OSError:  # the local file broke off
        channel.close()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    return iter(functools.partial(file.read, CHUNK_BYTES), b"")


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete."""
    part = path.with_name(path.name + new_name())
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _words(ran: Ran) -> str:
    """What the board said about a failure, as one short line."""
    lines = [line for line in _readable(ran.stderr).split("\n") if line.strip()]
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(lines[-2:]))[-300:].strip()
