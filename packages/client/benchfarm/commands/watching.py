"""A job's progress, live: a bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchfarm.client import Client
from benchfarm.waiting import OnProgress
from benchfarm_core.errors import BenchfarmError, Unavailable
from benchfarm_core.jobs import JobView

LINE_EVERY_S: Final = 5.0
GOES_ON: Final = "it goes on, and what is measured is kept"


def watch(
    client: Client, job_id: str, console: Console, *, timeout_s: float | None = None, after: str = GOES_ON
) -> JobView:
    """Wait for a job and show how it goes. Raises TimeoutError that says what its boards wait for and what becomes of
    it, `after`; and Unavailable with how to go on."""
    try:
        with (_bar if console.is_terminal else _lines)(console) as show:
            return client.wait(job_id, progress=show, timeout_s=timeout_s)
    except TimeoutError as error:
        raise TimeoutError(f"{error}{_waits_for(client, job_id)}; {after}") from error
    except Unavailable as error:
        error.detail += f"; the job goes on when the farm is back: benchfarm jobs watch {job_id}"
        raise


def _waits_for(client: Client, job_id: str) -> str:
    """What stands in the way of a job; nothing where the farm does not say."""
    with suppress(BenchfarmError):
        reason = client.why(job_id).reason
        return f": {reason}" if reason else ""
    return ""


def progress_text(job: JobView) -> str:
    """One line about a job: its state, what is done, what was known, what failed, and why it waits."""
    seen = job.progress
    done = seen.succeeded + seen.failed + seen.cancelled
    parts = [f"{done}/{seen.total}", f"{seen.known} known"]
    parts += [f"{count} {name}" for name, count in (("failed", seen.failed), ("cancelled", seen.cancelled)) if count]
    reason = f" ({job.reason})" if job.reason else ""
    return f"{job.state}: {', '.join(parts)}{reason}"


@contextmanager
def _bar(console: Console) -> Iterator[OnProgress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[state]:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=None, state="queued")

        def show(job: JobView) -> None:
            seen = job.progress
            text = progress_text(job).partition(", ")[2]
            done = seen.succeeded + seen.failed + seen.cancelled
            bars.update(task, total=seen.total or None, completed=done, description=escape(text), state=job.state)

        yield show


@contextmanager
def _lines(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[OnProgress]:
    last_state, last_s = "", -LINE_EVERY_S

    def show(job: JobView) -> None:
        nonlocal last_state, last_s
        if job.state != last_state or clock() - last_s >= LINE_EVERY_S:
            last_state, last_s = job.state, clock()
            console.print(escape(f"job {job.id} {progress_text(job)}"))

    yield show
