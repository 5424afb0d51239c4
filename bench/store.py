"""The store under a million results: the plans of its hot queries, bytes per result, one dispatch decision's time.

python -m bench.store [--results N] [--wanted N] [--decisions N] [--no-report]
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from bench.report import write_section
from bench.store_fill import BOARDS, fill_farm, fill_results, fill_wishes
from bench.store_newer import NEWER_TABLES, fill_newer, newer_calls
from bench.store_plans import BIG_TABLES, TIMES, check, hot_calls
from benchfarm_standalone.children import run_alone
from benchfarm_standalone.postgres import embedded_postgres
from benchfarm_store import dispatching, migrations
from benchfarm_store.database import Database, create_database_engine

RESULT_TABLES = (
    "measurements",
    "results",
    "samples",
    "summaries",
    "leases",
    "lease_items",
    "launches",
    "jobs",
    "job_items",
    "events",
    "workloads",
)
LIMIT_BYTES_PER_RESULT = 2048
LIMIT_BYTES_PER_ROW = 300
LIMIT_DISPATCH_P95_MS = 5.0
Row = dict[str, object]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--wanted", type=int, default=1_000_000)
    parser.add_argument("--decisions", type=int, default=500)
    parser.add_argument("--no-report", action="store_true", help="print only, leave docs/performance.md alone")
    options = parser.parse_args(arguments)
    with _postgres() as url:
        rows, complaints = measure(url, options.results, options.wanted, options.decisions)
    for row in rows:
        print(f"{row['what']:<64} {row['value']!s:>10} {row['limit']}")
    for complaint in complaints:
        print("FAILED:", complaint)
    if not options.no_report:
        write_section("Store", "python -m bench.store", rows)
    return 1 if complaints else 0


@contextmanager
def _postgres() -> Iterator[str]:
    """URL of a Postgres of its own with the newest schema; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
    try:
        postgres = embedded_postgres(folder / "postgres", folder / "s", copies=folder / "copies", durable=False)
        with run_alone(postgres.service(), folder):
            url = postgres.database_url("postgres")
            migrations.upgrade(url)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(url: str, results: int, wanted: int, decisions: int) -> tuple[list[Row], list[str]]:
    """Rows of the report and what is above its limit or scans a big table."""
    database = Database(url)
    began = time.monotonic()
    fill_farm(database)
    fill_results(database, results)
    _vacuum(url)
    rows = _sizes(database, results)
    print(f"{results} results after {time.monotonic() - began:.0f} s", flush=True)
    fill_wishes(database, wanted)
    _vacuum(url)
    print(f"{wanted} wishes after {time.monotonic() - began:.0f} s", flush=True)
    plans, complaints = check(hot_calls(database))
    rows += _dispatch(database, wanted, decisions)
    newer = fill_newer(database)
    _vacuum(url)
    print(f"{newer} rows of the newer tables after {time.monotonic() - began:.0f} s", flush=True)
    more, others = check(newer_calls(database), BIG_TABLES | NEWER_TABLES)
    plans, complaints = plans + more, complaints + others
    rows.append(_row(f"rows of the support matrix, fusion rules and offers beside {results} results", newer))
    rows.append(_row("plans of hot statements without a sequential scan of a big table", plans - len(complaints)))
    complaints += [f"{row['what']}: {row['value']} is not {row['limit']}" for row in rows if _is_over(row)]
    database.dispose()
    return rows, complaints


def _vacuum(url: str) -> None:
    engine = create_database_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _sizes(database: Database, results: int) -> list[Row]:
    """Bytes per result, table by table with indexes and TOAST."""
    with database.transaction(read_only=True) as tx:
        sizes = {row.name: row.size / results for row in tx.execute(_SIZES, {"names": list(RESULT_TABLES)})}
        rows = tx.execute(_ROWS).one()
    return [
        _row(f"bytes per result in all, {results} results", round(sum(sizes.values())), LIMIT_BYTES_PER_RESULT),
        _row("bytes of a result's row with its summary's, mean", round(rows.result), LIMIT_BYTES_PER_ROW),
        _row("bytes of packed samples, mean", round(rows.samples)),
        *(_row(f"bytes per result in {name} with its indexes", round(size)) for name, size in sizes.items()),
    ]


_SIZES = text("""
    SELECT relname AS name, pg_total_relation_size(oid) AS size FROM pg_class
    WHERE relname = ANY(:names) AND relkind = 'r' ORDER BY size DESC
""")
# pg_column_size counts a row's header; its line pointer is 4 bytes more
_ROWS = text("""
    SELECT avg(pg_column_size(r.*) + 4 + pg_column_size(s.*) + 4) AS result, avg(octet_length(d.data)) AS samples
    FROM results r JOIN summaries s USING (measurement_id) JOIN samples d USING (measurement_id)
    WHERE r.measurement_id % 97 = 0
""")


def _dispatch(database: Database, wanted: int, decisions: int) -> list[Row]:
    """One decision with its transaction, each for another board; a few unmeasured ones warm the connection."""
    boards = random.Random(3).sample([f"b_{n}" for n in range(BOARDS) if n != 11], min(decisions + 20, BOARDS - 1))
    times_ms = []
    for board in boards:
        began = time.perf_counter()
        with database.transaction() as tx:
            assert dispatching.dispatch(tx, board, TIMES) is not None, board
        times_ms.append((time.perf_counter() - began) * 1000)
    measured = times_ms[20:]
    what = f"ms of one dispatch decision, {wanted} wanted, {BOARDS} boards"
    return [
        _row(f"{what}: median", round(statistics.median(measured), 2)),
        _row(f"{what}: p95", round(statistics.quantiles(measured, n=20)[-1], 2), LIMIT_DISPATCH_P95_MS),
    ]


def _row(what: str, value: float, limit: float | None = None) -> Row:
    return {"what": what, "value": value, "limit": "" if limit is None else f"<= {limit:g}"}


def _is_over(row: Row) -> bool:
    limit = str(row["limit"]).removeprefix("<= ")
    return bool(limit) and float(str(row["value"])) > float(limit)


if __name__ == "__main__":
    sys.exit(main())
