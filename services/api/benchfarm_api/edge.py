"""The outermost layer: a request id in and out, one log line and one metric per request, and the last boundary."""

import logging
import re
import secrets
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchfarm_api import errors
from benchfarm_api.metrics import Metrics
from benchfarm_core.errors import BenchfarmError
from benchfarm_core.log import context

logger = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Edge:
    """ASGI middleware. Not built on Starlette's own base class, which would buffer event streams."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        bound = context.set({"request_id": exchange.request_id})
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            logger.info("the client went away")
        except Exception:  # boundary: the HTTP edge; the log has the trace, the caller the request id
            logger.exception("a fault of the farm")
            if exchange.status is not None:
                raise
            fault = BenchfarmError("a fault of the farm; its log has the details under the request id")
            await errors.answer(fault, exchange.request_id)(scope, receive, exchange.send)
        finally:
            self._record(exchange)
            context.reset(bound)

    def _record(self, exchange: "_Exchange") -> None:
        route = exchange.scope.get("route")
        operation = getattr(route, "name", "none")
        elapsed_s = time.perf_counter() - exchange.started_s
        status = exchange.status or 499
        self._metrics.requests.labels(operation, str(status)).inc()
        self._metrics.request_s.labels(operation).observe(elapsed_s)
        logger.info(
            "request",
            extra={
                "operation": operation,
                "method": exchange.scope["method"],
                "status": status,
                "elapsed_ms": round(elapsed_s * 1000, 1),
            },
        )


class _Exchange:
    """One request and what is known of its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.started_s = time.perf_counter()
        self.status: int | None = None
        self.request_id = _request_id(scope)
        self._send = send
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        await self._send(message)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
