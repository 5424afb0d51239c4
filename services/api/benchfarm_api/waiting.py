"""Waiting without a thread and without a connection: look, park until woken, look again."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from benchfarm_api.parts import Parts
from benchfarm_api.wakeups import Listener

T = TypeVar("T")


async def wait_for(
    request: Request,
    parts: Parts,
    channel: str,
    look: Callable[[], T],
    enough: Callable[[T], bool],
    wait_s: float,
) -> T:
    """What `look` finds, as soon as it is enough, or what it found last at the end of `wait_s`.

    Subscribes first, then looks, then waits. `look` blocks and runs in a thread. Ends early when the client is
    gone, for whom nothing is looked at any more, or the process stops.
    """
    wakeups = parts.wakeups
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    gone = asyncio.ensure_future(_client_gone(request))
    try:
        with wakeups.listen(channel) as listener:
            while True:
                listener.reset()
                found = await anyio.to_thread.run_sync(look, limiter=parts.waiting)
                left_s = until_s - loop.time()
                if enough(found) or left_s <= 0 or gone.done() or wakeups.closing:
                    return found
                heard = await park(listener, min(left_s, wakeups.look_again_s), gone)
                if gone.done() or (not heard and loop.time() >= until_s):
                    return found
    finally:
        gone.cancel()


async def park(listener: Listener, timeout_s: float, *or_until: "asyncio.Future[None]") -> bool:
    """Wait until the listener hears something, `timeout_s` is over or another future is done; True when heard."""
    heard = asyncio.ensure_future(listener.heard())
    try:
        await asyncio.wait((heard, *or_until), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return heard.done()
    finally:
        heard.cancel()


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
