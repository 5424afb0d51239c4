"""`python -m benchfarm_worker.starter_pool`: takes in the pool that comes with the project, before a first start.

The database is named by DATABASE_URL, the file by BENCHFARM_STARTER_POOL: `shipped` (the pool file that comes with the
project, if there is one), `none`, or the path of another. Each of its predictors is read whole, as `pool import` does.
Exit codes: 0 done, also where the file was refused; 1 the database is away, 2 wrong usage.
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from benchfarm_core.errors import BenchfarmError
from benchfarm_predictor import predictor_file
from benchfarm_store import starter_pool
from benchfarm_store.database import Database


def main(arguments: list[str] | None = None) -> int:
    """Take it in; the answer is the exit code."""
    options = _parser().parse_args(arguments)
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        sys.stderr.write("set DATABASE_URL to the farm's Postgres\n")
        return 2
    try:
        _take_in(url, os.environ.get("BENCHFARM_STARTER_POOL", starter_pool.SHIPPED), options.told)
    except BenchfarmError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


def _take_in(url: str, wanted: str, told: Path | None) -> None:
    file, before = starter_pool.chosen_file(wanted), starter_pool.read_told(told)
    database = Database(url, pool_size=1)
    try:
        found = starter_pool.load(database, file, before, predictor_file.read)
    finally:
        database.dispose()
    if told is not None:
        with suppress(OSError):  # a full disk keeps no farm from starting; the next start takes the file in again
            told.write_text(found.model_dump_json())
    print(f"starter pool: {', '.join(found.donors) or 'none'}{f' ({found.why})' if found.why else ''}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchfarm_worker.starter_pool")
    parser.add_argument(
        "--told", type=Path, default=None, help="what came of it, as JSON, for the next start and people"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
