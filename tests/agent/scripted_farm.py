"""An HTTP server that says what a test wants said: answers of a farm in trouble, which the real one gives rarely."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HANG_UP = None


@dataclass
class Call:
    """One request as it came."""

    path: str
    body: Any
    authorization: str


Answer = tuple[int, Any] | None
Script = Callable[[Call], Answer | Awaitable[Answer]]


@dataclass
class ScriptedFarm:
    """Where it listens, and every call so far."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)

    def paths(self) -> list[str]:
        """The last part of each path."""
        return [call.path.rsplit("/", 1)[1] for call in self.calls]


@asynccontextmanager
async def scripted_farm(script: Script, port: int = 0) -> AsyncIterator[ScriptedFarm]:
    """Serves until the block ends; `script` gives status and body, at once or later, or HANG_UP."""
    farm = ScriptedFarm()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        while (call := await _read(reader)) is not None:
            farm.calls.append(call)
            said = script(call)
            answer = await said if inspect.isawaitable(said) else said
            if answer is HANG_UP:
                break
            status, body = answer
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    farm.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield farm
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Call | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(head[0].split()[1], json.loads(content) if content else None, headers.get("authorization", ""))


def verb_bodies(calls: Sequence[Call], verb: str) -> list[Any]:
    """The bodies that came by a verb."""
    return [call.body for call in calls if call.path.endswith(f"/{verb}")]


def handed_in(calls: Sequence[Call]) -> list[Any]:
    """The bodies that brought results, with the end of a lease or before it."""
    return [call.body for call in calls if call.path.endswith(("/results", "/finish"))]


def results_in(calls: Sequence[Call]) -> dict[int, Any]:
    """All results that came, by measurement."""
    return {one["measurement_id"]: one for body in handed_in(calls) for one in body["results"]}


def given_back(calls: Sequence[Call]) -> list[Any]:
    """How leases were released, with their last results or without."""
    ends = [call for call in calls if call.path.endswith(("/release", "/finish"))]
    return [call.body["release"] if call.path.endswith("/finish") else call.body for call in ends]


def reported(calls: Sequence[Call]) -> list[Any]:
    """What was reported of leases that run, one by one."""
    return [one for call in calls if call.path.endswith("/reports") for one in call.body["leases"]]


def taken(call: Call) -> tuple[int, Any]:
    """A farm that takes everything that an agent says of a lease, and renews for a minute."""
    numbers = [one["measurement_id"] for one in call.body.get("results", ())] if call.body else []
    accepted = {"accepted": numbers, "repeated": [], "orphaned": []}
    match call.path.rsplit("/", 1)[1]:
        case "results":
            return 200, accepted
        case "finish":
            return 200, {**accepted, "lost": False}
        case "reports":
            return 200, {"lost": [], "renewed": [], "expires_in_s": 60, "renew_in_s": 15}
        case "renew":
            return 200, {"expires_in_s": 60, "renew_in_s": 15, "cancelled": []}
    return 204, b""


def problem(status: int, code: str, detail: str = "because") -> tuple[int, dict[str, Any]]:
    """An error answer."""
    return status, {"type": "t", "title": "T", "status": status, "code": code, "detail": detail}


async def true_soon(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Returns once a condition holds: what happens at the other end of a socket sets no event here."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
