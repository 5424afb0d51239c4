"""The session's servers themselves: what every other test stands on."""

from contextlib import closing

import psycopg2
import redis


def _query(url: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_postgres_is_18_and_has_no_port(empty_database_url: str) -> None:
    assert str(_query(empty_database_url, "show server_version_num")[0][0]).startswith("18")
    assert _query(empty_database_url, "show listen_addresses") == [("",)]


def test_valkey_answers_and_is_empty(redis_url: str) -> None:
    with closing(redis.Redis.from_url(redis_url)) as connection:
        assert connection.dbsize() == 0
        connection.set("left", "over")


def test_the_next_test_does_not_see_what_the_last_one_left(redis_url: str) -> None:
    with closing(redis.Redis.from_url(redis_url)) as connection:
        assert connection.get("left") is None
