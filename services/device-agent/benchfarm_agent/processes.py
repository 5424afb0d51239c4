"""Child processes of the agent: each in a group of its own, with an empty environment, dead when the agent is.

One event loop watches them all; there is no thread per child.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


def watch_children_without_threads() -> None:
    """Python 3.11 starts a thread per child unless told otherwise; from 3.12 on the default is a pidfd."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


async def start_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: Path,
    line_bytes_max: int = 2**16,
    hear_errors: bool = True,
) -> asyncio.subprocess.Process:
    """Starts a program with three pipes (two without `hear_errors`) as the leader of its own group.

    The kernel kills it when the agent's process ends, however that happens. A change of user clears the request;
    `benchfarm_core.confine` renews it.
    """
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if hear_errors else asyncio.subprocess.DEVNULL,
        env=dict(env),
        cwd=folder,
        start_new_session=True,
        limit=line_bytes_max,
        preexec_fn=functools.partial(_die_with, os.getpid()),
    )


def kill_group(pid: int) -> None:
    """Ends a child and everything in its group; nothing happens when it has ended already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names a process for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def oom_kills() -> int:
    """How many processes this machine's kernel has ended for want of memory since it started."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _die_with(agent_pid: int) -> None:
    """Runs in the child before its program does."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent_pid:  # the agent ended in between: nobody will send the signal
        os._exit(1)
