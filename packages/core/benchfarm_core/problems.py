"""Error answers (problem+json, RFC 9457) as errors again, for SDK and agent: the same class on both ends."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from benchfarm_core import errors
from benchfarm_core.errors import (
    BenchfarmError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpgradeRequired,
)

DEFAULT_RETRY_AFTER_S: Final = 60

STATUS_ERRORS: Final[dict[int, type[BenchfarmError]]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: InvalidRequest,
    409: Conflict,
    410: NotFound,
    413: TooLarge,
    415: InvalidRequest,
    422: InvalidRequest,
    426: UpgradeRequired,
    429: QuotaExceeded,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Unavailable,
}


def error_from(status: int, body: bytes, headers: Mapping[str, str]) -> BenchfarmError:
    """The error that an answer with a status from 400 stands for.

    The class follows from the code where the code belongs to one class, else from the status. Answers of something
    other than the farm (a proxy's HTML page) become an error too, with the status in its text.
    """
    problem = _problem(body)
    code = str(problem.get("code") or "")
    detail = str(problem.get("detail") or problem.get("title") or f"the farm answered {status} without a reason")
    error = _instance(_class_of(code, status), detail, problem, headers)
    error.code = code or error.code
    error.field = _text(problem.get("field"))
    error.request_id = _text(problem.get("request_id")) or headers.get("x-request-id")
    return error


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header; None where it is absent or a date, which the farm never sends."""
    text = headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


_CLASS_OF_CODE: Final[dict[str, type[BenchfarmError]]] = {
    kind.default_code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BenchfarmError)
}


def _class_of(code: str, status: int) -> type[BenchfarmError]:
    by_status = STATUS_ERRORS.get(status)
    if by_status is None:
        by_status = InvalidRequest if status < 500 else BenchfarmError
    return _CLASS_OF_CODE.get(code, by_status)


def _instance(
    kind: type[BenchfarmError], detail: str, problem: Mapping[str, Any], headers: Mapping[str, str]
) -> BenchfarmError:
    if issubclass(kind, QuotaExceeded):
        limit = problem.get("limit")
        seconds = retry_after_s(headers)
        return kind(
            detail,
            limit=limit if isinstance(limit, int) else 0,
            retry_after_s=DEFAULT_RETRY_AFTER_S if seconds is None else int(seconds),
        )
    return kind(detail)


def _problem(body: bytes) -> Mapping[str, Any]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):  # not JSON: something before the farm answered
        return {}
    return problem if isinstance(problem, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
