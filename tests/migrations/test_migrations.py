import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_store import __main__ as program
from benchfarm_store import migrations
from benchfarm_store.database import Database, create_database_engine
from benchfarm_store.tables import metadata

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
REVISIONS = [script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions()][::-1]


def revision_of(url: str) -> str | None:
    database = Database(url, pool_size=1)
    with database.transaction(read_only=True) as tx:
        found = migrations.current_revision(tx)
    database.dispose()
    return found


def test_there_is_one_head():
    assert len(ScriptDirectory(str(FOLDER)).get_heads()) == 1
    assert migrations.head_revision() == REVISIONS[-1]


def test_empty_to_head_and_again(empty_database_url):
    assert revision_of(empty_database_url) is None
    migrations.upgrade(empty_database_url)
    assert revision_of(empty_database_url) == REVISIONS[-1]
    migrations.upgrade(empty_database_url)


def test_two_processes_at_once_wait_for_each_other(empty_database_url):
    command_line = [sys.executable, "-m", "benchfarm_store", "migrate"]
    environment = os.environ | {"DATABASE_URL": empty_database_url}
    both = [subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in both] == [("", 0), ("", 0)]
    assert revision_of(empty_database_url) == REVISIONS[-1]


def test_tables_and_migrations_do_not_drift(database_url):
    engine = create_database_engine(database_url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        # alembic does not compare checks
        known = connection.execute(text("SELECT conname FROM pg_constraint WHERE contype = 'c'")).scalars().all()
    engine.dispose()
    assert differences == []
    checks = {
        str(c.name) for table in metadata.tables.values() for c in table.constraints if c.name and "ck_" in str(c.name)
    }
    assert checks == {name for name in known if name.startswith("ck_")}


def test_every_step_goes_down_and_up_again(empty_database_url):
    config = migrations.config(empty_database_url)
    for revision in REVISIONS:
        command.upgrade(config, revision)
        command.downgrade(config, "-1")
        command.upgrade(config, revision)
    migrations.downgrade(empty_database_url, "base")
    engine = create_database_engine(empty_database_url)
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
    engine.dispose()
    assert set(tables) <= {"alembic_version"}


def test_rows_in_place_survive_the_later_steps(empty_database_url):
    config = migrations.config(empty_database_url)
    command.upgrade(config, REVISIONS[0])
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        salt = connection.execute(text("SELECT salt FROM farms")).scalar_one()
        connection.execute(
            text(
                "INSERT INTO accounts (name, quota_pending_items, quota_active_jobs, quota_stored_bytes, device_s_at,"
                " created_at) VALUES ('ann', 1, 1, 1, now(), now())"
            )
        )
    for revision in REVISIONS[1:]:
        command.upgrade(config, revision)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT salt FROM farms WHERE id = 1")).scalar_one() == salt
        assert connection.execute(text("SELECT name FROM accounts")).scalars().all() == ["ann"]
    engine.dispose()
    assert len(salt) == 64


def test_each_farm_has_its_own_salt(empty_database_url, database_url):
    migrations.upgrade(empty_database_url)
    salts = set()
    for url in (empty_database_url, database_url):
        engine = create_database_engine(url)
        with engine.connect() as connection:
            salts.add(connection.execute(text("SELECT salt FROM farms")).scalar_one())
        engine.dispose()
    assert len(salts) == 2


def test_every_migration_and_the_template_set_timeouts():
    for script in [*FOLDER.glob("versions/*.py"), FOLDER / "script.py.mako"]:
        source = script.read_text()
        for setting in ("SET LOCAL lock_timeout", "SET LOCAL statement_timeout"):
            assert setting in source, script.name
        assert re.search(r"def upgrade\(\) -> None:\n    set_timeouts\(\)", source), script.name
        assert re.search(r"def downgrade\(\) -> None:\n    set_timeouts\(\)", source), script.name


def test_an_older_postgres_is_refused(database_url, monkeypatch):
    monkeypatch.setattr(migrations, "OLDEST_POSTGRES", 99)
    with pytest.raises(InvalidRequest, match="needs 99"):
        migrations.check_version(database_url)


def test_the_program(empty_database_url, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert program.main(["migrate"]) == 2
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert program.main(["migrate"]) == 0
    assert revision_of(empty_database_url) == REVISIONS[-1]
    files = [tmp_path / "admin", tmp_path / "enrol"]
    arguments = ["bootstrap", "--admin-token-file", str(files[0]), "--enrol-token-file", str(files[1])]
    assert program.main(arguments) == 0
    assert files[0].read_text().startswith("bft_")
    assert files[1].read_text().startswith("bfe_")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://farm@/x?host={tmp_path}")
    assert program.main(["migrate"]) == 1
    assert "away" in capsys.readouterr().err
