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
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from benchfarm_core.access import Role
from benchfarm_core.accounts import TokenRequest
from benchfarm_core.errors import InvalidRequest
from benchfarm_store import __main__ as program
from benchfarm_store import jobs, migrations, results, summaries, tokens
from benchfarm_store.database import Database, create_database_engine
from benchfarm_store.sample_codec import RESOLUTION_BITS
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
    command.downgrade(config, "base")
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


def contents(engine, of=None):
    """All rows by table; of known tables and columns when `of` holds such rows."""
    with engine.connect() as connection:
        tables = of or [table for table in inspect(connection).get_table_names() if table != "alembic_version"]
        names = {table: ", ".join(of[table][0]) if of and of[table] else "*" for table in tables}
        found = {table: connection.execute(text(f"SELECT {names[table]} FROM {table}")).mappings() for table in tables}
        return {table: sorted((dict(row) for row in rows), key=str) for table, rows in found.items()}


def test_what_was_measured_survives_the_later_steps_and_back(empty_database_url):
    config = migrations.config(empty_database_url)
    command.upgrade(config, "0003")
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql((Path(__file__).parent / "rows_0003.sql").read_text())
    before = contents(engine)
    for table in ("measurements", "leases", "launches", "results", "samples", "summaries", "canary_goldens", "orphans"):
        assert before[table], table
    for revision in REVISIONS[REVISIONS.index("0003") + 1 :]:
        command.upgrade(config, revision)
        assert contents(engine, of=before) == before
    command.downgrade(config, "0003")
    assert contents(engine) == before
    migrations.upgrade(empty_database_url)
    engine.dispose()
    look_at_what_was_measured(empty_database_url)


def look_at_what_was_measured(url):
    """The store of today reads what the farm of revision 0003 wrote."""
    database = Database(url, pool_size=1)
    with database.transaction() as tx:
        token = tokens.create_token(tx, TokenRequest(account="ann", role=Role.CLIENT)).token
        ann = tokens.authenticate(tx, token)
        (job,) = jobs.list_jobs(tx, ann).items
        (found,) = results.list_results(tx, ann).items
        measured, waiting = (results.get_measurement(tx, number, ann) for number in (1, 2))
        tx.execute(text("UPDATE summaries SET rule_version = 1"))
        assert summaries.rederive(tx) == 1
        again = results.get_measurement(tx, 1, ann)
    database.dispose()
    assert (job.name, job.state, job.progress.succeeded, job.progress.pending) == ("before", "running", 1, 1)
    assert again.summary is not None
    assert again.summary.median_ms == found.summary.median_ms
    assert found.summary == measured.summary
    assert (found.summary.median_ms, found.summary.grade) == (1.0004, "A")
    assert [launch.launch_no for launch in measured.samples] == [0, 1, 2]
    assert measured.samples[0].blocks_ns[:2] == pytest.approx((1_000_000, 1_000_100), rel=2**-RESOLUTION_BITS)
    assert measured.evidence is not None
    assert measured.evidence.launches[0]["engine_version"] == "1.31.1"
    assert (waiting.state, waiting.attempts, waiting.summary) == ("wanted", 1, None)


def test_a_farm_with_pairs_is_not_taken_to_before_them(empty_database_url):
    config = migrations.config(empty_database_url)
    command.upgrade(config, "0007")
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO workloads (digest, spec, kind, family) VALUES (gen_random_uuid(), '{}', 'pair', 'pair')"
        )
    before = contents(engine)
    with pytest.raises(DBAPIError, match="restore the backup"):
        command.downgrade(config, "0006")
    assert revision_of(empty_database_url) == "0007"
    assert contents(engine) == before
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM workloads")
    command.downgrade(config, "0006")
    engine.dispose()
    assert revision_of(empty_database_url) == "0006"


def test_who_wanted_a_platform_with_options_first_is_found_in_the_queues(empty_database_url):
    config = migrations.config(empty_database_url)
    command.upgrade(config, "0011")
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        for statement in (
            (
                "INSERT INTO accounts (name, quota_pending_items, quota_active_jobs, quota_stored_bytes, device_s_at,"
                " created_at) SELECT name, 1, 1, 1, now(), now() FROM unnest(ARRAY['ann', 'bob']) AS name"
            ),
            "INSERT INTO protocols (public_id, spec) VALUES ('p', '{}')",
            (
                "INSERT INTO platforms (public_id, key, spec, created_at) SELECT key, key, '{}', now()"
                " FROM unnest(ARRAY['plain', 'wanted~a=1', 'planned~a=1']) AS key"
            ),
            (
                "INSERT INTO queues (platform_id, protocol_id, account_id, priority) SELECT p.id, 1, a.id, 1"
                " FROM platforms p, accounts a WHERE p.key <> 'planned~a=1' ORDER BY a.name DESC"
            ),
        ):
            connection.execute(text(statement))
    command.upgrade(config, "0012")
    wanted = "SELECT p.key, a.name FROM platforms p LEFT JOIN accounts a ON a.id = p.wanted_by_id"
    with engine.connect() as connection:
        found = {row.key: row.name for row in connection.execute(text(wanted))}
    engine.dispose()
    assert found == {"plain": None, "wanted~a=1": "bob", "planned~a=1": None}


