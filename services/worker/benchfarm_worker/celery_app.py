"""The Celery application: every setting answers a failure that Celery on Redis is known for."""

from celery import Celery
from kombu import Exchange, Queue
from kombu.transport.redis import QoS

from benchfarm_core.messages import BROKER_PREFIX, QUEUES, Task, broker_url
from benchfarm_worker.settings import Settings

HARD_LIMIT_S = 60
TRAIN_LIMIT_S = 600
"""Of a task that trains; what it had done by then is in Postgres."""
ALIVE_S = 15.0


def create_celery(settings: Settings) -> Celery:
    """A configured application without tasks; `tasks.register` adds them."""
    # A broker that dies while a task runs: kombu would restore its message over the very connection that has gone, and
    # the error ends the worker. The message stays among the unacknowledged, and the sweep repeats what it asked for.
    QoS.restore_at_shutdown = False
    celery = Celery("benchfarm", broker=broker_url(settings.redis_url), set_as_current=False)
    celery.conf.update(_DELIVERY | _CONNECTION | _WORKER)
    # A queue without an exchange of its own is bound to the default one, and then gets every message.
    celery.conf.task_queues = [Queue(name, Exchange(name), routing_key=name) for name in dict.fromkeys(QUEUES.values())]
    celery.conf.task_routes = {task.value: {"queue": queue} for task, queue in QUEUES.items()}
    celery.conf.beat_schedule = _schedule(settings)
    return celery


_DELIVERY = {
    # State lives in Postgres; results that expire after a day would be a second truth.
    "task_ignore_result": True,
    "result_backend": None,
    # Early acknowledgement loses a task when its process dies; these tasks are claims and may run twice.
    "task_acks_late": True,
    # A task that kills its process would be redelivered for ever; the sweep repeats what is still due.
    "task_reject_on_worker_lost": False,
    # Pickle would run what anybody who reaches the broker sends.
    "task_serializer": "json",
    "accept_content": ["json"],
    # A name that nobody declared would make a queue that nobody reads.
    "task_create_missing_queues": False,
    "task_default_queue": QUEUES[Task.SWEEP],
    # An unacknowledged message comes back by wall clock while its first run may be alive: far above the
    # hard limit it never does. What is asked for ahead loops when it lies farther ahead than this: `AHEAD_MAX_S`.
    "broker_transport_options": {
        "visibility_timeout": 7200,
        # The shortest visibility timeout of any application on the broker wins: keep to our own keys.
        "global_keyprefix": BROKER_PREFIX,
        # Half-open connections after a broker reset leave a worker alive and silent; all default to none.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        "health_check_interval": 10,
        # Queues are read in turn, so that a burst in one does not starve the others.
        "queue_order_strategy": "round_robin",
    },
}

_CONNECTION = {
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Late-acknowledged tasks run twice after a connection loss; ending the first run makes that rarer.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    # Sending is best effort: the sweep repeats it, and the sender must not wait for a dead broker.
    "task_publish_retry": False,
    "broker_connection_timeout": 2,
}

_WORKER = {
    # One message at a time per process: a second one reserved behind a long one would wait with it.
    "worker_prefetch_multiplier": 1,
    "task_time_limit": HARD_LIMIT_S,
    "task_soft_time_limit": HARD_LIMIT_S - 10,
    # Without a soft shutdown SIGTERM breaks off what runs.
    "worker_soft_shutdown_timeout": 5,
    "worker_enable_soft_shutdown_on_idle": True,
    "worker_send_task_events": False,
    # The default scheduler keeps its state in a pickled file; these ticks need no memory.
    "beat_scheduler": "celery.beat:Scheduler",
    "beat_max_loop_interval": 1,
    "worker_hijack_root_logger": False,
    "worker_max_memory_per_child": 500_000,
    "enable_utc": True,
}


def _schedule(settings: Settings) -> dict[str, dict[str, object]]:
    """A tick that was not taken in time is worthless: a worker that comes back drops those that waited for it."""
    sweep = {
        "task": Task.SWEEP.value,
        "schedule": settings.benchfarm_sweep_s,
        "options": {"expires": settings.benchfarm_sweep_s, "queue": QUEUES[Task.SWEEP]},
    }
    alive = {
        f"alive-{queue}": {
            "task": Task.ALIVE.value,
            "schedule": ALIVE_S,
            "options": {"expires": ALIVE_S, "queue": queue},
        }
        for queue in QUEUES.values()
    }
    return {"sweep": sweep, **alive}
