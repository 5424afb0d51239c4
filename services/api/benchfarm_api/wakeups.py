"""Waking the requests that wait: one Valkey subscription per process, one asyncio event per waiting request."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from benchfarm_api.metrics import Metrics
from benchfarm_core.messages import agent_channel, board_channel, job_channel

logger = logging.getLogger(__name__)

PATTERNS: Final = (agent_channel("*"), job_channel("*"), board_channel("*"))
LOOK_AGAIN_S: Final = 30.0
"""Waiters look in Postgres this often although nothing was heard, because a nudge may be lost."""
LOOK_AGAIN_DEAF_S: Final = 2.0
"""The same while Valkey is away."""
LONGEST_PAUSE_S: Final = 5.0


class Listener:
    """Hears one channel. Reset, look, wait: what comes between the look and the wait is not missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def reset(self) -> None:
        """Forget what was heard."""
        self._event.clear()

    def wake(self) -> None:
        """Something may have changed."""
        self._event.set()

    async def heard(self) -> None:
        """Return as soon as something may have changed."""
        await self._event.wait()


class Wakeups:
    """The process's ear. Lives on one event loop between `start` and `stop`."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        self._redis_url = redis_url
        self._metrics = metrics
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self.closing = False

    @property
    def look_again_s(self) -> float:
        """The longest time between two looks of a waiter."""
        return LOOK_AGAIN_S if self._connected else LOOK_AGAIN_DEAF_S

    async def start(self) -> None:
        """Subscribe in the background; an absent Valkey is no error."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._hear())

    async def stop(self) -> None:
        """Let all waiters go and end the subscription."""
        self.let_go()
        while self._task is not None and not self._task.done():
            # More than once: redis-py can swallow a cancellation that meets the opening of a connection.
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=0.2)

    @contextmanager
    def listen(self, channel: str) -> Iterator[Listener]:
        """A listener on a channel for the length of the block."""
        listener = Listener()
        self._listeners[channel].add(listener)
        try:
            yield listener
        finally:
            self._listeners[channel].discard(listener)
            if not self._listeners[channel]:
                del self._listeners[channel]

    def wake(self, channel: str) -> None:
        """Wake who listens to a channel; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, channel)

    def begin_closing(self) -> None:
        """Every waiting request answers now; from any thread or signal handler."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.let_go)

    def let_go(self) -> None:
        """Every waiting request answers now; on the loop only."""
        self.closing = True
        self._wake_all()

    def _wake(self, channel: str) -> None:
        for listener in self._listeners.get(channel, ()):
            listener.wake()

    def _wake_all(self) -> None:
        for channel in tuple(self._listeners):
            self._wake(channel)

    async def _hear(self) -> None:
        pause_s = 0.1
        while not self.closing:
            try:
                await self._subscribe()
            except (RedisError, OSError) as error:
                if self._connected or pause_s == 0.1:
                    logger.warning("Valkey is not heard; waiters look more often", extra={"error": str(error)})
                pause_s = 0.2 if self._connected else min(2 * pause_s, LONGEST_PAUSE_S)
            self._set_connected(connected=False)
            await asyncio.sleep(pause_s)

    async def _subscribe(self) -> None:
        """Hear until the connection breaks. What was said before we listened is lost, so all look once."""
        client = redis.asyncio.Redis.from_url(self._redis_url, health_check_interval=5, socket_connect_timeout=2)
        async with client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.psubscribe(*PATTERNS)
            for _ in PATTERNS:
                await pubsub.get_message(timeout=5)
            self._set_connected(connected=True)
            self._wake_all()
            while not self.closing:
                message = await pubsub.get_message(timeout=5)
                if message is not None:
                    self._wake(message["channel"].decode())

    def _set_connected(self, *, connected: bool) -> None:
        self._connected = connected
        self._metrics.wakeups_connected.set(connected)
