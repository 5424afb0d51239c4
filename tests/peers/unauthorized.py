"""A phone whose owner never presses "Allow": it asks every adb server for a key and accepts none."""

import os
import socket
import struct
import threading
from contextlib import suppress

CNXN, AUTH = 0x4E584E43, 0x48545541
TOKEN, SIGNATURE = 1, 2
HEADER = struct.Struct("<6I")  # command, two arguments, length and sum of what follows, the command inverted


class UnauthorizedPhone:
    """Listens on loopback at `address` until `end`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._callers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def end(self) -> None:
        for end in (self._listener, *self._callers):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self._callers.append(caller)
            thread = threading.Thread(target=_refuse, args=(caller,), daemon=True)
            self._threads.append(thread)
            thread.start()


def _refuse(caller: socket.socket) -> None:
    """Answers a greeting and every signed token with another token, and an offered key with nothing, for ever."""
    with caller, suppress(OSError, EOFError):
        while True:
            command, kind, _, length, _, _ = HEADER.unpack(_exactly(caller, HEADER.size))
            _exactly(caller, length)
            if command == CNXN or (command == AUTH and kind == SIGNATURE):
                caller.sendall(_message(AUTH, TOKEN, os.urandom(20)))


def _exactly(caller: socket.socket, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        piece = caller.recv(size_bytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _message(command: int, kind: int, content: bytes) -> bytes:
    return HEADER.pack(command, kind, 0, len(content), sum(content), command ^ 0xFFFFFFFF) + content
