"""`python -m benchfarm_store migrate | bootstrap`: the steps before a farm's first start.

Given the token files `migrate` bootstraps too: one process less where both are wanted at once.
The database is named by DATABASE_URL. Exit codes: 0 done, 1 refused or away, 2 wrong usage.
"""

import argparse
import os
import sys
from pathlib import Path

from benchfarm_core.errors import BenchfarmError
from benchfarm_store import migrations
from benchfarm_store.bootstrap import bootstrap
from benchfarm_store.database import Database


def main(arguments: list[str] | None = None) -> int:
    """Run one step; the answer is the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.admin_token_file is None) != (options.enrol_token_file is None):
        parser.error("--admin-token-file and --enrol-token-file belong together")
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        sys.stderr.write("set DATABASE_URL to the farm's Postgres\n")
        return 2
    try:
        if options.step == "migrate":
            migrations.upgrade(url, options.revision, scripts=options.scripts)
        if options.admin_token_file is not None:
            _bootstrap(url, options)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchfarm_store", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    migrate = steps.add_parser("migrate", help="bring the database to this version's schema")
    migrate.add_argument("--revision", default="head")
    migrate.add_argument("--scripts", type=Path, default=None, help="the migrations folder")
    _add_token_files(migrate, required=False)
    first = steps.add_parser("bootstrap", help="make the first tokens")
    _add_token_files(first, required=True)
    return parser


def _add_token_files(step: argparse.ArgumentParser, *, required: bool) -> None:
    step.add_argument("--admin-token-file", type=Path, required=required)
    step.add_argument("--enrol-token-file", type=Path, required=required)


if __name__ == "__main__":
    sys.exit(main())
