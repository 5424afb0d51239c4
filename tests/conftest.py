"""Real Postgres and Valkey for every test that asks for them; nothing is started for the others.

Each pytest-xdist worker is a session of its own and so has servers of its own. The schema is built once per session by
the real migrations; a test gets a copy of it, made from that template, and may commit and break what it likes.
"""

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
from hypothesis import settings

from benchfarm_standalone.children import run_alone
from benchfarm_standalone.home import Home
from benchfarm_standalone.postgres import EmbeddedPostgres, embedded_postgres
from benchfarm_standalone.socket_dir import private_socket_dir
from benchfarm_standalone.valkey import EmbeddedValkey, embedded_valkey
from tests.peers.scratch import memory_dir, scratch_dir

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example's deadline would be a timed test, on cores that others use too.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# Real phones and boards for every folder, and who may run beside whom.
pytest_plugins = ["tests.peers.fixtures", "tests.quiet"]

# The golden suite would measure beside whatever a test has measured; tests of it ask for it.
os.environ.setdefault("BENCHFARM_GOLDEN_EVERY_S", "0")

LEFT_WITHIN_S = 0.1
VALKEY_DATABASES = 16
PEERS = frozenset({"phones", "qemu_board", "ssh_host"})
QUICKEST = Path(__file__).with_name("core")
"""Tests without fixtures."""

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several pytest-xdist workers the first gets what comes first: quiet tests, then files with real peers.

    So quiet tests share one farm, no worker waits for another one's long test, and nothing that lasts as long as the
    session is there yet: an emulated board, which takes long to start too, has some of a core from then on. What takes
    no time comes last: a worker that has nothing left to do waits for no long test of another one.
    """
    files = {item.path for item in items if not PEERS.isdisjoint(getattr(item, "fixturenames", ()))}
    items.sort(
        key=lambda item: (
            item.get_closest_marker("quiet") is None,
            item.path not in files,
            item.path.is_relative_to(QUICKEST),
        )
    )


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """Data and logs of the session's servers; gone after the session.

    In memory where there is room: a database of a test's own is some 280 files, and a disk takes ten times as long.
    """
    path = scratch_dir(memory_dir())
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


Databases = Callable[[str], AbstractContextManager[str]]
"""Of a template's name: a block with the name of a copy of it, which is gone after the block."""


@pytest.fixture(scope="session")
def databases(postgres_server: EmbeddedPostgres) -> Iterator[Databases]:
    """Makes databases, by one connection to the maintenance database that outlives each of them."""
    with (
        closing(psycopg2.connect(host=str(postgres_server.socket_dir), user="farm", dbname="postgres")) as connection,
        connection.cursor() as cursor,
    ):
        connection.autocommit = True

        @contextmanager
        def copy_of(template: str) -> Iterator[str]:
            name = f"test_{next(_numbers)}"
            cursor.execute(f'create database "{name}" template "{template}" strategy file_copy')
            yield name
            _wait_until_left(cursor, name)
            # By force: a test that failed may have left connections open.
            cursor.execute(f'drop database "{name}" with (force)')

        yield copy_of


def _wait_until_left(cursor: Any, database: str) -> None:
    """Connections that the test closed end a moment later; dropping a database sleeps 100 ms where it meets one."""
    until_s = time.monotonic() + LEFT_WITHIN_S
    while time.monotonic() < until_s:
        cursor.execute("select from pg_stat_activity where datname = %s", (database,))
        if not cursor.rowcount:
            return
        time.sleep(0.002)  # wait: polls a condition with a limit


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres, databases: Databases) -> Iterator[str]:
    """Name of a database with the newest schema and no rows of its own, for copying."""
    from benchfarm_store import migrations

    with databases("template0") as name:
        migrations.upgrade(postgres_server.database_url(name))
        yield name


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, databases: Databases, template_database: str) -> Iterator[str]:
    """URL of a database of this test's own with the newest schema."""
    with databases(template_database) as name:
        yield postgres_server.database_url(name)


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres, databases: Databases) -> Iterator[str]:
    """URL of a database of this test's own with nothing in it: for tests of the migrations."""
    with databases("template0") as name:
        yield postgres_server.database_url(name)


@pytest.fixture(scope="session")
def made_postgres(server_dir: Path, socket_dir: Path) -> Path:
    """Data of a farm's own Postgres, stopped: the newest schema and no rows. A farm would take seconds to make them."""
    from benchfarm_store import migrations

    made = embedded_postgres(server_dir / "made", socket_dir / "made", copies=socket_dir / "copies", durable=False)
    with run_alone(made.service(), server_dir):
        migrations.upgrade(made.database_url())
    return made.data_dir


@pytest.fixture(scope="session")
def farm_home(made_postgres: Path) -> Callable[[Path], Path]:
    """Makes a home at a path for a farm that is not itself what is tested: its database need not be made again."""

    def make(path: Path) -> Path:
        home = Home(path)
        home.make()
        subprocess.run(["cp", "--archive", made_postgres, home.postgres_dir], check=True)
        return path

    return make


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
