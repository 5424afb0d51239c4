"""Waiting for a job: by its event stream, and where that does not hold, by asking again and again."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from benchfarm.connection import READ_TIMEOUT_S, Connection, path_part
from benchfarm.event_stream import parse_events
from benchfarm_core.errors import Unavailable
from benchfarm_core.events import Event, EventKind
from benchfarm_core.jobs import JOB_TRANSITIONS, JobState, JobView, Progress
from benchfarm_core.states import final_states

FINAL_JOB_STATES: Final[frozenset[JobState]] = final_states(JOB_TRANSITIONS)
SILENCE_S: Final = 30.0
"""A stream that is silent for longer than this is opened anew; the farm sends a sign of life more often."""
BROKEN_STREAMS: Final = 3
"""After so many streams in a row that brought nothing, the job is asked for instead."""
SHORT_STREAM_S: Final = 1.0
POLL_WAIT_S: Final = 20.0
POLL_PAUSE_S: Final = 0.5
"""Between two answers that say the same: a farm that does not hold the question must not be flooded with it."""

OnProgress = Callable[[JobView], None]
Clock = Callable[[], float]


@dataclass(slots=True)
class Deadline:
    """The end of somebody's patience, on a monotonic clock; `timeout_s` None is endless patience."""

    timeout_s: float | None
    clock: Clock = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def left_s(self, at_most_s: float) -> float:
        """Seconds left, not below 0 and not above `at_most_s`."""
        if self.timeout_s is None:
            return at_most_s
        return min(at_most_s, max(0.0, self._started + self.timeout_s - self.clock()))

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.left_s(1.0) <= 0


def get_job(connection: Connection, job_id: str, *, wait_s: float | None = None) -> JobView:
    """The job as it stands, or as it stands after its next change within `wait_s`."""
    return connection.read(
        JobView,
        f"/jobs/{path_part(job_id)}",
        params={"wait_s": wait_s},
        read_timeout_s=READ_TIMEOUT_S + (wait_s or 0),
    )


def events(connection: Connection, job_id: str, *, after: int, silence_s: float = SILENCE_S) -> Iterator[Event | None]:
    """The job's events after number `after` as they happen, None for each sign of life between them.

    Ends when the farm ends the stream. Raises Unavailable when the connection breaks or is silent for `silence_s`.
    """
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with connection.stream(f"/jobs/{path_part(job_id)}/events", headers=headers, read_timeout_s=silence_s) as pieces:
        yield from parse_events(pieces)


def wait(connection: Connection, job_id: str, *, progress: OnProgress | None, deadline: Deadline) -> JobView:
    """The job in its final state. `progress` gets the job once at the start and after every change.

    Raises:
        TimeoutError: the deadline passed before; the job goes on.
        BenchfarmError: the farm refuses, or stays away for longer than the connection's retries last.
    """
    watch = _Watch(connection, job_id, progress or _ignore, deadline)
    watch.refresh()
    broken = 0
    while watch.job.state not in FINAL_JOB_STATES:
        if deadline.passed:
            raise TimeoutError(f"job {job_id} is still {watch.job.state} after {deadline.timeout_s:g} s")
        if broken < BROKEN_STREAMS:
            broken = 0 if watch.follow() else broken + 1
            if watch.job.state not in FINAL_JOB_STATES:
                watch.refresh()
        elif not watch.refresh(wait_s=deadline.left_s(POLL_WAIT_S)):
            time.sleep(deadline.left_s(POLL_PAUSE_S))
    return watch.job


def _ignore(job: JobView) -> None:
    """The progress callback of a caller who gave none."""


class _Watch:
    """What one waiting caller has seen of a job."""

    job: JobView

    def __init__(self, connection: Connection, job_id: str, progress: OnProgress, deadline: Deadline) -> None:
        self._connection = connection
        self._job_id = job_id
        self._progress = progress
        self._deadline = deadline
        self._seen: JobView | None = None
        self._number = 0

    def refresh(self, *, wait_s: float | None = None) -> bool:
        """Ask for the job; tell the caller, and return True, when it changed."""
        return self._take(get_job(self._connection, self._job_id, wait_s=wait_s))

    def follow(self) -> bool:
        """Read the stream until it ends, breaks or time is up; whether it lasted or brought anything."""
        started, number = self._deadline.clock(), self._number
        silence_s = max(0.1, self._deadline.left_s(SILENCE_S))
        # What breaks a stream is no failure of the wait: the job itself is asked for next.
        with suppress(Unavailable):
            for event in events(self._connection, self._job_id, after=number, silence_s=silence_s):
                if event is not None:
                    self._apply(event)
                if self._deadline.passed or self.job.state in FINAL_JOB_STATES:
                    break
        return self._number > number or self._deadline.clock() - started > SHORT_STREAM_S

    def _apply(self, event: Event) -> None:
        self._number = max(self._number, event.number)
        if event.kind == EventKind.STATE:
            self.refresh()
        elif event.kind == EventKind.PROGRESS:
            self._take_progress(event.data)

    def _take_progress(self, data: dict[str, object]) -> None:
        try:
            progress = Progress.model_validate(data)
        except ValidationError:  # a farm whose events carry something else; the job itself says it as well
            self.refresh()
        else:
            self._take(self.job.model_copy(update={"progress": progress}))

    def _take(self, job: JobView) -> bool:
        self.job = job
        if job == self._seen:
            return False
        self._seen = job
        self._progress(job)
        return True
