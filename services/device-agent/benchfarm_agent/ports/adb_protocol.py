"""What an adb client says to an adb server: a few plain messages over a local socket.

A request is its length in four hexadecimal digits and its text; the answer begins with OKAY or with FAIL and a
reason. A command's bytes go in frames of the shell protocol: one byte for the stream, four for the length. Spoken
here rather than by adbutils, whose calls block, know no limit on a whole call and start a server of the user's own
when none answers.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Final

from benchfarm_agent.ports.channel import Said
from benchfarm_agent.ports.interface import BoardUnreachable

READ_AHEAD_BYTES: Final = 2**18
FRAME_BYTES_MAX: Final = 2**24
_FRAME: Final = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)


class AdbRefused(Exception):
    """The adb server said no, in its own words."""


class AdbServerGone(Exception):
    """No adb server answers, or it went away."""


class AdbSocket:
    """One connection to an adb server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self, service: str) -> None:
        """Asks for a service. Raises AdbRefused, AdbServerGone."""
        text = service.encode(errors="surrogateescape")
        self.writer.write(f"{len(text):04x}".encode() + text)
        answer = await self._exactly(4)
        if answer == b"FAIL":
            raise AdbRefused((await self.block()).decode(errors="replace"))
        if answer != b"OKAY":
            raise AdbServerGone(f"what listens there is no adb server: {answer!r}")

    async def block(self) -> bytes:
        """One message with its length before it. Raises AdbServerGone."""
        length = await self._exactly(4)
        try:
            return await self._exactly(int(length, 16))
        except ValueError as error:
            raise AdbServerGone(f"what listens there is no adb server: {length!r}") from error

    def close(self) -> None:
        """At once: what was not sent yet is dropped."""
        self.writer.transport.abort()

    async def _exactly(self, size_bytes: int) -> bytes:
        try:
            return await self.reader.readexactly(size_bytes)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise AdbServerGone("the adb server closed the connection") from error


@contextlib.asynccontextmanager
async def adb_socket(port: int) -> AsyncIterator[AdbSocket]:
    """A connection for the time of a block. Raises AdbServerGone."""
    socket = await open_adb_socket(port)
    try:
        yield socket
    finally:
        socket.close()


async def open_adb_socket(port: int) -> AdbSocket:
    """Raises AdbServerGone."""
    try:
        return AdbSocket(*await asyncio.open_connection("127.0.0.1", port, limit=READ_AHEAD_BYTES))
    except OSError as error:
        raise AdbServerGone(f"no adb server listens on port {port}") from error


async def ask_adb(port: int, service: str, *, timeout_s: float) -> str:
    """The answer of a service of the server itself. Raises AdbRefused, AdbServerGone, TimeoutError."""
    async with asyncio.timeout(timeout_s), adb_socket(port) as socket:
        await socket.request(service)
        return (await socket.block()).decode(errors="replace")


class AdbChannel:
    """A command on a phone; see `Channel`."""

    def __init__(self, socket: AdbSocket, name: str) -> None:
        self._socket = socket
        self._name = name
        self._has_ended_input = False

    async def send(self, data: bytes) -> None:
        await self._write(_STDIN, data)

    async def end_input(self) -> None:
        if not self._has_ended_input:
            self._has_ended_input = True
            await self._write(_CLOSE_STDIN, b"")

    async def hear(self) -> Said | int:
        while True:
            stream, data = await self._frame()
            if stream == _EXIT and data:
                return data[0]
            if stream == _STDOUT and data:
                return Said("stdout", data)
            if stream == _STDERR and data:
                return Said("stderr", data)

    def close(self) -> None:
        self._socket.close()

    async def _write(self, stream: int, data: bytes) -> None:
        try:
            self._socket.writer.write(_FRAME.pack(stream, len(data)) + data)
            await self._socket.writer.drain()
        except OSError as error:
            raise BoardUnreachable(f"{self._name} went away") from error

    async def _frame(self) -> tuple[int, bytes]:
        reader = self._socket.reader
        try:
            stream, size_bytes = _FRAME.unpack(await reader.readexactly(_FRAME.size))
            if size_bytes > FRAME_BYTES_MAX:
                raise BoardUnreachable(f"{self._name} speaks no shell protocol")
            return stream, await reader.readexactly(size_bytes)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise BoardUnreachable(f"{self._name} went away") from error
