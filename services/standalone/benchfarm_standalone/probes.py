"""Readiness probes: each a function that answers at once whether a service can be used. None of them raises."""

import http
import http.client
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Probe = Callable[[], bool]

ANSWER_WITHIN_S = 2
PROTOCOL_3_0 = 196608
READY_FOR_QUERY = b"Z\0\0\0\5"
TERMINATE = b"X\0\0\0\4"


def postgres_answers(socket_path: Path, user: str) -> Probe:
    """Ready when a session can be opened: during recovery the server listens already but refuses them.

    Speaks the few bytes of the protocol itself, since SQL and its driver belong to the store alone.
    """
    parameters = f"user\0{user}\0database\0postgres\0\0".encode()
    hello = struct.pack("!ii", 8 + len(parameters), PROTOCOL_3_0) + parameters

    def probe() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_WITHIN_S)
            try:
                connection.connect(str(socket_path))
                connection.sendall(hello)
                return _session_opens(connection)
            except OSError:
                return False

    return probe


def _session_opens(connection: socket.socket) -> bool:
    """Whether the server gets as far as waiting for a query, before it hangs up with an error."""
    received = b""
    while READY_FOR_QUERY not in received:
        chunk = connection.recv(4096)
        if not chunk:
            return False
        received += chunk
    connection.sendall(TERMINATE)
    return True


def valkey_answers(socket_path: Path) -> Probe:
    """Ready when PING is answered with PONG: while it loads its file it answers with an error."""

    def probe() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_WITHIN_S)
            try:
                connection.connect(str(socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    return probe


def file_exists(path: Path) -> Probe:
    """Ready when the service has written the file. Whoever starts it removes an old one first."""
    return path.exists


def get_json(port: int, path: str, token: str | None = None) -> tuple[int, Any]:
    """Status and parsed body of a GET on loopback, never through a proxy. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(body)
    except ValueError:
        return response.status, None


def http_answers(port: int, path: str) -> Probe:
    """Ready when a GET on loopback is answered with 200."""

    def probe() -> bool:
        try:
            return get_json(port, path)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    return probe
