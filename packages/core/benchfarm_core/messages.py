"""Hints between processes: names of tasks, queues and channels. Postgres is the truth; these may be lost."""

from enum import StrEnum
from typing import Final

from pydantic import Field

from benchfarm_core.values import Value


class Task(StrEnum):
    """Celery tasks by name. Each carries ids only and is safe to run twice."""

    PLAN_JOB = "benchfarm.plan_job"
    DISPATCH = "benchfarm.dispatch"
    SWEEP = "benchfarm.sweep"
    TRAIN = "benchfarm.train"
    ALIVE = "benchfarm.alive"


TRAIN_QUEUE: Final = "train"
"""Served by a process of its own, with the lowest priority: its tasks compute for seconds."""
QUEUES: dict[Task, str] = {
    Task.PLAN_JOB: "plan",
    Task.DISPATCH: "dispatch",
    Task.SWEEP: "sweep",
    Task.TRAIN: TRAIN_QUEUE,
}
"""Anything slower than 1 s never shares a queue with dispatch. ALIVE goes to every queue in turn."""


class TrainingWork(StrEnum):
    """What a `Task.TRAIN` message asks for, its first argument; the second is the id of what it is about."""

    ADAPT = "adapt"
    REFRESH = "refresh"
    LIKEN = "liken"


TRAIN_EXPIRES_S: Final[dict[str, float]] = {
    TrainingWork.ADAPT: 30.0,
    TrainingWork.REFRESH: 600.0,
    TrainingWork.LIKEN: 60.0,
}
"""What was not begun by then is dropped: whoever looked for it looks again, and while one thing is trained the same
hints come many times."""


BROKER_PREFIX: Final = "benchfarm:"
"""Before every key of the broker that is ours; a queue's waiting messages are the list of its name."""
BACKLOG_LIMIT: Final = 5000
"""Where so many hints wait in one queue nobody reads it, and more would only fill the broker; the sweep repeats."""


AHEAD_MAX_S: Final = 60.0
"""A task is asked for so far ahead at most: what waits at a worker is lost with it, and far from coming back then."""


class TaskMessage(Value):
    """Run a task. `after_s`: not before so many seconds from when it is sent."""

    task: Task
    args: tuple[str, ...] = ()
    after_s: float = Field(default=0.0, ge=0, le=AHEAD_MAX_S)

    @property
    def expires_s(self) -> float | None:
        """Seconds after which it is worth nothing; None: it is always worth its run."""
        return TRAIN_EXPIRES_S.get(self.args[0]) if self.task == Task.TRAIN and self.args else None


class Nudge(Value):
    """Publish on a channel that something may have changed; whoever hears it looks in Postgres."""

    channel: str


Message = TaskMessage | Nudge


def broker_url(redis_url: str) -> str:
    """The Celery form of a redis-py URL: `unix:///path?db=0` becomes `redis+socket:///path?virtual_host=0`."""
    if not redis_url.startswith("unix://"):
        return redis_url
    path, _, query = redis_url.removeprefix("unix://").partition("?")
    database = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair).get("db", "0")
    return f"redis+socket://{path}?virtual_host={database}"


def agent_channel(agent_id: str) -> str:
    """An offer or a cancellation waits for this agent."""
    return f"benchfarm:agent:{agent_id}"


def board_channel(board_id: str) -> str:
    """The board's history has a new event."""
    return f"benchfarm:board:{board_id}"


def job_channel(job_id: str) -> str:
    """The job has a new event."""
    return f"benchfarm:job:{job_id}"
