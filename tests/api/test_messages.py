"""Hints after a commit: they reach the broker soon, in the form that workers read, and their loss harms nobody."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest
import redis

from benchfarm_api.messages import HintSender
from benchfarm_api.metrics import create_metrics
from benchfarm_core.messages import BACKLOG_LIMIT, QUEUES, Nudge, Task, TaskMessage
from benchfarm_worker.celery_app import create_celery
from benchfarm_worker.settings import Settings as WorkerSettings


def test_a_worker_reads_what_is_sent(redis_url: str, eventually: Callable[..., None]) -> None:
    hints = HintSender(redis_url, create_metrics(), lambda channel: None)
    hints.start()
    sent_s = time.monotonic()
    hints([TaskMessage(task=Task.PLAN_JOB, args=("job-1",))])
    celery = create_celery(WorkerSettings(database_url="postgresql://nowhere", redis_url=redis_url))
    with celery.connection_for_read() as connection, connection.SimpleQueue(QUEUES[Task.PLAN_JOB]) as queue:
        message = queue.get(timeout=5)
        assert time.monotonic() - sent_s < 1
        assert message.headers["task"] == "benchfarm.plan_job"
        assert message.payload[0] == ["job-1"]
        message.ack()
    hints.close()
    celery.close()


def test_what_is_asked_for_ahead_says_when(redis_url: str) -> None:
    hints = HintSender(redis_url, create_metrics(), lambda channel: None)
    hints.start()
    hints([TaskMessage(task=Task.DISPATCH, after_s=30), TaskMessage(task=Task.SWEEP)])
    hints.close()
    with redis.Redis.from_url(redis_url) as valkey:
        told = [valkey.lrange(f"benchfarm:{QUEUES[task]}", 0, -1) for task in (Task.DISPATCH, Task.SWEEP)]
    ahead, at_once = (json.loads(message)["headers"]["eta"] for (message,) in told)
    assert 20 < (datetime.fromisoformat(ahead) - datetime.now(UTC)).total_seconds() <= 30
    assert at_once is None


def test_every_queue_gets_its_own_messages_only(redis_url: str) -> None:
    hints = HintSender(redis_url, create_metrics(), lambda channel: None)
    hints.start()
    hints([TaskMessage(task=task) for task in QUEUES])
    hints.close()
    with redis.Redis.from_url(redis_url) as valkey:
        assert [valkey.llen(f"benchfarm:{queue}") for queue in QUEUES.values()] == [1] * len(QUEUES)


def test_a_queue_that_nobody_reads_takes_no_more(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    metrics = create_metrics()
    hints = HintSender(redis_url, metrics, lambda channel: None)
    with redis.Redis.from_url(redis_url) as valkey:
        valkey.rpush("benchfarm:plan", *["{}"] * BACKLOG_LIMIT)
        hints.start()
        hints([TaskMessage(task=Task.PLAN_JOB), TaskMessage(task=Task.DISPATCH)])
        hints.close()
        assert valkey.llen("benchfarm:plan") == BACKLOG_LIMIT
        assert valkey.llen("benchfarm:dispatch") == 1
    assert metrics.registry.get_sample_value("benchfarm_api_hints_lost_total") == 1
    assert "hints are not sent" in caplog.text


def test_a_nudge_is_published(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as valkey, valkey.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("benchfarm:agent:a_1")
        pubsub.get_message(timeout=5)
        hints = HintSender(redis_url, create_metrics(), lambda channel: None)
        hints.start()
        hints([Nudge(channel="benchfarm:agent:a_1")])
        assert pubsub.get_message(timeout=5) is not None
        hints.close()


def test_a_lost_nudge_wakes_at_least_this_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    woken: list[str] = []
    done = Event()

    def wake(channel: str) -> None:
        woken.append(channel)
        if len(woken) == 3:
            done.set()

    metrics = create_metrics()
    hints = HintSender(f"unix://{tmp_path}/kv.sock?db=0", metrics, wake)
    hints.start()
    began_s = time.monotonic()
    hints([TaskMessage(task=Task.SWEEP), *(Nudge(channel=f"benchfarm:job:{n}") for n in range(3))])
    assert time.monotonic() - began_s < 0.05
    assert done.wait(10)
    hints.close()
    assert metrics.registry.get_sample_value("benchfarm_api_hints_lost_total") == 4
    assert caplog.text.count("hints are not sent") == 1
