"""Reading JSON bodies: counted, up to a limit per route, before anything parses them."""

from typing import Any, Final

from fastapi import Request
from pydantic_core import from_json
from starlette.types import Message

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.latency import MAX_ITEMS, MAX_QUESTION_BYTES
from benchfarm_core.pool_files import MAX_POOL_BYTES

MAX_OBJECTS: Final = 400_000
"""JSON objects of a question, of which a listed kernel is two: each takes a hundred times its brackets in memory."""
MAX_LISTS: Final = 400_000
"""JSON lists of a question: an empty one takes twenty times its brackets."""
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


class ReadRequest(Request):
    """A request with its body in memory."""

    async def json(self) -> Any:
        """The body's value, in two thirds of the time. What this reader does not take, half a surrogate pair or UTF-16
        among it, is read, or refused, as by every other request."""
        try:
            return from_json(await self.body())
        except ValueError:
            return await super().json()


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
    if operation not in FILES and (b"\\u0000" in body or b"\0" in body):
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
