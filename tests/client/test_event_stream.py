"""Bytes of an event stream, cut anywhere, become the events that were sent."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm.event_stream import MAX_EVENT_BYTES, parse_events
from benchfarm_core.errors import BenchfarmError


def frame(number: int, kind: str = "progress", end: str = "\n", **data: object) -> bytes:
    event = {"number": number, "kind": kind, "at": "2026-01-01T00:00:00Z", "data": data}
    lines = (f"id: {number}", f"event: {kind}", f"data: {json.dumps(event, ensure_ascii=False)}", "", "")
    return end.join(lines).encode()


def test_events_come_in_order_and_comments_are_signs_of_life() -> None:
    stream = b": hello\n\n" + frame(1, "state", state="running") + b": alive\n\n" + frame(2)
    seen = list(parse_events([stream]))
    assert [event.number for event in seen if event] == [1, 2]
    assert seen.count(None) == len(seen) - 2 >= 2


@given(st.data(), st.sampled_from(["\n", "\r\n"]))
def test_pieces_may_be_cut_anywhere(data: st.DataObject, end: str) -> None:
    stream = b"".join(frame(number, end=end, reason="a\u2028b\x85c é") for number in range(3))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    events = [event for event in parse_events(pieces) if event]
    assert [event.number for event in events] == [0, 1, 2]
    assert all(event.data == {"reason": "a\u2028b\x85c é"} for event in events)


def test_an_unfinished_event_at_the_end_is_dropped() -> None:
    assert [event for event in parse_events([frame(1), frame(2)[:-1]]) if event][-1].number == 1


def test_data_over_several_lines_is_joined() -> None:
    text = json.dumps({"number": 1, "kind": "state", "at": "2026-01-01T00:00:00Z", "data": {}}, indent=1)
    stream = "".join(f"data:{line}\n" for line in text.splitlines()) + "\n"
    assert [event.number for event in parse_events([stream.encode()]) if event] == [1]


@pytest.mark.parametrize("stream", [b"data: nonsense\n\n", b"data: {}\n\n", b'data: {"number": "x"}\n\n'])
def test_what_is_no_event_is_an_error(stream: bytes) -> None:
    with pytest.raises(BenchfarmError, match="not understood"):
        list(parse_events([stream]))


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 4096, b"data: " + b"x" * 4096 + b"\n"])
def test_an_endless_event_is_not_kept(piece: bytes) -> None:
    endless = (piece for _ in range(2 * MAX_EVENT_BYTES // len(piece)))
    with pytest.raises(BenchfarmError, match="larger than"):
        list(parse_events(endless))
