"""Connections: whose reader takes nothing for a while is cut off, whatever he was answered.

A server that closes a connection first waits until all of an answer is taken: a caller who reads nothing would keep his
socket, and what he was to be sent, for as long as he likes.
"""

import fcntl
import struct
import termios
from asyncio import TimerHandle, Transport
from typing import ClassVar, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class _Left(NamedTuple):
    """What there was to send when it was looked at: bytes that wait here and in the socket, and how often all of what
    waited here had gone before."""

    here_bytes: int
    socket_bytes: int
    drained: int


class Connection(HttpToolsProtocol):
    """One connection. It is looked at every `stall_s`: where something waits and nothing of it went since the look
    before, it is cut off."""

    stall_s: ClassVar[float]

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """As asyncio has it."""
        super().connection_made(transport)
        self._left = _Left(0, 0, 0)
        self._drained = 0
        self._looking: TimerHandle = self.loop.call_later(self.stall_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._looking.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """As asyncio has it: what waited here has gone."""
        self._drained += 1
        super().resume_writing()

    def _look(self) -> None:
        left = _Left(self.transport.get_write_buffer_size(), self._unsent_bytes(), self._drained)
        if left.here_bytes and left == self._left:
            self.logger.info("a caller took nothing of his answer and is cut off")
            self.transport.abort()
            return
        self._left = left
        self._looking = self.loop.call_later(self.stall_s, self._look)

    def _unsent_bytes(self) -> int:
        """What the other side has not taken of what the socket holds; 0 where the socket does not tell."""
        found = self.transport.get_extra_info("socket")
        try:
            said = fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, bytes(4))
        except (AttributeError, OSError, ValueError):
            return 0
        return int(struct.unpack("i", said)[0])


def connections(stall_s: float) -> type[Connection]:
    """Connections whose readers may stall for so long, and at most twice as long."""

    class Own(Connection):
        pass

    Own.stall_s = stall_s
    return Own
