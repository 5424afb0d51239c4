"""The starter pool: platforms whose rows and predictors come with the project, so that a fresh farm has donors.

It is a pool file like any other (`benchfarm_core/pool_files.py`), lies beside this module, and is made by
`python -m bench.starter_pool`. A farm takes it in when it starts (`benchfarm_worker/starter_pool.py`), once: what an
operator deletes of it stays deleted.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from sqlalchemy import select

from benchfarm_core.access import Role
from benchfarm_core.errors import BenchfarmError, NotFound, Unavailable
from benchfarm_core.pool_files import MAX_POOL_BYTES, OpenedEntry, open_entries
from benchfarm_core.values import Value
from benchfarm_store import pool_entries
from benchfarm_store.bootstrap import FIRST_ACCOUNT
from benchfarm_store.database import Database, Transaction
from benchfarm_store.encodings import account_text
from benchfarm_store.tables import accounts
from benchfarm_store.tokens import Caller
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels

FILE: Final = Path(__file__).with_name("starter.pool")
SHIPPED: Final = "shipped"
NONE: Final = "none"
AUTHOR: Final = "starter-pool"


class StarterPool(Value):
    """What became of it. `sha256`: of the file that was taken in, empty without one. `entries`: their ids; `donors`:
    platform keys of those that are still there; `why`: why a file was not taken in."""

    sha256: str = ""
    entries: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    why: str = ""


def chosen_file(wanted: str) -> Path | None:
    """The file that is meant: the shipped one, another one by its path, or none; None too where none is shipped."""
    if wanted == NONE:
        return None
    if wanted in ("", SHIPPED):
        return FILE if FILE.exists() else None
    return Path(wanted)


def load(
    database: Database, file: Path | None, before: StarterPool, read_predictor: Callable[[bytes], object]
) -> StarterPool:
    """Take the file in, unless `before` says that it was; a file that is refused keeps no farm from starting.

    What was taken in before is remembered meanwhile: an operator may have deleted it. `read_predictor` looks at each
    predictor's file, as `pool_files.open_entries` has it: the store reads headers alone. Raises Unavailable.
    """
    if file is None:
        return before.model_copy(update={"donors": (), "why": ""})
    try:
        data = _read(file)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 == before.sha256:
            with database.transaction(read_only=True) as tx:
                return before.model_copy(update={"donors": _still_there(tx, before.entries), "why": ""})
        opened = open_entries(data, OwnKernels(), CATALOGUE_VERSION, read_predictor)
        with database.transaction() as tx:
            return _taken_in(tx, opened, sha256)
    except Unavailable:
        raise  # nothing was wrong with the file
    except (BenchfarmError, OSError) as error:
        why = error.detail if isinstance(error, BenchfarmError) else str(error.strerror)
        return before.model_copy(update={"donors": (), "why": why})


def _read(file: Path) -> bytes:
    """No more than tells that a file is too large: its path is an operator's, who may name anything. Raises NotFound
    for what is no ordinary file (reading a pipe would wait for its writer), OSError."""
    if file.exists() and not file.is_file():
        raise NotFound("the starter pool is no ordinary file")
    with file.open("rb") as opened:
        return opened.read(MAX_POOL_BYTES + 1)


def _taken_in(tx: Transaction, opened: list[OpenedEntry], sha256: str) -> StarterPool:
    pool_entries.import_entries(tx, opened, by=_first_admin(tx))
    entries = tuple(one.entry.id for one in opened)
    return StarterPool(sha256=sha256, entries=entries, donors=_still_there(tx, entries))


def _first_admin(tx: Transaction) -> Caller:
    """Whose bytes the entries count against. Raises NotFound before `bootstrap`."""
    number = tx.execute(select(accounts.c.id).where(accounts.c.name == FIRST_ACCOUNT)).scalar_one_or_none()
    if number is None:
        raise NotFound(f"there is no account {FIRST_ACCOUNT!r} for the starter pool's bytes")
    return Caller(
        token_id=AUTHOR, account_id=account_text(number), account=FIRST_ACCOUNT, role=Role.ADMIN, agent_id=None
    )


def _still_there(tx: Transaction, entries: tuple[str, ...]) -> tuple[str, ...]:
    wanted = frozenset(entries)
    return tuple(one.key for one in pool_entries.list_entries(tx) if one.id in wanted)


def read_told(file: Path | None) -> StarterPool:
    """What an earlier start told; nothing where there was none, or it cannot be read."""
    if file is None:
        return StarterPool()
    try:
        return StarterPool.model_validate_json(file.read_text())
    except (OSError, ValidationError):
        return StarterPool()
