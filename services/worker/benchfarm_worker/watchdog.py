"""Ends a worker whose consumer has gone silent.

Celery on Redis can lose its consumer after a broker reset while the process lives on. Every queue gets
an `alive` task each 15 s, so a worker that received nothing for a minute is deaf: it exits and whoever
started it starts it again.
"""

import logging
import os
import signal
import threading
import time

from celery.signals import task_received, worker_ready

from benchfarm_worker.celery_app import ALIVE_S

SILENT_S = 4 * ALIVE_S

logger = logging.getLogger(__name__)


class Watchdog:
    """Watches the time since the last received task; `install` connects it to Celery's signals."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._heard_at = time.monotonic()

    def install(self) -> None:
        """Start watching when the worker is ready."""
        task_received.connect(self._heard, weak=False)
        worker_ready.connect(self._start, weak=False)

    def _heard(self, **_: object) -> None:
        self._heard_at = time.monotonic()

    def _start(self, **_: object) -> None:
        self._heard()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while time.monotonic() - self._heard_at < self._silent_s:
            time.sleep(self._silent_s / 12)
        logger.error("no task received, ending so that a fresh worker starts", extra={"silent_s": self._silent_s})
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._silent_s / 2)
        os.kill(os.getpid(), signal.SIGKILL)
