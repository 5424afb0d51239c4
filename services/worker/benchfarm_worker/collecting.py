"""Stored files that nobody needs any more are deleted, a few folders with every sweep."""

import logging
from typing import Final

from benchfarm_store import models
from benchfarm_store.database import Database
from benchfarm_store.files import Files

FOLDERS: Final = 256
FOLDERS_A_STEP: Final = 32
FILES_A_STEP: Final = 1000
"""More files than this are left to the next round."""
EVERY_S: Final = 3600.0
"""From the beginning of one round to the next."""
AGE_S: Final = 3600.0
"""A file younger than this may be about to be adopted: its row is not committed yet."""

logger = logging.getLogger(__name__)


class Collector:
    """Goes through all folders once an hour; times are seconds as `time.time` counts them."""

    def __init__(self, files: Files, database: Database) -> None:
        self._files = files
        self._database = database
        self._folder = 0
        self._next_round_s = 0.0

    def step(self, now_s: float) -> int:
        """Look after a few folders when a round is due or under way; how many files were deleted."""
        if now_s < self._next_round_s:
            return 0
        folders = range(self._folder, self._folder + FOLDERS_A_STEP)
        self._folder = folders.stop % FOLDERS
        if self._folder == 0:
            self._next_round_s = now_s + EVERY_S
        old = [name for folder in folders for name in self._files.aged(folder, AGE_S, now_s)]
        removed = self._remove(old[:FILES_A_STEP], now_s)
        if removed:
            logger.info("deleted files that nobody needs", extra={"files": removed})
        return removed

    def _remove(self, old: list[str], now_s: float) -> int:
        if not old:
            return 0
        with self._database.transaction(read_only=True) as tx:
            unneeded = models.unneeded_files(tx, old)
        return sum(self._files.remove_aged(name, AGE_S, now_s) for name in unneeded)
