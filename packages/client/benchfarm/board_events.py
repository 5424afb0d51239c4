"""A board's events as they happen; a stream that breaks is taken up again where it broke."""

import time
from collections.abc import Iterator
from typing import Final

from benchfarm.connection import Connection, path_part
from benchfarm.event_stream import parse_stream
from benchfarm.waiting import SILENCE_S
from benchfarm_core.board_history import BoardEvent
from benchfarm_core.errors import Unavailable

BROKEN_STREAMS: Final = 5
"""After so many streams in a row that brought nothing, not even a sign of life, the farm is away."""
PAUSE_S: Final = 1.0


def watch_board(connection: Connection, board_id: str) -> Iterator[BoardEvent]:
    """The board's latest events and all that come, for as long as it is read. Raises Unavailable, and what the farm
    refuses.
    """
    last: str | None = None
    broken = 0
    while True:
        try:
            for event in _stream(connection, board_id, last):
                broken = 0
                if event is not None:
                    last = event.id
                    yield event
        except Unavailable:
            broken += 1
            if broken >= BROKEN_STREAMS:
                raise
        time.sleep(PAUSE_S)


def _stream(connection: Connection, board_id: str, last: str | None) -> Iterator[BoardEvent | None]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    path = f"/boards/{path_part(board_id)}/events"
    with connection.stream(path, headers=headers, read_timeout_s=SILENCE_S) as pieces:
        yield from parse_stream(pieces, BoardEvent)
