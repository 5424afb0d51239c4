"""Every error that the farm can answer with arrives as the class that it raised."""

import json
from collections.abc import Iterator

import pytest

from benchfarm_api.errors import STATUS, answer
from benchfarm_core import errors
from benchfarm_core.error_codes import ERROR_CODES
from benchfarm_core.errors import BenchfarmError, QuotaExceeded
from benchfarm_core.problems import STATUS_ERRORS, error_from


def error_classes() -> Iterator[type[BenchfarmError]]:
    pending: list[type[BenchfarmError]] = [BenchfarmError]
    while pending:
        kind = pending.pop()
        if kind.__module__ == errors.__name__:
            yield kind
        pending.extend(kind.__subclasses__())


def raised(kind: type[BenchfarmError], code: str | None = None) -> BenchfarmError:
    if issubclass(kind, QuotaExceeded):
        return kind("too many", limit=7, retry_after_s=42, code=code)
    return kind("a reason", code=code, field="workloads.0")


@pytest.mark.parametrize("kind", list(error_classes()))
def test_every_class_survives_the_wire(kind: type[BenchfarmError]) -> None:
    sent = raised(kind)
    response = answer(sent, "r-1")
    received = error_from(response.status_code, bytes(response.body), response.headers)
    assert type(received) is kind
    assert (received.detail, received.code, received.field) == (sent.detail, sent.code, sent.field)
    assert received.request_id == "r-1"


def test_quota_says_its_limit_and_when_to_come_again() -> None:
    response = answer(raised(QuotaExceeded), "r")
    received = error_from(429, bytes(response.body), response.headers)
    assert isinstance(received, QuotaExceeded)
    assert (received.limit, received.retry_after_s) == (7, 42)


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_every_code_is_kept(code: str) -> None:
    body = json.dumps({"code": code, "detail": "x"}).encode()
    assert error_from(422, body, {}).code == code


def test_every_status_of_the_farm_is_known() -> None:
    assert {status for status in STATUS.values() if status != 500} <= set(STATUS_ERRORS)


@pytest.mark.parametrize("pause", ["9" * 400, "\u00b2", "Sat, 21 Nov 2026 16:00:00 GMT", "-1"])
def test_what_is_no_answer_of_the_farm_becomes_an_error_too(pause: str) -> None:
    assert isinstance(error_from(429, b"[" * 100_000, {"retry-after": pause}), QuotaExceeded)
    assert isinstance(error_from(502, b"\xff<html>", {}), errors.Unavailable)


def test_a_code_of_a_newer_farm_is_kept_and_its_status_decides() -> None:
    received = error_from(409, b'{"code": "code_of_tomorrow", "detail": "x"}', {})
    assert type(received) is errors.Conflict
    assert received.code == "code_of_tomorrow"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, errors.NotFound), (502, errors.Unavailable), (500, BenchfarmError), (418, errors.InvalidRequest)],
)
@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[1]", b'"text"', b"\xff\xfe"])
def test_answers_of_something_else_become_errors_too(status: int, kind: type[BenchfarmError], body: bytes) -> None:
    received = error_from(status, body, {"x-request-id": "from-header"})
    assert type(received) is kind
    assert str(status) in received.detail
    assert received.request_id == "from-header"
