"""The settings that stand between the farm and what Celery on Redis is known for."""

import pytest
import redis

from benchfarm_core.messages import QUEUES, Task
from benchfarm_core.refreshing import MADE_WITHIN_S
from benchfarm_worker.celery_app import HARD_LIMIT_S, TRAIN_LIMIT_S, create_celery
from benchfarm_worker.settings import Settings
from benchfarm_worker.tasks import register


@pytest.fixture
def settings() -> Settings:
    return Settings(database_url="postgresql://nowhere/x", redis_url="unix:///nowhere/kv.sock?db=2")


def test_nothing_is_ever_pickled_and_no_result_is_kept(settings: Settings) -> None:
    conf = create_celery(settings).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result
    assert conf.result_backend is None
    assert conf.beat_scheduler == "celery.beat:Scheduler"  # the default one pickles its state into a file


def test_no_message_comes_back_while_its_first_run_can_be_alive(settings: Settings) -> None:
    conf = create_celery(settings).conf
    assert conf.broker_transport_options["visibility_timeout"] > 10 * HARD_LIMIT_S
    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1


def test_whoever_trains_is_ended_before_a_version_would_count_as_made_later() -> None:
    assert TRAIN_LIMIT_S <= MADE_WITHIN_S


def test_a_dead_connection_is_noticed(settings: Settings) -> None:
    options = create_celery(settings).conf.broker_transport_options
    assert options["socket_keepalive"]
    assert 0 < options["health_check_interval"] <= 15
    assert options["socket_timeout"]
    assert options["socket_connect_timeout"]


def test_every_task_has_a_queue_and_every_tick_expires(settings: Settings) -> None:
    celery = create_celery(settings)
    register(celery, settings)
    ours = {name for name in celery.tasks if name.startswith("benchfarm.")}
    assert ours == {task.value for task in Task}
    assert {queue.name for queue in celery.conf.task_queues} == set(QUEUES.values())
    for entry in celery.conf.beat_schedule.values():
        assert 0 < entry["options"]["expires"] <= entry["schedule"]
        assert entry["options"]["queue"] in QUEUES.values()
        assert "eta" not in entry["options"]
        assert "countdown" not in entry["options"]
    alive = [entry for entry in celery.conf.beat_schedule.values() if entry["task"] == Task.ALIVE.value]
    assert {entry["options"]["queue"] for entry in alive} == set(QUEUES.values())


def test_a_message_reaches_its_own_queue_and_no_other(redis_url: str) -> None:
    celery = create_celery(Settings(database_url="postgresql://nowhere/x", redis_url=redis_url))
    with celery.connection_for_write() as connection:
        for queue in celery.conf.task_queues:
            queue(connection.default_channel).declare()
        celery.send_task(Task.DISPATCH.value, args=("b_1",), queue=QUEUES[Task.DISPATCH], connection=connection)
    with redis.Redis.from_url(redis_url) as server:
        waiting = {name: server.llen(f"benchfarm:{name}") for name in QUEUES.values()}
    assert waiting == {name: int(name == QUEUES[Task.DISPATCH]) for name in QUEUES.values()}


def test_planning_never_shares_a_queue_with_dispatch() -> None:
    assert QUEUES[Task.PLAN_JOB] != QUEUES[Task.DISPATCH]
