"""Connections on a server of their own: who takes nothing is cut off, and nobody else."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest
import uvicorn

from benchfarm_api.connections import connections

STALL_S = 0.4
BODY = bytes(16 * 2**20)
"""Many times what sockets hold."""
Eventually = Callable[..., None]


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """All at once, as files are sent; `/late` comes after many looks."""
    if scope["path"] == "/late":
        await asyncio.sleep(4 * STALL_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, http=connections(STALL_S), lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = Thread(target=server.run, kwargs={"sockets": [listener]})
        serving.start()
        server.address = listener.getsockname()  # type: ignore[attr-defined]
        yield server
        server.should_exit = True
        serving.join(10)
        assert not serving.is_alive()


def called(server: Any, path: str) -> socket.socket:
    """A caller who takes little at once, and has asked."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    caller.settimeout(20)
    caller.connect(server.address)
    caller.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return caller


def rest_of(caller: socket.socket) -> int:
    """How many bytes come until the end."""
    count = 0
    while piece := caller.recv(2**20):
        count += len(piece)
    return count


def test_who_takes_nothing_is_cut_off(server: uvicorn.Server, eventually: Eventually) -> None:
    """The application has done all of its part, and nobody waits for him any more."""
    with called(server, "/") as caller:
        assert caller.recv(12) == b"HTTP/1.1 200"
        assert len(server.server_state.connections) == 1
        eventually(lambda: not server.server_state.connections)
        with suppress(ConnectionResetError):
            assert rest_of(caller) < len(BODY)


def test_who_reads_slowly_is_not(server: uvicorn.Server) -> None:
    """He takes so little in a look's time that nothing of what waits in the process goes on."""
    with called(server, "/") as caller:
        count, until_s = 0, time.monotonic() + 6 * STALL_S
        while time.monotonic() < until_s:
            count += len(caller.recv(8192))
            time.sleep(STALL_S / 4)  # wait: he is slow
        assert count < 400_000
        assert count + rest_of(caller) > len(BODY)


def test_who_waits_for_his_answer_is_not(server: uvicorn.Server) -> None:
    with called(server, "/late") as caller:
        assert rest_of(caller) > len(BODY)
