"""Tests that measure have the machine for themselves: no other test of this checkout runs beside one marked `quiet`.

Beside others a farm's real answers are inconclusive, as they must be, and such a test would say how busy the suite was.
Several pytest-xdist workers agree by a lock in a file: all tests share it, a quiet one holds it alone.
"""

import fcntl
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

LOCK: Final = Path(".benchfarm", "quiet.lock")
_TURN, _RUNNING = 0, 1  # bytes of the file


@contextmanager
def held(path: Path, *, alone: bool) -> Iterator[None]:
    """Runs beside others that share the lock, or alone. Of this process: its children hold nothing.

    Everyone waits in turn before the lock, so that a test that wants it alone is not passed by those that share it.
    """
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, _TURN)
        fcntl.lockf(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, 1, _RUNNING)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, _TURN)
        yield  # closing gives back


_lock = ExitStack()
"""What this process holds: for one test, or from a quiet one to the next."""
_KEPT: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the test's time limit: waiting is not its doing
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Quiet tests that follow each other keep the lock: a test in between would have the file's farm wait for it."""
    stays = _is_quiet(item) and nextitem is not None and _is_quiet(nextitem)
    if not item.config.stash.get(_KEPT, False):
        _lock.enter_context(held(item.config.rootpath / LOCK, alone=_is_quiet(item)))
    item.config.stash[_KEPT] = stays
    try:
        return (yield)
    finally:
        if not stays:
            _lock.close()


def _is_quiet(item: pytest.Item) -> bool:
    """Whether nothing may run beside it."""
    return item.get_closest_marker("quiet") is not None
