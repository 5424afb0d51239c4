"""Hints of the worker itself: each once, none into a queue that nobody reads."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import redis

from benchfarm_core.messages import BACKLOG_LIMIT, QUEUES, TRAIN_EXPIRES_S, Task, TaskMessage, TrainingWork
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


@pytest.mark.parametrize("work", TrainingWork)
def test_what_the_trainer_does_not_begin_in_time_is_dropped(redis_url: str, work: TrainingWork) -> None:
    """It trains for minutes, and the sweep asks again and again."""
    celery = create_celery(Settings(database_url="postgresql://nowhere/x", redis_url=redis_url))
    sender(celery, redis_url)([TaskMessage(task=Task.TRAIN, args=(work, "x")), TaskMessage(task=Task.DISPATCH)])
    celery.close()

    def expires(queue: str) -> str | None:
        with redis.Redis.from_url(redis_url) as broker:
            (message,) = broker.lrange("benchfarm:" + queue, 0, -1)
        found: str | None = json.loads(message)["headers"]["expires"]
        return found

    told = expires(QUEUES[Task.TRAIN])
    assert told is not None
    left = datetime.fromisoformat(told) - datetime.now(UTC)
    assert timedelta(0) < left <= timedelta(seconds=TRAIN_EXPIRES_S[work])
    assert expires(QUEUES[Task.DISPATCH]) is None


def test_what_is_asked_for_ahead_says_when(redis_url: str) -> None:
    celery = create_celery(Settings(database_url="postgresql://nowhere/x", redis_url=redis_url))
    sender(celery, redis_url)([TaskMessage(task=Task.DISPATCH, args=("x",), after_s=30), TaskMessage(task=Task.SWEEP)])
    celery.close()

    def after_s(queue: str) -> float | None:
        with redis.Redis.from_url(redis_url) as broker:
            (message,) = broker.lrange("benchfarm:" + queue, 0, -1)
        found: str | None = json.loads(message)["headers"]["eta"]
        return None if found is None else (datetime.fromisoformat(found) - datetime.now(UTC)).total_seconds()

    assert after_s(QUEUES[Task.DISPATCH]) == pytest.approx(30, abs=10)
    assert after_s(QUEUES[Task.SWEEP]) is None
