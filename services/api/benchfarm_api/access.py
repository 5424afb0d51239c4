"""Who calls, and whether he may: decided for every route in one place, before its body is read."""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from benchfarm_api.bodies import LARGE_BYTES, Checked, is_json, read_body, refuse_nul
from benchfarm_core.access import ACCESS, PUBLIC, Role, may
from benchfarm_core.errors import BenchfarmError, Forbidden, Unauthenticated
from benchfarm_store import tokens
from benchfarm_store.database import Database
from benchfarm_store.tokens import Caller

logger = logging.getLogger(__name__)

REMEMBER_S: Final = 1.0
"""A token that another process has revoked works for this long at most: a second look within it does not ask Postgres.
In the process that revokes it, it stops at once."""
REMEMBER_AGENTS_S: Final = 5.0
"""The same of the tokens of agents, which call every second."""
RENEWED_AFTER: Final = 0.5
"""Of that time: who calls later is let in by memory once more, and Postgres is asked meanwhile. Of many calls one after
the other none waits for it but the first."""
REMEMBER_TOKENS: Final = 10_000
WAITING: Final = frozenset({"poll_offers", "stream_job_events"})
"""Operations that come in great numbers and wait; they use the threads kept for looks of that kind."""


class _Remembered(NamedTuple):
    """A caller, when Postgres is asked again while he is let in, and until when he is; by `time.monotonic`."""

    caller: Caller
    renewed_s: float
    until_s: float


class Authenticator:
    """Token to caller. Remembers hashes of accepted tokens for a few seconds; refusals are never remembered, nor is
    what was read while a token was being revoked."""

    def __init__(self, database: Database, waiting: anyio.CapacityLimiter) -> None:
        self._database = database
        self._waiting = waiting
        self._remembered: dict[bytes, _Remembered] = {}
        self._renewing: dict[bytes, asyncio.Task[None]] = {}
        self._forgotten = 0
        self._remembering = threading.Lock()

    async def caller(self, token: str, *, waits: bool) -> Caller:
        """Whose token this is; `waits` when it comes with one of many requests that wait. Raises Unauthenticated."""
        known, now_s = self._remembered.get(_key(token)), time.monotonic()
        limiter = self._waiting if waits else None
        if known is None or now_s >= known.until_s:
            return await anyio.to_thread.run_sync(self._look, token, limiter=limiter)
        if now_s >= known.renewed_s and _key(token) not in self._renewing:
            self._renewing[_key(token)] = asyncio.create_task(self._renew(token, limiter))
        return known.caller

    async def _renew(self, token: str, limiter: anyio.CapacityLimiter | None) -> None:
        """Ask Postgres again. Where it is away what is remembered ends when it would have; a refusal ends it now."""
        try:
            await anyio.to_thread.run_sync(self._look, token, limiter=limiter)
        except Unauthenticated:
            self._remembered.pop(_key(token), None)
        except BenchfarmError:
            logger.info("a token was not looked at again: Postgres is away")
        finally:
            self._renewing.pop(_key(token), None)

    def forget(self, token_id: str) -> None:
        """A token was revoked: the next call with it asks Postgres."""
        with self._remembering:
            self._forgotten += 1
            for key, known in list(self._remembered.items()):
                if known.caller.token_id == token_id:
                    self._remembered.pop(key, None)

    def _look(self, token: str) -> Caller:
        forgotten = self._forgotten
        with self._database.transaction() as tx:
            caller = tokens.authenticate(tx, token)
        with self._remembering:
            if self._forgotten == forgotten:  # else it may have been this one, read before it was revoked
                self._remember(token, caller)
        return caller

    def _remember(self, token: str, caller: Caller) -> None:
        if len(self._remembered) >= REMEMBER_TOKENS:
            self._remembered.clear()
        remember_s = REMEMBER_AGENTS_S if caller.role == Role.AGENT else REMEMBER_S
        now_s = time.monotonic()
        self._remembered[_key(token)] = _Remembered(caller, now_s + RENEWED_AFTER * remember_s, now_s + remember_s)


async def authorise(request: Request, operation: str) -> Caller | None:
    """The caller of an operation; None where the route is public. Raises Unauthenticated, Forbidden."""
    if ACCESS.get(operation) == PUBLIC:
        return None
    token = _bearer(request)
    authenticator: Authenticator = request.app.state.authenticator
    caller = await authenticator.caller(token, waits=operation in WAITING)
    if not may(caller.role, operation):
        raise Forbidden(f"a token with role {caller.role} has no right to {operation}")
    return caller


class GuardedRoute(APIRoute):
    """A route that authorises by its operation id, and only then reads the body, up to its limit."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        has_body = self.body_field is not None
        check = self._check()

        async def guarded(request: Request) -> Response:
            request.state.caller = await authorise(request, self.name)
            refuse_nul(request)
            if not has_body:
                return await handle(request)
            read = await read_body(request, self.name)
            if check is not None and is_json(request) and len(await read.body()) > LARGE_BYTES:
                await read.read_ahead(self.name, check)
            return await handle(read)

        return guarded

    def _check(self) -> Checked | None:
        """What the framework does with a body's value. It does so again with what comes of it, which is what it must be
        and taken as it is. None where the value is not of the whole body."""
        field = self.body_field
        if field is None or [*self.dependant.body_params] != [field]:
            return None
        return partial(field.validate, loc=("body",))


async def caller_of(request: Request) -> Caller:
    """Who calls; only for routes that are not public."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


CallerDep = Annotated[Caller, Depends(caller_of)]


async def authenticator_of(request: Request) -> Authenticator:
    """The authenticator of the application that serves this request."""
    found = request.app.state.authenticator
    assert isinstance(found, Authenticator)
    return found


AuthenticatorDep = Annotated[Authenticator, Depends(authenticator_of)]


async def agent_id_of(caller: CallerDep) -> str:
    """The agent whose token this is. Raises Forbidden for an agent token without an agent."""
    if caller.agent_id is None:
        raise Forbidden("this token belongs to no enrolled agent; enrol first")
    return caller.agent_id


AgentIdDep = Annotated[str, Depends(agent_id_of)]


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("send a token: Authorization: Bearer <token>")
    return token.strip()
