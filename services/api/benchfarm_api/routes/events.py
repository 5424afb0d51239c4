"""The events of a job, and of a board, as streams that can be taken up again where they broke."""

from typing import Annotated, Final

from fastapi import Header, Request
from fastapi.responses import StreamingResponse

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import Parts, PartsDep
from benchfarm_api.problems import event_stream, not_found
from benchfarm_api.routes import new_router
from benchfarm_api.routes.boards import BoardId
from benchfarm_api.routes.jobs import JobId
from benchfarm_api.streams import HEADERS, Found, event_text, look, stream
from benchfarm_core.jobs import JOB_TRANSITIONS
from benchfarm_core.messages import board_channel, job_channel
from benchfarm_store import board_history, events, jobs
from benchfarm_store.tokens import Caller

router = new_router("events")

PAGE_EVENTS: Final = 200
Cursor = Annotated[str | None, Header(alias="Last-Event-ID", max_length=500, description="go on after this event")]


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=not_found() | event_stream())
async def stream_job_events(
    request: Request,
    job_id: JobId,
    caller: CallerDep,
    parts: PartsDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**31, description="go on after this event")] = 0,
) -> StreamingResponse:
    """The job's events as server-sent events, from the first or after Last-Event-ID; ends after the last one."""
    place = _JobPlace(parts, str(job_id), caller, last_event_id)
    await look(parts, place.peek)  # so that an unknown job has a status
    route = stream_job_events.__name__
    texts = stream(request, parts, route=route, channel=job_channel(str(job_id)), looks=place.look)
    return StreamingResponse(texts, media_type="text/event-stream", headers=HEADERS)


@router.get("/boards/{board_id}/events", response_class=StreamingResponse, responses=not_found() | event_stream())
async def stream_board_events(
    request: Request, board_id: BoardId, parts: PartsDep, last_event_id: Cursor = None
) -> StreamingResponse:
    """What happens to a board, as server-sent events: the latest, or those after Last-Event-ID, then all to come."""
    place = _BoardPlace(parts, board_id, last_event_id)
    await look(parts, place.peek)
    route = stream_board_events.__name__
    texts = stream(request, parts, route=route, channel=board_channel(board_id), looks=place.look)
    return StreamingResponse(texts, media_type="text/event-stream", headers=HEADERS)


class _JobPlace:
    """One reader's place in a job's events."""

    def __init__(self, parts: Parts, job_id: str, caller: Caller, number: int) -> None:
        self._parts = parts
        self._job_id = job_id
        self._caller = caller
        self._number = number

    def peek(self) -> Found:
        """A look that forgets what it saw. Raises NotFound."""
        number = self._number
        found = self.look()
        self._number = number
        return found

    def look(self) -> Found:
        """The next events, and whether no more can come. Blocks."""
        with self._parts.database.transaction(read_only=True) as tx:
            # The state first: an ended job gets no event after the one that ended it.
            state, _ = jobs.get_job_state_number(tx, self._job_id)
            found = events.after(tx, self._job_id, self._caller, self._number, PAGE_EVENTS)
        if found:
            self._number = found[-1].number
        has_more = len(found) == PAGE_EVENTS
        texts = [event_text(one.number, one.kind, one.model_dump_json()) for one in found]
        return Found(texts, has_more, not JOB_TRANSITIONS[state] and not has_more)


class _BoardPlace:
    """One reader's place in a board's history."""

    def __init__(self, parts: Parts, board_id: str, cursor: str | None) -> None:
        self._parts = parts
        self._board_id = board_id
        self._reading = board_history.Reading(cursor)

    def peek(self) -> Found:
        """A look that forgets what it saw. Raises NotFound, InvalidRequest."""
        with self._parts.database.transaction(read_only=True) as tx:
            board_history.Reading(self._reading.cursor).look(tx, self._board_id)
        return Found((), has_more=False, is_over=False)

    def look(self) -> Found:
        """The next events. Blocks."""
        with self._parts.database.transaction(read_only=True) as tx:
            found = self._reading.look(tx, self._board_id)
        texts = [event_text(one.id, one.kind, one.model_dump_json()) for one in found]
        return Found(texts, self._reading.has_more, is_over=False)
