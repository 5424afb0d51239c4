"""A job's events as a stream that can be taken up again where it broke."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import uniform
from typing import Annotated, Final

import anyio.to_thread
from fastapi import Header, Request
from fastapi.responses import StreamingResponse

from benchfarm_api.access import CallerDep, authorise
from benchfarm_api.parts import Parts, PartsDep
from benchfarm_api.problems import event_stream, not_found
from benchfarm_api.routes import new_router
from benchfarm_api.routes.jobs import JobId
from benchfarm_api.waiting import park
from benchfarm_api.wakeups import Listener
from benchfarm_core.errors import BenchfarmError
from benchfarm_core.events import Event
from benchfarm_core.jobs import JOB_TRANSITIONS
from benchfarm_core.messages import job_channel
from benchfarm_store import events, jobs
from benchfarm_store.tokens import Caller

router = new_router("events")

PAGE_EVENTS: Final = 200
AUTHORISE_S: Final = 3.0
"""A busy stream goes on for this long at most with a token that was revoked, a silent one until its next comment."""
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=not_found() | event_stream())
async def stream_job_events(
    request: Request,
    job_id: JobId,
    caller: CallerDep,
    parts: PartsDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**31, description="go on after this event")] = 0,
) -> StreamingResponse:
    """The job's events as server-sent events, from the first or after Last-Event-ID; ends after the last one."""
    stream = _Stream(parts, str(job_id), caller, last_event_id)
    await anyio.to_thread.run_sync(stream.look, limiter=parts.waiting)  # so that an unknown job has a status
    return StreamingResponse(stream.text(request), media_type="text/event-stream", headers=HEADERS)


class _Stream:
    """One reader's place in a job's events."""

    def __init__(self, parts: Parts, job_id: str, caller: Caller, number: int) -> None:
        self._parts = parts
        self._job_id = job_id
        self._caller = caller
        self._number = number
        self._authorised_until_s = 0.0

    def look(self) -> tuple[Sequence[Event], bool]:
        """The next events, and whether no more can come. Blocks."""
        with self._parts.database.transaction(read_only=True) as tx:
            # The state first: an ended job gets no event after the one that ended it.
            state, _ = jobs.get_job_state_number(tx, self._job_id)
            found = events.after(tx, self._job_id, self._caller, self._number, PAGE_EVENTS)
        return found, not JOB_TRANSITIONS[state] and len(found) < PAGE_EVENTS

    async def text(self, request: Request) -> AsyncIterator[str]:
        """The stream. A client that goes away cancels it; a farm in trouble ends it, and the client comes back."""
        wakeups = self._parts.wakeups
        until_s = _now_s() + self._parts.settings.benchfarm_longest_stream_s
        with self._parts.metrics.open_streams.track_inprogress(), wakeups.listen(job_channel(self._job_id)) as listener:
            while _now_s() < until_s and not wakeups.closing:
                listener.reset()
                try:
                    await self._authorise(request)
                    found, ended = await anyio.to_thread.run_sync(self.look, limiter=self._parts.waiting)
                    for event in found:
                        self._number = event.number
                        yield _line(event)
                    if ended:
                        return
                    if len(found) < PAGE_EVENTS:
                        async for sign in self._signs_of_life(request, listener, until_s):
                            yield sign
                except BenchfarmError:
                    return

    async def _authorise(self, request: Request) -> None:
        """Look at the token again when that is due, however busy the stream is. Raises Unauthenticated."""
        if _now_s() >= self._authorised_until_s:
            await authorise(request, stream_job_events.__name__)
            self._authorised_until_s = _now_s() + _about(AUTHORISE_S)

    async def _signs_of_life(self, request: Request, listener: Listener, until_s: float) -> AsyncIterator[str]:
        """A comment from time to time until something is heard or looking again is due. Raises Unauthenticated."""
        look_s = min(until_s, _now_s() + _about(self._parts.wakeups.look_again_s))
        while (left_s := look_s - _now_s()) > 0 and not self._parts.wakeups.closing:
            if await park(listener, min(_about(self._parts.settings.benchfarm_heartbeat_s), left_s)):
                return
            await self._authorise(request)
            yield ": alive\n\n"


def _about(limit_s: float) -> float:
    """A part left to chance: streams that began together do not all look, or ask for their rights, at once."""
    return limit_s * uniform(0.6, 1.0)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _line(event: Event) -> str:
    return f"id: {event.number}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
