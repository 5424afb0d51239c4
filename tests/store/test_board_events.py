"""A board's events as its readers get them: none missed, none twice, whenever they were committed."""

from datetime import timedelta

import pytest

from benchfarm_core.access import Role
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_store import board_history, cursors


@pytest.fixture
def read(farm, agent):
    """Makes one look of a reader."""

    def look(reading):
        with farm.transaction() as tx:
            return reading.look(tx, agent.boards[0])

    return look


@pytest.fixture
def note(farm, agent):
    """Writes a note into the board's history; with `late_s` as a transaction that began so long before now."""
    operator = farm.account("lab", Role.OPERATOR)

    def write(text, late_s=0.0):
        with farm.transaction() as tx:
            board_history.add_note(tx, agent.boards[0], text, operator)
        farm.run(
            "UPDATE board_events SET at = at - make_interval(secs => :s) WHERE reason = :text", s=late_s, text=text
        )

    return write


def test_a_reader_of_a_boards_events_misses_and_repeats_nothing(farm, agent, report_of, read):
    reading = board_history.Reading(None)
    (first,) = read(reading)
    assert first.kind == BoardEventKind.REGISTERED
    assert read(reading) == []
    agent.register(report_of(generation="g2"))
    agent.register(report_of(generation="g3"))
    events = read(reading)
    assert [event.after for event in events] == ["g2", "g3"]
    assert read(reading) == []
    assert [event.after for event in read(board_history.Reading(first.id))] == ["g2", "g3"]
    assert [event.after for event in read(board_history.Reading(events[0].id))] == ["g3"]
    assert read(board_history.Reading(events[1].id)) == []
    with farm.transaction() as tx, pytest.raises(NotFound):
        board_history.Reading(None).look(tx, "b_none")


def test_what_was_committed_late_is_seen_with_and_without_a_break(read, note):
    reading = board_history.Reading(None)
    read(reading)
    note("one")
    (one,) = read(reading)
    note("late", late_s=5)
    assert [event.reason for event in read(board_history.Reading(one.id))] == ["late"]
    (late,) = read(reading)
    assert late.reason == "late"
    assert read(board_history.Reading(late.id)) == []
    note("two")
    assert [event.reason for event in read(board_history.Reading(late.id))] == ["two"]
    assert [event.reason for event in read(board_history.Reading(one.id))] == ["late", "two"]


def test_a_new_reader_sees_the_latest_alone_however_close_others_lie(read, note):
    for number in range(2 * board_history.LATEST):
        note(str(number))
    reading = board_history.Reading(None)
    shown = read(reading)
    assert [event.reason for event in shown] == [str(n) for n in range(board_history.LATEST, 2 * board_history.LATEST)]
    assert read(reading) == []
    assert read(board_history.Reading(shown[-1].id)) == []


def test_many_events_come_in_pages_and_a_break_between_loses_none(farm, agent, read, note):
    reading = board_history.Reading(None)
    (first,) = read(reading)
    count = board_history.PAGE + 50
    farm.run(
        "INSERT INTO board_events (board_id, at, kind, reason, author) SELECT id, now(), 'note', n::text, 'lab/x'"
        " FROM boards, generate_series(1, :count) n",
        count=count,
    )
    broken = board_history.Reading(first.id)
    page = read(broken)
    assert (len(page), broken.has_more) == (board_history.PAGE - 1, True), "the first one is of the page"
    assert max(len(event.id) for event in page) <= 500
    found = [event.reason for event in page]
    for reader in (broken, board_history.Reading(page[-1].id)):
        rest = read(reader)
        while reader.has_more:
            rest += read(reader)
        assert sorted(map(int, found + [event.reason for event in rest])) == list(range(1, count + 1))
        assert read(reader) == []


def test_a_cursor_that_is_none(farm, read):
    with farm.transaction() as tx:
        now = tx.now
    place = (now, 1, 5)
    for cursor in (
        "nonsense",
        cursors.encode("event", *place),
        cursors.encode("event", *place, *place, "x"),
        cursors.encode("event", *place, *place, ".".join(["11"] * (board_history.REMEMBERED + 1))),
        cursors.encode("event", now.replace(year=1), 1, 5, *place, ""),
    ):
        with pytest.raises(InvalidRequest) as refused:
            board_history.Reading(cursor)
        assert refused.value.code == "cursor_invalid"
    assert len(read(board_history.Reading(cursors.encode("event", now - timedelta(days=1), 1, 5, *place, "")))) == 0
