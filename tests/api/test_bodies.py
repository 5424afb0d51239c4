"""JSON bodies: of two readers the faster one changes no value and no refusal."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from benchfarm_api import bodies
from benchfarm_api.bodies import MANY_BYTES, MAX_NAMES, ReadRequest, refuse_names
from benchfarm_core.errors import TooLarge

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


def read_ahead(body: bytes, check: Any, operation: str = "report_results") -> Any:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def both() -> Any:
        request = ReadRequest({"type": "http", "headers": []}, receive)
        await request.read_ahead(operation, check)
        return await request.json()

    return asyncio.run(both())


@pytest.mark.parametrize("body", TAKEN)
def test_what_is_read_ahead_is_the_same_and_checked_elsewhere(body: bytes) -> None:
    threads = []

    def check(value: Any) -> tuple[Any, list[Any]]:
        threads.append(threading.current_thread())
        return ("checked", value), []

    what, value = read_ahead(body, check)
    assert (what, repr(value)) == ("checked", repr(json.loads(body)))
    assert threads != [threading.main_thread()]


@pytest.mark.parametrize("body", [*REFUSED, b"[" * 100_000])
def test_what_is_read_ahead_and_no_json_is_refused_the_same(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)) as refused:
        read(Request, body)
    with pytest.raises(type(refused.value)) as told:
        read_ahead(body, lambda value: (value, []))
    assert str(told.value) == str(refused.value)


def test_what_is_read_ahead_and_wrong_is_refused_at_once() -> None:
    with pytest.raises(RequestValidationError) as refused:
        read_ahead(b"{}", lambda _: (None, [{"type": "missing", "loc": ("body", "a"), "msg": "m", "input": {}}]))
    assert [each["loc"] for each in refused.value.errors()] == [("body", "a")]


def names(count: int) -> bytes:
    return b"{" + b",".join(b'"n%d" :1' % at for at in range(count)) + b"}"


def test_a_million_names_are_refused_before_they_are_read() -> None:
    """As many as fit into the largest body took seconds in which nobody else was answered."""
    body = names(1_200_000)
    for operation, is_refused in (("ask_latency", True), ("submit_job", True), ("report_results", False)):
        began_s = time.thread_time()
        if is_refused:
            with pytest.raises(TooLarge, match=f"more than {MAX_NAMES} different names"):
                read_ahead(body, lambda value: (value, []), operation)
            assert time.thread_time() - began_s < 0.2
    few = names(MAX_NAMES + 1)
    assert len(few) < MANY_BYTES
    assert len(read_ahead(few, lambda value: (value, []), "ask_latency")) == MAX_NAMES + 1


def test_names_are_counted_once_and_values_are_none() -> None:
    often = b"[" + b",".join([names(MAX_NAMES)] * 3 + [b'"v%d"' % at for at in range(MAX_NAMES)]) + b"]"
    refuse_names(often)
    with pytest.raises(TooLarge):
        refuse_names(often + b'{"one more":1}')


texts = st.text(max_size=6)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values, st.sampled_from([None, 1]))
def test_the_names_that_are_counted_are_those_of_the_value(value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()
    found = {json.loads(b'"' + one[1] + b'"') for one in bodies._STRING.finditer(body) if one.lastindex == 2}
    assert found == names_of(value)


def names_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {*value}.union(*map(names_of, value.values()))
    return set().union(*map(names_of, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("piece", [b'"', b'"a', b'\\"', b'"\\', b'""', b'"a" "', b"\\", b'"\\\\"', b'":"'])
def test_a_text_that_is_no_json_is_looked_at_once(piece: bytes) -> None:
    """Whatever stands there: in two parts it takes about as long as in one."""
    for body in (piece * (2**20 // len(piece)), b'"' + piece * (2**20 // len(piece))):
        began_s = time.thread_time()
        refuse_names(body)
        assert time.thread_time() - began_s < 3
