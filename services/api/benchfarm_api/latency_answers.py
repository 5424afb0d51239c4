"""How answers leave: JSON rows or MessagePack columns, piece by piece, no faster than the caller reads them.

Rows are made as they are sent, so that a question of two hundred thousand answers takes no more memory than its
numbers; columns are as small as these. Who stops reading is waited for, and given up after a while; for who went away
nothing more is made.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgpack
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from benchfarm_api.predicting import Answered
from benchfarm_core.latency_columns import COLUMNS_TYPES

JSON_TYPE: Final = "application/json"
ROWS_AT_ONCE: Final = 500
PIECE_BYTES: Final = 256 * 1024


class PacedResponse(Response):
    """Pieces, each sent when the one before has been taken. Raises ClientDisconnect when nobody takes one for
    `stall_s`, and when the caller has gone."""

    def __init__(self, pieces: Iterator[bytes], media_type: str, stall_s: float) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._pieces = pieces
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        del scope  # what is sent depends on no part of it
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))  # a server's `send` says nothing where nobody is left
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientDisconnect
            await sending
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while (piece := await run_in_threadpool(next, self._pieces, None)) is not None:
            try:
                async with asyncio.timeout(self._stall_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError as error:
                raise ClientDisconnect from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_REFUSED: Final = re.compile(r";\s*q=0(\.0{0,3})?\s*(;|$)", re.IGNORECASE)
"""What a caller names in Accept as nothing that he takes."""


def response(answered: Answered, accept: str, stall_s: float) -> Response:
    """The answers as the caller wants them: columns where its Accept header names them, rows else."""
    wanted = {one.partition(";")[0].strip().lower() for one in accept.split(",") if not _REFUSED.search(one)}
    kind = next((one for one in COLUMNS_TYPES if one in wanted), None)
    pieces = _rows(answered) if kind is None else _columns(answered)
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        return Response(first, media_type=kind or JSON_TYPE)
    return PacedResponse(_chained(first, second, pieces), kind or JSON_TYPE, stall_s)


def _chained(first: bytes, second: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _rows(answered: Answered) -> Iterator[bytes]:
    """A `LatencyResponse` as JSON; the first piece holds all of a small one."""
    count = len(answered.asked.numbers)
    step = max(ROWS_AT_ONCE // len(answered.said), 1)
    begun = '{"answers":['
    for start in range(0, count, step):
        made = begun + ",".join(answered.texts(range(start, min(start + step, count))))
        yield made.encode() + (_end(answered) if start + step >= count else b"")
        begun = ","


def _end(answered: Answered) -> bytes:
    measuring = answered.measuring
    told = b"null" if measuring is None else measuring.model_dump_json().encode()
    return b'],"pin":' + answered.pin.model_dump_json().encode() + b',"measuring":' + told + b"}"


def _columns(answered: Answered) -> Iterator[bytes]:
    """A column is one text of bytes, so that all are made before the first is sent: 22 MiB of 200,000 answers. They are
    packed one by one, and each is let go of when it was."""
    left = bytearray()
    for part in packed(_document(answered)):
        left += part
        while len(left) > PIECE_BYTES:
            yield bytes(left[:PIECE_BYTES])
            del left[:PIECE_BYTES]
    yield bytes(left)


def packed(document: dict[str, Any]) -> Iterator[bytes]:
    """A document as MessagePack part by part: its own values, and of dictionaries in it theirs. It is empty at the end:
    nothing is held twice."""
    packer = msgpack.Packer()
    yield packer.pack_map_header(len(document))
    while document:
        name = next(iter(document))
        value = document.pop(name)
        yield packer.pack(name)
        if isinstance(value, dict):
            yield from packed(value)
        else:
            yield packer.pack(value)


def _document(answered: Answered) -> dict[str, Any]:
    measuring = answered.measuring
    return {
        **answered.columns(),
        "pin": answered.pin.model_dump(mode="json"),
        "measuring": None if measuring is None else measuring.model_dump(mode="json"),
    }
