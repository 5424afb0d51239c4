"""Reading JSON bodies: counted, up to a limit per route, before anything parses them; large ones in a thread."""

import json
import re
from collections.abc import Callable
from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.types import Message

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.latency import MAX_ITEMS, MAX_QUESTION_BYTES
from benchfarm_core.pool_files import MAX_POOL_BYTES

MAX_OBJECTS: Final = 400_000
"""JSON objects of a question, of which a listed kernel is two: each takes a hundred times its brackets in memory."""
MAX_LISTS: Final = 400_000
"""JSON lists of a question: an empty one takes twenty times its brackets."""
LARGE_BYTES: Final = 256 * 2**10
"""Above this a body is read and held to its fields in a thread: others are answered meanwhile."""
MANY_BYTES: Final = 6 * 2**20
"""Above this a body's names are looked at before it is read: up to it as many as fit in take no longer to be read than
the largest question of few."""
MAX_NAMES: Final = 10_000
"""Different names in such a question or job: kernels and spaces have a few hundred, a pin as many as platforms. A
million take seconds in which nobody else is answered."""
FEW_NAMES: Final = frozenset({"ask_latency", "submit_job"})
"""Routes, by operation id, whose bodies are held to that."""
_STRING: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)(?:"[ \t\r\n]*+(:)?|\\?\Z)', re.DOTALL)
"""A text of JSON, and the colon behind it, which a name has. One that never ends goes to the end, so that each byte is
looked at once, whatever the bytes are."""
_IS_NAME: Final = 2
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
"""A NUL as JSON spells it: behind an even number of backslashes, which stand for half as many of themselves."""

BODY_LIMIT_BYTES: Final = 8 * 2**20
BODY_LIMITS_BYTES: Final = {
    **dict.fromkeys(("report_results", "finish_lease", "import_bundle"), 32 * 2**20),
    "import_measurement_set": 12 * 2**20,
    "import_pool": MAX_POOL_BYTES,
    "ask_latency": MAX_QUESTION_BYTES,
}
"""Routes, by operation id, whose bodies may be larger."""
FILES: Final = frozenset({"import_pool"})
"""Routes whose bodies are no JSON."""


Checked = Callable[[Any], tuple[Any, list[Any]]]
"""From a body's value to what a route takes it for, or to what is wrong with it."""


class ReadRequest(Request):
    """A request with its body in memory."""

    _ahead: Callable[[], Any] | None = None

    async def json(self) -> Any:
        """The body's value. What was read ahead is what the route takes it for."""
        if self._ahead is not None:
            return self._ahead()
        return _value(await self.body())

    async def read_ahead(self, operation: str, check: Checked) -> None:
        """Read the body, and hold it to the route's fields, in a thread.

        Raises TooLarge for one of too many different names, RequestValidationError for one that is not what the route
        takes. One that is no JSON is refused when it is asked for, as by every other request.
        """
        body = await self.body()
        if operation in FEW_NAMES and len(body) > MANY_BYTES:
            await run_in_threadpool(refuse_names, body)
        self._ahead = await run_in_threadpool(_checked, body, check)


def _value(body: bytes) -> Any:
    """In two thirds of the time. What this reader does not take, half a surrogate pair or UTF-16 among it, is read, or
    refused, as by every other request."""
    try:
        return from_json(body)
    except ValueError:
        return json.loads(body)


def _checked(body: bytes, check: Checked) -> Callable[[], Any]:
    try:
        given = _value(body)
    except (ValueError, RecursionError) as error:
        return _raising(error)
    value, errors = check(given)
    if errors:
        raise RequestValidationError(errors)
    return lambda: value


def _raising(error: Exception) -> Callable[[], Any]:
    def refuse() -> Any:
        raise error

    return refuse


def refuse_names(body: bytes) -> None:
    """Raise TooLarge for more than `MAX_NAMES` different names in a JSON text, one spelt in two ways being two."""
    found: set[bytes] = set()
    for one in _STRING.finditer(body):  # whoever else has something to do gets his turn between two of them
        if one.lastindex == _IS_NAME:
            found.add(one[1])
            if len(found) > MAX_NAMES:
                detail = f"the body has more than {MAX_NAMES} different names: no kernel and no space has so many"
                raise TooLarge(detail)


async def read_body(request: Request, operation: str) -> ReadRequest:
    """The same request with its body in memory. Raises TooLarge, InvalidRequest."""
    limit_bytes = BODY_LIMITS_BYTES.get(operation, BODY_LIMIT_BYTES)
    refuse_announced(request, limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    # a NUL itself is in no JSON but that of 16 or 32 bits, in which `\u0000` would not be found
    if (
        operation not in FILES
        and not _is_other(request)
        and ((b"\\u0000" in body and _NUL.search(body)) or b"\0" in body)
    ):
        raise _nul()
    if operation == "ask_latency" and body.count(b"{") > MAX_OBJECTS:
        detail = (
            f"the question has more than {MAX_OBJECTS} JSON objects (items, their genes or configurations, listed"
            f" kernels; at most {MAX_ITEMS} items): ask in several"
        )
        raise TooLarge(detail, field="items")
    if operation == "ask_latency" and body.count(b"[") > MAX_LISTS:
        raise TooLarge(f"the question has more than {MAX_LISTS} JSON lists: ask in several", field="items")
    return _replay(request, bytes(body))


def _is_other(request: Request) -> bool:
    """Whether a request says that its body is something else, which is refused as that and read by nobody."""
    return bool(request.headers.get("Content-Type")) and not is_json(request)


def is_json(request: Request) -> bool:
    """Whether a request says that its body is JSON."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def refuse_announced(request: Request, limit_bytes: int) -> None:
    """Raise TooLarge when Content-Length is above the limit: nothing of the body needs to come."""
    announced = request.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)


def refuse_nul(request: Request) -> None:
    """Raise InvalidRequest for a NUL in path or query: Postgres keeps none in texts."""
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        raise _nul()


def _replay(request: Request, body: bytes) -> ReadRequest:
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await request.receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return ReadRequest(request.scope, receive)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is above the limit of {limit_bytes} bytes")


def _nul() -> InvalidRequest:
    return InvalidRequest("the request holds a NUL character")
