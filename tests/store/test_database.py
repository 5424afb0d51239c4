import pytest
from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest, Unavailable
from benchfarm_core.messages import Nudge
from benchfarm_store.database import Database


class Undone(Exception):
    pass


def undo(tx, message: str | None = None) -> None:
    """A change and a message that must not survive."""
    tx.execute(text("UPDATE farms SET name = 'x'"))
    if message is not None:
        tx.after_commit(Nudge(channel=message))
    raise Undone


def test_messages_go_out_after_the_commit_and_only_then(farm):
    farm.messages.clear()
    with farm.transaction() as tx:
        tx.after_commit(Nudge(channel="a"))
        tx.after_commit(Nudge(channel="a"))
        assert farm.messages == []
    assert farm.messages == [Nudge(channel="a")]
    with pytest.raises(Undone), farm.transaction() as tx:
        undo(tx, "b")
    assert farm.messages == [Nudge(channel="a")]
    assert farm.scalar("SELECT name FROM farms") == "local"


def test_a_sender_that_fails_does_not_undo_the_commit(farm, database_url):
    def broken(_messages) -> None:
        raise ConnectionError("the broker is away")

    database = Database(database_url, on_commit=broken)
    with database.transaction() as tx:
        tx.execute(text("UPDATE farms SET name = 'renamed'"))
        tx.after_commit(Nudge(channel="a"))
    database.dispose()
    assert farm.scalar("SELECT name FROM farms") == "renamed"


def test_a_savepoint_undoes_its_part_and_its_messages(farm):
    farm.messages.clear()
    with farm.transaction() as tx:
        tx.after_commit(Nudge(channel="kept"))
        with pytest.raises(Undone), tx.savepoint():
            undo(tx, "undone")
    assert farm.scalar("SELECT name FROM farms") == "local"
    assert farm.messages == [Nudge(channel="kept")]


def test_read_only_means_it(farm):
    with pytest.raises(Exception, match="read-only"), farm.database.transaction(read_only=True) as tx:
        tx.execute(text("UPDATE farms SET name = 'x'"))
    farm.run("UPDATE farms SET name = 'y'")


def test_a_database_that_is_away_is_unavailable(tmp_path):
    database = Database(f"postgresql+psycopg2://farm@/nothing?host={tmp_path}")
    with pytest.raises(Unavailable):
        database.ping()
    database.dispose()


def test_lost_connections_are_unavailable_once_and_then_replaced(farm, database_url):
    database = Database(database_url, pool_size=1)
    with database.transaction() as tx:
        pid = tx.execute(text("SELECT pg_backend_pid()")).scalar_one()

    def lose_it_and_ask() -> None:
        with database.transaction() as tx:
            farm.run("SELECT pg_terminate_backend(:pid)", pid=pid)
            tx.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        lose_it_and_ask()
    database.ping()
    database.dispose()


def test_cursors_of_other_lists_are_refused():
    from benchfarm_store import cursors

    cursor = cursors.encode("jobs", "x", 3)
    assert cursors.decode("jobs", cursor, str, int) == ["x", 3]
    for kind, text_, types in (
        ("items", cursor, (str, int)),
        ("jobs", cursor, (int, int)),
        ("jobs", cursor, (str,)),
        ("jobs", cursor[:-3], (str, int)),
        ("jobs", "", (str, int)),
        ("jobs", "é", (str, int)),
        ("n", cursors.encode("n", 2**80), (int,)),
        ("n", cursors.encode("n", True), (int,)),
        ("n", cursors.encode("n", "\x00"), (str,)),
    ):
        with pytest.raises(InvalidRequest) as refused:
            cursors.decode(kind, text_, *types)
        assert refused.value.code == "cursor_invalid"
