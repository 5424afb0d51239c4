"""The store's bench at a small size: its calls run, and a scan of a big table is told."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from bench.store_fill import fill_farm, fill_results
from bench.store_newer import NEWER_TABLES, fill_newer, newer_calls
from bench.store_plans import BIG_TABLES, check, in_transaction
from benchfarm_store.database import Database

WITHOUT_SCANS = text("""
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$
""")
"""Of small tables a scan is the best plan. Where scans are to be avoided, what is left of them has no index."""


@pytest.fixture
def filled(database_url: str) -> Iterator[Database]:
    """A farm with few results and with few options, connections without scans."""
    database = Database(database_url)
    fill_farm(database)
    fill_results(database, 500)
    assert fill_newer(database, 1) > 10_000
    with database.transaction() as tx:
        tx.execute(WITHOUT_SCANS)
    database.dispose()
    farm = Database(database_url)
    yield farm
    farm.dispose()


def test_calls_of_the_newer_tables_go_by_indexes(filled: Database) -> None:
    calls = list(newer_calls(filled))
    plans, complaints = check(calls, BIG_TABLES | NEWER_TABLES)
    assert complaints == []
    assert plans > 3 * len(calls) > 30


def test_a_scan_of_a_big_table_is_told_with_its_call(filled: Database) -> None:
    slow = in_transaction(filled, lambda tx: tx.execute(text("SELECT count(*) FROM fusions WHERE t1_ms > 5")))
    for big, told in ((NEWER_TABLES, ["slow: sequential scan of fusions"]), (BIG_TABLES, [])):
        _, complaints = check([("slow", slow)], big)
        assert [one.partition(" in ")[0] for one in complaints] == told
