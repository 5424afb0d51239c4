"""What the `train` queue asks for. Imported by the process that serves it alone: it needs numpy, and seconds."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchfarm_core.errors import NotFound
from benchfarm_core.messages import TrainingWork
from benchfarm_store.database import Database
from benchfarm_worker import adapting, pool, refreshing
from benchfarm_worker.settings import Settings

logger = logging.getLogger(__name__)

Work = Callable[[Database, str, str, float], None]
"""Of a database, the id of what it is about, this host's run of its kernel, and how long to wait for quiet."""

_WORK: Final[dict[TrainingWork, Work]] = {
    TrainingWork.ADAPT: adapting.step,
    TrainingWork.REFRESH: refreshing.step,
    TrainingWork.LIKEN: pool.step,
}


def run(database: Database, settings: Settings, work: str, subject_id: str) -> None:
    """One step of the work. Every step may be repeated, and what this process does not know is left alone."""
    step = _WORK.get(TrainingWork(work)) if work in set(TrainingWork) else None
    if step is None:
        logger.warning("no such training work", extra={"work": work[:40]})
        return
    try:
        step(database, subject_id, own_boot_id(), settings.benchfarm_train_wait_s)
    except NotFound:
        logger.info("what was to be trained is gone", extra={"work": work, "id": subject_id})


def own_boot_id(root: Path = Path("/")) -> str:
    """What this host's kernel calls its present run, as boards tell it; empty where it does not say."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()[:60]
    except OSError:
        return ""
