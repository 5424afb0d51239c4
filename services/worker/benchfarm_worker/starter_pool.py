"""Takes in the pool that comes with the project, before a first start: `python -m benchfarm_worker starter-pool`.

Each of its predictors is read whole, as `pool import` does, which the store could not.
"""

import sys
from contextlib import suppress
from pathlib import Path

from benchfarm_core.errors import BenchfarmError
from benchfarm_predictor import predictor_file
from benchfarm_store import starter_pool
from benchfarm_store.database import Database


def take_in(url: str, wanted: str, told: Path | None) -> int:
    """Take it in, and print what came of it; an exit code: 0 done, also where the file was refused; 1 the database is
    away.

    Args:
        wanted: `shipped`, `none`, or the path of another file; as `starter_pool.chosen_file`.
        told: what came of it, as JSON, for the next start and people.
    """
    file, before = starter_pool.chosen_file(wanted), starter_pool.read_told(told)
    database = Database(url, pool_size=1)
    try:
        found = starter_pool.load(database, file, before, predictor_file.read)
    except BenchfarmError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    finally:
        database.dispose()
    if told is not None:
        with suppress(OSError):  # a full disk keeps no farm from starting; the next start takes the file in again
            told.write_text(found.model_dump_json())
    print(f"starter pool: {', '.join(found.donors) or 'none'}{f' ({found.why})' if found.why else ''}")
    return 0
