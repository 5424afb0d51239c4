"""Keeps the claim of an adaptation while something is computed for it: who computes for longer than a claim lasts is
not dead, and what he does is not done twice by another trainer."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from benchfarm_core.errors import Unavailable
from benchfarm_store import adaptations
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Database
from benchfarm_worker.celery_app import TRAIN_LIMIT_S

logger = logging.getLogger(__name__)

EVERY_S: Final = adaptations.CLAIM_S / 4
"""A few tries may fail before a claim runs out."""


class Kept:
    """A claim that is renewed by a thread of its own; `adaptation` has it as it stands once the thread has ended."""

    def __init__(self, database: Database, adaptation: Adaptation, every_s: float) -> None:
        self.adaptation = adaptation
        self._database, self._every_s = database, every_s
        self._is_over = Event()
        self._thread = Thread(target=self._renew, name=f"claim {adaptation.id}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Renew no more; the last time may wait for a transaction, so end it outside of any."""
        self._is_over.set()
        self._thread.join()

    def _renew(self) -> None:
        # what hangs is killed by then, and its claim is to run out
        give_up_at_s = time.monotonic() + TRAIN_LIMIT_S
        while not self._is_over.wait(self._every_s) and time.monotonic() < give_up_at_s:
            about = {"adaptation_id": self.adaptation.id, "claimed_until": str(self.adaptation.claimed_until)}
            try:
                with self._database.transaction() as tx:
                    renewed = adaptations.renew(tx, self.adaptation)
            except Unavailable as error:
                logger.warning("a claim was not renewed, it is tried again", extra=about | {"detail": error.detail})
                continue
            except Exception:  # boundary: a thread that dies says nothing, and the claim would run out unseen
                logger.exception("a claim was not renewed: a fault of the worker, it is tried again", extra=about)
                continue
            if renewed is None:  # whoever computes finds out when he writes
                logger.info("a claim was lost, or its adaptation has ended", extra=about)
                return
            self.adaptation = renewed


@contextmanager
def kept(database: Database, adaptation: Adaptation) -> Iterator[Kept]:
    """Keep a claim meanwhile. Transactions of the body neither renew nor release it."""
    keeping = Kept(database, adaptation, EVERY_S)
    try:
        yield keeping
    finally:
        keeping.end()
