"""Hints after a commit: tasks to Celery, nudges to a channel. Sent by a thread of their own, off the request path."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from benchfarm_api.metrics import Metrics
from benchfarm_core.messages import BACKLOG_LIMIT, BROKER_PREFIX, QUEUES, Message, Nudge, broker_url

logger = logging.getLogger(__name__)

WAITING_LIMIT: Final = 10_000
TIMEOUT_S: Final = 1.0


class _NobodyReads(Exception):
    """More hints wait than any worker leaves standing."""


class HintSender:
    """Best effort within 100 ms while the broker is there. Never blocks and never raises: the sweep repairs losses.

    `wake_here` is called with the channel of a nudge that could not be published, so that at least the waiting
    requests of this very process look again.
    """

    def __init__(self, redis_url: str, metrics: Metrics, wake_here: Callable[[str], None]) -> None:
        self._celery = _producer(redis_url)
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._metrics = metrics
        self._wake_here = wake_here
        self._waiting: queue.Queue[Message | None] = queue.Queue(WAITING_LIMIT)
        self._away = False
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def close(self) -> None:
        """Send what waits, then end; gives up after a few seconds."""
        try:
            self._waiting.put(None, timeout=TIMEOUT_S)
        except queue.Full:
            logger.warning("hints are dropped at the end", extra={"waiting": WAITING_LIMIT})
        self._thread.join(timeout=5 * TIMEOUT_S)
        self._celery.close()
        self._redis.close()

    def __call__(self, messages: Sequence[Message]) -> None:
        """Take messages for sending; a full queue drops them."""
        for message in messages:
            try:
                self._waiting.put_nowait(message)
            except queue.Full:
                self._metrics.hints_lost.inc()

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            try:
                self._send(message)
            except (redis.RedisError, OperationalError, OSError, _NobodyReads) as error:
                self._lost(message, error)
            else:
                self._away = False
                self._metrics.hints_sent.inc()

    def _send(self, message: Message) -> None:
        if isinstance(message, Nudge):
            self._redis.publish(message.channel, b"")
            return
        queue_name = QUEUES[message.task]
        if self._redis.llen(BROKER_PREFIX + queue_name) >= BACKLOG_LIMIT:
            raise _NobodyReads(f"nobody reads the queue {queue_name}")
        name, after_s = message.task.value, message.after_s or None
        self._celery.send_task(name, args=message.args, queue=queue_name, expires=message.expires_s, countdown=after_s)

    def _lost(self, message: Message, error: Exception) -> None:
        self._metrics.hints_lost.inc()
        if isinstance(message, Nudge):
            self._wake_here(message.channel)
        if not self._away:
            # Once per outage: a log line per lost hint would say nothing new.
            logger.warning("hints are not sent, the sweep repeats them", extra={"error": str(error)})
        self._away = True


def _producer(redis_url: str) -> Celery:
    """Celery as a sender only; key prefix and serializer are those of the workers."""
    celery = Celery("benchfarm", broker=broker_url(redis_url), set_as_current=False)
    celery.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        task_publish_retry=False,
        broker_connection_timeout=TIMEOUT_S,
        broker_transport_options={
            "global_keyprefix": BROKER_PREFIX,
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
        },
    )
    return celery
