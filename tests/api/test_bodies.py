"""JSON bodies: of two readers the faster one changes no value and no refusal."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from benchfarm_api.bodies import ReadRequest

TAKEN = [
    b'{"a": [1, -0, 12345678901234567890123, 1.5, -0.0, 1e23, 1E400, true, false, null], "a": "twice"}',
    b'[NaN, Infinity, -Infinity, "\\u0041\\/\\ud83d\\ude00", "\x7f", 5e-324, 123456789012345678901234567890.5]',
    b'"\\ud800"',
    b"\xef\xbb\xbf{}",
    '{"ä": 1}'.encode("utf-16"),
    b"[" * 250 + b"]" * 250,
]
REFUSED = [b"", b"{", b"[1,]", b"[01]", b'{"a": 1} x', b'"\t"', b'"\xff"', b"nan", b"[" + b"1" * 5000 + b"]"]


def read(kind: type[Request], body: bytes) -> Any:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return asyncio.run(kind({"type": "http", "headers": []}, receive).json())


@pytest.mark.parametrize("body", TAKEN)
def test_the_same_is_read(body: bytes) -> None:
    assert repr(read(ReadRequest, body)) == repr(read(Request, body)) == repr(json.loads(body))


@pytest.mark.parametrize("body", REFUSED)
def test_the_same_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        read(Request, body)
    with pytest.raises(type(refused.value)) as told:
        read(ReadRequest, body)
    assert str(told.value) == str(refused.value)