def test_outcomes_by_what_they_were_computed_in_are_one_row_again_before_that_was_told(empty_database_url):
    config = migrations.config(empty_database_url)
    command.upgrade(config, "0003")
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql((Path(__file__).parent / "rows_0003.sql").read_text())
    command.upgrade(config, "0027")
    columns = (
        "family, engine, version, options, precision, board_model, code, subject, count, seconds, relative_l2_max,"
        " relative_l2_last, measurement_id, first_at, last_at"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO support_outcomes ({columns}) VALUES ('fc', 'e', '1', '', 'int8', 'm', 'ok', '', 3, 1.5, 1e-3,"
            " 1e-4, 1, '2026-01-01Z', '2026-01-02Z')"
        )
    before = contents(engine)
    command.upgrade(config, "0028")
    assert contents(engine, of=before) == before
    with engine.begin() as connection:
        assert connection.execute(text("SELECT effective_precision FROM results")).scalars().all() == [None]
        assert connection.execute(text("SELECT effective_precision FROM support_outcomes")).scalars().all() == [""]
        connection.exec_driver_sql(
            f"INSERT INTO support_outcomes ({columns}, effective_precision) VALUES ('fc', 'e', '1', '', 'int8', 'm',"
            " 'ok', '', 4, 0.5, 2e-3, NULL, 2, '2026-01-03Z', '2026-01-04Z', 'fp32')"
        )
    command.downgrade(config, "0027")
    (row,) = contents(engine)["support_outcomes"]
    engine.dispose()
    assert (row["count"], row["seconds"], row["relative_l2_max"], row["relative_l2_last"]) == (7, 2.0, 2e-3, 1e-4)
    assert (row["measurement_id"], row["first_at"].day, row["last_at"].day) == (2, 1, 4)


_EXPORT = """
    INSERT INTO accounts (id, name, quota_pending_items, quota_active_jobs, quota_stored_bytes, stored_bytes, device_s,
        device_s_at, created_at) OVERRIDING SYSTEM VALUE VALUES (2, 'bob', 1, 1, 1, 0, 0, '2026-01-01Z', '2026-01-01Z');
    INSERT INTO predictors (platform_id, version, size_bytes, created_at, subject, state, reason, sha256, lineage,
        evidence) VALUES (1, 1, 1, '2026-01-01Z', 'model', 'candidate', '', '', '{}', '{}');
    INSERT INTO farm_keys (public_id, created_at, is_active, secret, public_key) VALUES
        ('k_1', '2026-01-01Z', true, '', '');
    INSERT INTO exports (public_id, platform_id, predictor_id, key_id, account_id, created_at, space_version, blocks,
        size_bytes, space, genes, wanted, kernels, sha256)
        VALUES ('ex_1', 1, 1, 1, 1, '2026-01-01Z', 1, 1, 1, 'bert', '{}', '', '', '');
    INSERT INTO export_misses (export_id, reports, first_at, last_at, digest, genes)
        VALUES (1, 2, '2026-01-01Z', '2026-01-02Z', 'd', '{}');
"""


def test_misses_of_before_are_those_of_who_had_the_table_made_and_one_list_again_on_the_way_back(empty_database_url):
    config = migrations.config(empty_database_url)
    command.upgrade(config, "0003")
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql((Path(__file__).parent / "rows_0003.sql").read_text())
    command.upgrade(config, "0028")
    with engine.begin() as connection:
        connection.exec_driver_sql(_EXPORT)
    command.upgrade(config, "0029")
    with engine.begin() as connection:
        assert connection.execute(text("SELECT account_id, reports FROM export_misses")).all() == [(1, 2)]
        connection.exec_driver_sql(
            "INSERT INTO export_misses (export_id, account_id, reports, first_at, last_at, digest, genes)"
            " SELECT 1, max(id), 3, '2026-01-03Z', '2026-01-04Z', 'd', '{}' FROM accounts"
        )
    command.downgrade(config, "0028")
    (row,) = contents(engine)["export_misses"]
    engine.dispose()
    assert (row["reports"], row["first_at"].day, row["last_at"].day) == (5, 1, 4)


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
    admin = files[0].read_text()
    files[1].unlink()
    assert program.main(["migrate", *arguments[1:]]) == 0, "both steps at once"
    assert (files[0].read_text(), files[1].read_text()[:4]) == (admin, "bfe_")
    with pytest.raises(SystemExit, match="2"):
        program.main(["migrate", *arguments[1:3]])
    assert "belong together" in capsys.readouterr().err
    monkeypatch.setenv("DATABASE_URL", f"postgresql://farm@/x?host={tmp_path}")
    assert program.main(["migrate"]) == 1
    assert "away" in capsys.readouterr().err
