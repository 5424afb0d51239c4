"""Real Postgres and Valkey for every test that asks for them; nothing is started for the others.

Each pytest-xdist worker is a session of its own and so has servers of its own. The schema is built once per session by
the real migrations; a test gets a copy of it, made from that template, and may commit and break what it likes.
"""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis
from hypothesis import settings

from benchfarm_standalone.children import run_alone
from benchfarm_standalone.postgres import EmbeddedPostgres, embedded_postgres
from benchfarm_standalone.socket_dir import private_socket_dir
from benchfarm_standalone.valkey import EmbeddedValkey, embedded_valkey

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example's deadline would be a timed test, on cores that others use too.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# Real phones and boards, for every folder.
pytest_plugins = ["tests.peers.fixtures"]

# The golden suite would measure beside whatever a test has measured; tests of it ask for it.
os.environ.setdefault("BENCHFARM_GOLDEN_EVERY_S", "0")

TEMPLATE = "farm_template"
VALKEY_DATABASES = 16

_numbers = itertools.count(1)


def _execute(postgres: EmbeddedPostgres, statement: str) -> None:
    """One statement outside a transaction, in the maintenance database."""
    with closing(psycopg2.connect(host=str(postgres.socket_dir), user="farm", dbname="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture(scope="session")
def server_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data and logs of the session's servers; gone after the session."""
    path = tmp_path_factory.mktemp("servers")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def socket_dir(server_dir: Path) -> Iterator[Path]:
    """Sockets of the session's servers: a directory with a short name."""
    path = private_socket_dir(server_dir)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_dir: Path, socket_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A running Postgres 18 that does not wait for the disk."""
    postgres = embedded_postgres(
        server_dir / "postgres", socket_dir / "postgres", copies=socket_dir / "copies", durable=False
    )
    with run_alone(postgres.service(), server_dir):
        yield postgres


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres) -> str:
    """Name of a database with the newest schema and no rows of its own, for copying."""
    from benchfarm_store import migrations

    _execute(postgres_server, f'create database "{TEMPLATE}" template template0 strategy file_copy')
    migrations.upgrade(postgres_server.database_url(TEMPLATE))
    return TEMPLATE


def _database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _execute(postgres, f'create database "{name}" template "{template}" strategy file_copy')
    yield postgres.database_url(name)
    # By force: a test that failed may have left connections open.
    _execute(postgres, f'drop database "{name}" with (force)')


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """URL of a database of this test's own with the newest schema."""
    yield from _database(postgres_server, template_database)


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """URL of a database of this test's own with nothing in it: for tests of the migrations."""
    yield from _database(postgres_server, "template0")


@pytest.fixture(scope="session")
def valkey_server(server_dir: Path, socket_dir: Path) -> Iterator[EmbeddedValkey]:
    """A running Valkey that keeps nothing on disk."""
    valkey = embedded_valkey(server_dir / "valkey", socket_dir, durable=False)
    with run_alone(valkey.service(), server_dir):
        yield valkey


@pytest.fixture
def redis_url(valkey_server: EmbeddedValkey) -> str:
    """URL of an empty numbered database, another one than that of the tests before. redis-py's form."""
    url = valkey_server.redis_url(next(_numbers) % VALKEY_DATABASES)
    with closing(redis.Redis.from_url(url)) as connection:
        connection.flushdb()
    return url
