"""What the kernel knows about processes: whose child, which state, which cores. Reads ``/proc``; Linux."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
LEAST_CORES_TO_SHARE_OUT = 4
ENDED = ("Z", "X")


def adopt_orphans() -> bool:
    """Make orphaned descendants children of this process instead of init's; tell whether the kernel does so.

    For a process that owns all its descendants (``benchfarm up``), never for one that shares its children with other
    code: see ``Supervisor``.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _table() -> Iterator[tuple[int, str, int, int]]:
    """Process id, state letter, parent and group of every process that can be seen, zombies among them."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in parentheses and may itself hold blanks and parentheses.
            state, parent, group = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            yield int(entry.name), state, int(parent), int(group)


def parents() -> dict[int, int]:
    """Parent by process id, for every process that can be seen. Zombies are in it."""
    return {pid: parent for pid, _, parent, _ in _table()}


def children_of(pid: int) -> set[int]:
    """Direct children of ``pid``, zombies among them."""
    return {child for child, parent in parents().items() if parent == pid}


def is_alive(pid: int) -> bool:
    """Whether ``pid`` runs. A zombie has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ENDED


def kill_group(pid: int) -> None:
    """SIGKILL for every process left in the group that ``pid`` leads or led. Nothing where the group is empty."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def group_runs(pid: int) -> bool:
    """Whether a process of the group that ``pid`` leads or led still runs."""
    return any(group == pid and state not in ENDED for _, state, _, group in _table())


def kill_and_reap(pids: set[int]) -> set[int]:
    """SIGKILL for each child in ``pids``; returns those that the kernel has not handed over yet."""
    left = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                left.add(pid)
    return left


def cores_for_services() -> tuple[int, ...]:
    """The cores that the services keep to, so that measurements have the others: the first quarter of four or more.

    Empty where there are fewer than four cores: everybody then shares all of them.
    """
    if sys.platform != "linux":
        return ()
    cores = sorted(os.sched_getaffinity(0))
    return tuple(cores[: len(cores) // LEAST_CORES_TO_SHARE_OUT])
