"""Reading JSON bodies: counted, up to a limit per route, before anything parses them."""

from typing import Final

from fastapi import Request
from starlette.types import Message

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.latency import MAX_ITEMS, MAX_QUESTION_BYTES
from benchfarm_core.pool_files import MAX_POOL_BYTES

MAX_OBJECTS: Final = 400_000
"""JSON objects of a question, of which a listed kernel is two: each takes a hundred times its brackets in memory."""
BODY_LIMIT_BYTES: Final = 8 * 2**20
BODY_LIMITS_BYTES: Final = {
    **dict.fromkeys(("report_results", "finish_lease", "import_bundle"), 32 * 2**20),
    "import_measurement_set": 12 * 2**20,
    "import_pool": MAX_POOL_BYTES,
    "ask_latency": MAX_QUESTION_BYTES,
}
"""Routes, by operation id, whose bodies may be larger."""


async def read_body(request: Request, operation: str) -> Request:
    """The same request with its body in memory. Raises TooLarge, InvalidRequest."""
    limit_bytes = BODY_LIMITS_BYTES.get(operation, BODY_LIMIT_BYTES)
    refuse_announced(request, limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    if b"\\u0000" in body:
        raise _nul()
    if operation == "ask_latency" and body.count(b"{") > MAX_OBJECTS:
        detail = (
            f"the question has more than {MAX_OBJECTS} JSON objects (items, their genes or configurations, listed"
            f" kernels; at most {MAX_ITEMS} items): ask in several"
        )
        raise TooLarge(detail, field="items")
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


def _replay(request: Request, body: bytes) -> Request:
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await request.receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is above the limit of {limit_bytes} bytes")


def _nul() -> InvalidRequest:
    return InvalidRequest("the request holds a NUL character")
