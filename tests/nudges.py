"""What a worker says after its commits, where a test does the worker's part: who waits at the API hears of it at once,
instead of when it next looks by itself, up to half a minute later."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import redis

from benchfarm_core.messages import Message, Nudge


@contextmanager
def nudging(redis_url: str) -> Iterator[Callable[[Sequence[Message]], None]]:
    """A function for `Database(on_commit=...)`: nudges go to their channels, tasks to nobody."""
    with closing(redis.Redis.from_url(redis_url)) as valkey:

        def nudge(messages: Sequence[Message]) -> None:
            for message in messages:
                if isinstance(message, Nudge):
                    valkey.publish(message.channel, b"")

        yield nudge
