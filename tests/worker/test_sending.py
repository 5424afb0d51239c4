"""Hints of the worker itself: each once, none into a queue that nobody reads."""

import pytest
import redis

from benchfarm_core.messages import BACKLOG_LIMIT, QUEUES, Task, TaskMessage
from benchfarm_worker.celery_app import create_celery
from benchfarm_worker.sending import sender
from benchfarm_worker.settings import Settings


def test_a_queue_that_nobody_reads_takes_no_more(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    celery = create_celery(Settings(database_url="postgresql://nowhere/x", redis_url=redis_url))
    send = sender(celery, redis_url)
    messages = [TaskMessage(task=task, args=("x",)) for task in (Task.DISPATCH, Task.PLAN_JOB)]
    with redis.Redis.from_url(redis_url) as broker:
        broker.rpush("benchfarm:dispatch", *["{}"] * (BACKLOG_LIMIT - 1))
        for _ in range(2):
            send(messages + messages)
        assert broker.llen("benchfarm:" + QUEUES[Task.DISPATCH]) == BACKLOG_LIMIT
        assert broker.llen("benchfarm:" + QUEUES[Task.PLAN_JOB]) == 2
    assert "nobody reads" in caplog.text
    celery.close()
