"""Sends what a transaction collected, after its commit. Best effort: the sweep repairs what is lost."""

import logging
from collections.abc import Callable, Sequence

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from benchfarm_core.messages import BACKLOG_LIMIT, BROKER_PREFIX, QUEUES, Message, Nudge, TaskMessage

logger = logging.getLogger(__name__)


def sender(celery: Celery, redis_url: str) -> Callable[[Sequence[Message]], None]:
    """A function for `Database(on_commit=...)`: tasks go to Celery, nudges to a channel."""
    channel = redis.Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1)

    def send(messages: Sequence[Message]) -> None:
        wanted = list(dict.fromkeys(messages))
        try:
            full = {queue for queue in _queues(wanted) if channel.llen(BROKER_PREFIX + queue) >= BACKLOG_LIMIT}
            for message in wanted:
                if isinstance(message, Nudge):
                    channel.publish(message.channel, b"")
                elif QUEUES[message.task] not in full:
                    _send(celery, message)
            if full:
                logger.warning("hints not sent, nobody reads their queue", extra={"queues": sorted(full)})
        except (redis.RedisError, OperationalError, OSError) as error:
            logger.warning("hints not sent, the sweep repeats them", extra={"error": str(error)})

    return send


def _send(celery: Celery, message: TaskMessage) -> None:
    queue = QUEUES[message.task]
    name, after_s = message.task.value, message.after_s or None
    celery.send_task(name, args=message.args, queue=queue, expires=message.expires_s, countdown=after_s)


def _queues(messages: Sequence[Message]) -> set[str]:
    return {QUEUES[message.task] for message in messages if not isinstance(message, Nudge)}
