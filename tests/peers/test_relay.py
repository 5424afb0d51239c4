"""The relay against a real echo server on loopback."""

import contextlib
import socket
import threading
import time

import pytest

from tests.agent.agent_process import wait_until
from tests.peers.relay import Relay


@pytest.fixture
def relay():
    server = socket.create_server(("127.0.0.1", 0))
    relay = Relay(lambda: socket.create_connection(server.getsockname(), 3))
    thread = threading.Thread(target=echo, args=(server,), daemon=True)
    thread.start()
    yield relay
    relay.end()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def echo(server: socket.socket) -> None:
    """Answers one connection after the other with what it says."""
    while True:
        try:
            caller, _ = server.accept()
        except OSError:
            return
        with caller, contextlib.suppress(OSError):
            while data := caller.recv(1 << 16):
                caller.sendall(data)


def call(relay: Relay, limit_s: float = 3.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), limit_s)


def said_back(caller: socket.socket, text: bytes) -> bytes:
    """What comes back of `text`; empty once cut. Raises TimeoutError."""
    caller.sendall(text)
    got = b""
    while len(got) < len(text) and (data := caller.recv(1 << 16)):
        got += data
    return got


def is_cut(caller: socket.socket) -> bool:
    """Whether the connection ends: in order, or reset where the relay had bytes that it never read."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


def test_bytes_pass_both_ways(relay):
    with call(relay) as caller:
        assert said_back(caller, b"x" * 300_000) == b"x" * 300_000


def test_unplugged_is_refused_and_cut_and_plugged_again_at_the_same_port(relay):
    port = relay.port
    with call(relay) as caller:
        assert said_back(caller, b"a") == b"a"
        relay.unplug()
        assert is_cut(caller)
    with pytest.raises(ConnectionRefusedError):
        call(relay)
    relay.unplug()
    relay.plug()
    relay.plug()
    assert relay.port == port
    with call(relay) as caller:
        assert said_back(caller, b"b") == b"b"


def test_moved_is_elsewhere(relay):
    old = relay.port
    relay.move()
    assert relay.port != old
    with call(relay) as caller:
        assert said_back(caller, b"a") == b"a"


def test_hanging_keeps_the_connection_and_later_delivers(relay):
    with call(relay, 0.3) as caller:
        assert said_back(caller, b"a") == b"a"
        relay.hang()
        with pytest.raises(TimeoutError):
            said_back(caller, b"b")
        relay.flow()
        caller.settimeout(3)
        assert caller.recv(1) == b"b"


def test_silent_accepts_and_never_answers(relay):
    relay.go_silent()
    with call(relay, 0.3) as caller, pytest.raises(TimeoutError):
        said_back(caller, b"a")
    relay.answer()
    with call(relay) as caller:
        assert said_back(caller, b"a") == b"a"


def test_slow_delays_and_limits(relay):
    relay.slow(delay_s=0.05, bytes_per_s=100_000)
    with call(relay) as caller:
        began_s = time.monotonic()
        assert said_back(caller, b"x" * 20_000) == b"x" * 20_000
        assert time.monotonic() - began_s > 0.3


def test_a_hanging_relay_can_be_ended(relay):
    relay.hang()
    with call(relay) as caller:
        caller.sendall(b"a")
        relay.end()
        assert is_cut(caller)
    wait_until(lambda: not relay._threads, "its threads end", 5)
