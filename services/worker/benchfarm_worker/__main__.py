"""`python -m benchfarm_worker run [--queues plan,dispatch]` and `python -m benchfarm_worker beat`.

`run` without `--queues` serves all queues but `train` and ticks by itself (one machine); with `--queues` it serves
those only and a single `beat` ticks for all. `train` is for a process of its own: `run --queues train` computes one
thing at a time, in one thread, with the lowest priority.

`python -m benchfarm_worker starter-pool` takes in what BENCHFARM_STARTER_POOL names, into the farm of DATABASE_URL:
`shipped` (the pool file that comes with the project, if there is one), `none`, or the path of another. It needs no
broker. Exit codes: 0 done, 1 the database is away, 2 wrong usage.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

from celery import Celery
from celery.signals import worker_ready
from pydantic import ValidationError

from benchfarm_core.log import configure
from benchfarm_core.messages import QUEUES, TRAIN_QUEUE
from benchfarm_store.starter_pool import SHIPPED
from benchfarm_worker.celery_app import TRAIN_LIMIT_S, create_celery
from benchfarm_worker.settings import Settings
from benchfarm_worker.tasks import register
from benchfarm_worker.watchdog import SILENT_S, Watchdog

QUICK_QUEUES: Final = tuple(dict.fromkeys(queue for queue in QUEUES.values() if queue != TRAIN_QUEUE))
LOWEST_PRIORITY: Final = 19
STARTER_POOL: Final = "starter-pool"
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Small matrices on many cores cost more than they save, and the other cores may be measuring."""


def create_worker(settings: Settings) -> Celery:
    """The application with its tasks."""
    celery = create_celery(settings)
    register(celery, settings)
    return celery


def main() -> int:
    """Parse, configure, run until stopped."""
    arguments = _parse()
    if arguments.verb == STARTER_POOL:
        return _starter_pool(arguments.told)
    configure("worker" if arguments.verb == "run" else "beat")
    try:
        settings = Settings()
    except ValidationError as error:
        parts = (": ".join((*map(str.upper, map(str, part["loc"])), part["msg"])) for part in error.errors())
        sys.stderr.write("the worker's settings in its environment are not complete: " + "; ".join(parts) + "\n")
        return 2
    celery = create_worker(settings)
    if arguments.verb == "beat":
        celery.Beat(loglevel="INFO").run()
    else:
        trains = TRAIN_QUEUE in arguments.queues.split(",")
        if trains:
            _stand_back()
        # while something is trained the process takes no other message
        Watchdog(SILENT_S + TRAIN_LIMIT_S if trains else SILENT_S).install()
        worker_ready.connect(partial(_say_ready, settings.benchfarm_ready_file), weak=False)
        celery.worker_main(_worker_arguments(arguments.queues, settings))
    return 0


def _starter_pool(told: Path | None) -> int:
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        sys.stderr.write("set DATABASE_URL to the farm's Postgres\n")
        return 2
    from benchfarm_worker import starter_pool  # brings numpy, which no other process here is to load this early

    return starter_pool.take_in(url, os.environ.get("BENCHFARM_STARTER_POOL", SHIPPED), told)


def _stand_back() -> None:
    """Training disturbs neither the farm nor what is measured on this host; numpy reads these when it is imported."""
    os.nice(LOWEST_PRIORITY)
    for name in _THREADS:
        os.environ.setdefault(name, "1")


def _say_ready(ready_file: Path | None, **_: object) -> None:
    """Tell whoever started this process that it consumes now."""
    if ready_file is not None:
        ready_file.touch()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchfarm_worker")
    parser.add_argument("verb", choices=("run", "beat", STARTER_POOL))
    parser.add_argument("--queues", default="", help="comma-separated, of: " + ", ".join((*QUICK_QUEUES, TRAIN_QUEUE)))
    parser.add_argument("--told", type=Path, default=None, help="of the starter pool: what came of it, as JSON")
    arguments = parser.parse_args()
    unknown = set(filter(None, arguments.queues.split(","))) - set(QUEUES.values())
    if unknown:
        parser.error(f"no queue is called {min(unknown)}")
    return arguments


def _worker_arguments(queues: str, settings: Settings) -> list[str]:
    processes = "1" if queues == TRAIN_QUEUE else str(settings.benchfarm_worker_processes)
    served = queues or ",".join(QUICK_QUEUES)
    shared = ["worker", "--concurrency", processes, "--queues", served, "--loglevel", "INFO", "--without-gossip"]
    quiet = ["--without-mingle", "--hostname", f"benchfarm-{os.getpid()}@%h"]
    return shared + quiet + ([] if queues else ["--beat"])


if __name__ == "__main__":
    sys.exit(main())
