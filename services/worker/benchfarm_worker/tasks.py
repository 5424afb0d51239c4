"""The tasks. Each takes ids, opens one transaction, and is safe to run twice."""

import logging
import time
from collections.abc import Callable

from celery import Celery

from benchfarm_core.errors import NotFound
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_store import (
    adaptations,
    board_health,
    comparisons,
    dispatching,
    exports,
    planning,
    refreshes,
    summaries,
    sweeping,
)
from benchfarm_store.database import Database
from benchfarm_store.files import Files
from benchfarm_worker.celery_app import TRAIN_LIMIT_S
from benchfarm_worker.collecting import Collector
from benchfarm_worker.likening import Likening
from benchfarm_worker.sending import sender
from benchfarm_worker.settings import Settings

logger = logging.getLogger(__name__)


def register(celery: Celery, settings: Settings) -> None:
    """Add every task to the application."""
    database = _database_per_process(celery, settings)
    collector = _collector_per_process(settings, database)
    likening = _likening_per_process(database)
    refreshing = _Ticks(settings.benchfarm_refresh_every_s)

    @celery.task(name=Task.PLAN_JOB.value)
    def plan_job(job_id: str) -> None:
        """One chunk of a job's items; a longer job sends itself again so that it never holds the queue."""
        try:
            with database().transaction() as tx:
                if planning.plan_chunk(tx, job_id):
                    tx.after_commit(TaskMessage(task=Task.PLAN_JOB, args=(job_id,)))
        except NotFound:
            logger.info("job is gone", extra={"job_id": job_id})

    @celery.task(name=Task.DISPATCH.value)
    def dispatch(board_id: str) -> None:
        """At most one offer for one board."""
        with database().transaction() as tx:
            dispatching.dispatch(tx, board_id, settings.lease_times)

    @celery.task(name=Task.SWEEP.value)
    def sweep() -> None:
        """Repairs every loss: expired leases, unplanned jobs, unsent messages, idle boards with work.

        Then looks after adaptations, the pool, predictors and the golden suite, and derives the summaries and
        comparisons that an older rule left.
        """
        sweeping.sweep(database())
        if settings.benchfarm_exports_kept_s > 0:
            with database().transaction() as tx:
                exports.forget_old(tx, kept_s=settings.benchfarm_exports_kept_s)
        with database().transaction() as tx:
            adaptations.wake(tx)
        likening().step(time.time())
        if refreshing.is_due(time.monotonic()):
            with database().transaction() as tx:
                refreshes.wake(tx)
        if settings.benchfarm_golden_every_s > 0:
            board_health.look_after(database(), every_s=settings.benchfarm_golden_every_s)
        if (found := collector()) is not None:
            _collect(found)
        _derive(database())

    @celery.task(name=Task.TRAIN.value, time_limit=TRAIN_LIMIT_S, soft_time_limit=TRAIN_LIMIT_S - 10)
    def train(work: str, subject_id: str) -> None:
        """What `TrainingWork` names. Its code needs numpy, so it is imported where it is run alone."""
        from benchfarm_worker.training import run

        run(database(), settings, work, subject_id)

    @celery.task(name=Task.ALIVE.value)
    def alive() -> None:
        """Proves to the watchdog that this queue is consumed."""


class _Ticks:
    """Something that is done now and then; `every_s` 0: never. Each process has its own."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether it is time, once each time."""
        if self._every_s <= 0 or now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True


def _derive(database: Database) -> None:
    """Last and each by itself: neither holds what the repairs need, nor falls with a row of the other."""
    try:
        with database.transaction() as tx:
            summaries.rederive(tx)
    finally:
        with database.transaction() as tx:
            comparisons.rederive(tx)


def _collect(collector: Collector) -> None:
    try:
        collector.step(time.time())
    except OSError as error:
        logger.warning("stored files are not looked after", extra={"error": str(error)})


def _collector_per_process(settings: Settings, database: Callable[[], Database]) -> Callable[[], Collector | None]:
    """A worker without the folder of stored files looks after none."""
    folder = settings.benchfarm_data_dir
    made: list[Collector] = []

    def collector() -> Collector | None:
        if not made and folder is not None and (folder / "incoming").is_dir():
            made.append(Collector(Files(folder), database()))
        return made[0] if made else None

    return collector


def _likening_per_process(database: Callable[[], Database]) -> Callable[[], Likening]:
    """When it looked last is each process' own."""
    made: list[Likening] = []

    def likening() -> Likening:
        if not made:
            made.append(Likening(database()))
        return made[0]

    return likening


def _database_per_process(celery: Celery, settings: Settings) -> Callable[[], Database]:
    """Connections must not cross a fork, so each process makes its own at first use."""
    made: list[Database] = []

    def database() -> Database:
        if not made:
            made.append(Database(settings.database_url, on_commit=sender(celery, settings.redis_url), pool_size=2))
        return made[0]

    return database
