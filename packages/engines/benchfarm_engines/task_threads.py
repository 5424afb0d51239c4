"""The threads of this process as the kernel lists them."""

import os
from typing import Final

TASK_FOLDER: Final = "/proc/self/task"


def thread_ids() -> set[int]:
    """Kernel ids of all threads that live now."""
    return {int(name) for name in os.listdir(TASK_FOLDER)}


def cpu_ns_by_thread() -> dict[int, int]:
    """Processor time that each living thread has used, in ns."""
    used: dict[int, int] = {}
    for thread in thread_ids():
        try:
            with open(f"{TASK_FOLDER}/{thread}/schedstat", "rb") as file:
                used[thread] = int(file.read().split()[0])
        except (OSError, IndexError):  # the thread ended between the listing and the reading
            continue
    return used


def threads_outside(cores: set[int]) -> list[int]:
    """Threads that may run on other cores than these."""
    outside: list[int] = []
    for thread in thread_ids():
        try:
            if not os.sched_getaffinity(thread) <= cores:
                outside.append(thread)
        except ProcessLookupError:
            continue
    return outside
