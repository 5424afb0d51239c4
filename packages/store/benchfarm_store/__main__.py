"""`python -m benchfarm_store migrate | bootstrap | starter-pool`: the steps before a farm's first start.

The database is named by DATABASE_URL. `starter-pool` takes in what BENCHFARM_STARTER_POOL names: `shipped` (the pool
file that comes with the project, if there is one), `none`, or the path of another. Exit codes: 0 done, 1 refused or
away, 2 wrong usage.
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from benchfarm_core.errors import BenchfarmError
from benchfarm_store import migrations, starter_pool
from benchfarm_store.bootstrap import bootstrap
from benchfarm_store.database import Database


def main(arguments: list[str] | None = None) -> int:
    """Run one step; the answer is the exit code."""
    options = _parser().parse_args(arguments)
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        sys.stderr.write("set DATABASE_URL to the farm's Postgres\n")
        return 2
    try:
        if options.step == "migrate":
            migrations.upgrade(url, options.revision, scripts=options.scripts)
        elif options.step == "bootstrap":
            _bootstrap(url, options)
        else:
            _starter_pool(url, os.environ.get("BENCHFARM_STARTER_POOL", starter_pool.SHIPPED), options.told)
    except BenchfarmError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


def _bootstrap(url: str, options: argparse.Namespace) -> None:
    database = Database(url, pool_size=1)
    try:
        with database.transaction() as tx:
            bootstrap(tx, admin_token_file=options.admin_token_file, enrol_token_file=options.enrol_token_file)
    finally:
        database.dispose()


def _starter_pool(url: str, wanted: str, told: Path | None) -> None:
    database = Database(url, pool_size=1)
    try:
        found = starter_pool.load(database, starter_pool.chosen_file(wanted), starter_pool.read_told(told))
    finally:
        database.dispose()
    if told is not None:
        with suppress(OSError):  # a full disk keeps no farm from starting; the next start takes the file in again
            told.write_text(found.model_dump_json())
    print(f"starter pool: {', '.join(found.donors) or 'none'}{f' ({found.why})' if found.why else ''}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchfarm_store", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    migrate = steps.add_parser("migrate", help="bring the database to this version's schema")
    migrate.add_argument("--revision", default="head")
    migrate.add_argument("--scripts", type=Path, default=None, help="the migrations folder")
    first = steps.add_parser("bootstrap", help="make the first tokens")
    first.add_argument("--admin-token-file", type=Path, required=True)
    first.add_argument("--enrol-token-file", type=Path, required=True)
    starter = steps.add_parser("starter-pool", help="take in the pool that comes with the project")
    starter.add_argument(
        "--told", type=Path, default=None, help="what came of it, as JSON, for the next start and people"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
