"""What peers are made of, built once per checkout and kept in a folder that git ignores."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Sessions of an older recipe may still run from its folder.
UNUSED_S = 24 * 3600
CACHE = Path(__file__).parents[2] / ".benchfarm" / "peers"


def cached(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` that `build` fills, from an earlier session when `recipe` has not changed since.

    Sessions that want it at the same time wait for the one that builds it. A build that fails leaves nothing.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    lock = os.open(CACHE / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _build(folder, name, build)
        os.utime(folder)
        return folder
    finally:
        os.close(lock)


def _build(folder: Path, name: str, build: Callable[[Path], None]) -> None:
    for old in CACHE.glob(f"{name}-*"):
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old)
    unfinished = Path(tempfile.mkdtemp(dir=CACHE, prefix=".building-"))
    try:
        build(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
