"""Server-sent events: one reader's place in a growing list, taken up again where it broke."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from random import uniform
from typing import Final, NamedTuple

import anyio.to_thread
from fastapi import Request

from benchfarm_api.access import authorise
from benchfarm_api.parts import Parts
from benchfarm_api.waiting import park
from benchfarm_api.wakeups import Listener
from benchfarm_core.errors import BenchfarmError

AUTHORISE_S: Final = 3.0
"""A busy stream goes on for this long at most with a token that was revoked, a silent one until its next comment."""
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Found(NamedTuple):
    """What a look brought: the events as text, whether more lie behind them, and whether no more can come."""

    texts: Sequence[str]
    has_more: bool
    is_over: bool


def event_text(id_: object, kind: str, data: str) -> str:
    """One event as it travels. `data`: JSON in one line."""
    return f"id: {id_}\nevent: {kind}\ndata: {data}\n\n"


async def look(parts: Parts, looks: Callable[[], Found]) -> Found:
    """One look, which blocks, in a thread of those that wait."""
    return await anyio.to_thread.run_sync(looks, limiter=parts.waiting)


async def stream(
    request: Request, parts: Parts, *, route: str, channel: str, looks: Callable[[], Found]
) -> AsyncIterator[str]:
    """The events as they come, with comments as signs of life; `looks` brings the next ones and remembers its place.

    A client that goes away cancels it; a farm in trouble ends it, and the client comes back.
    """
    reader = _Reader(request, parts, route)
    wakeups = parts.wakeups
    until_s = _now_s() + parts.settings.benchfarm_longest_stream_s
    with parts.metrics.open_streams.track_inprogress(), wakeups.listen(channel) as listener:
        while _now_s() < until_s and not wakeups.closing:
            listener.reset()
            try:
                await reader.authorise_when_due()
                found = await look(parts, looks)
                for text in found.texts:
                    yield text
                if found.is_over:
                    return
                if not found.has_more:
                    async for sign in reader.signs_of_life(listener, until_s):
                        yield sign
            except BenchfarmError:
                return


class _Reader:
    """Who reads, and until when that was last found to be right."""

    def __init__(self, request: Request, parts: Parts, route: str) -> None:
        self._request = request
        self._parts = parts
        self._route = route
        self._authorised_until_s = 0.0

    async def authorise_when_due(self) -> None:
        """Look at the token again when that is due, however busy the stream is. Raises Unauthenticated."""
        if _now_s() >= self._authorised_until_s:
            await authorise(self._request, self._route)
            self._authorised_until_s = _now_s() + _about(AUTHORISE_S)

    async def signs_of_life(self, listener: Listener, until_s: float) -> AsyncIterator[str]:
        """A comment from time to time until something is heard or looking again is due. Raises Unauthenticated."""
        look_s = min(until_s, _now_s() + _about(self._parts.wakeups.look_again_s))
        while (left_s := look_s - _now_s()) > 0 and not self._parts.wakeups.closing:
            if await park(listener, min(_about(self._parts.settings.benchfarm_heartbeat_s), left_s)):
                return
            await self.authorise_when_due()
            yield ": alive\n\n"


def _about(limit_s: float) -> float:
    """A part left to chance: streams that began together do not all look, or ask for their rights, at once."""
    return limit_s * uniform(0.6, 1.0)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
