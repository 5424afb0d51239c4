"""Bringing a database to the schema of this version."""

from pathlib import Path
from threading import Lock
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_store.database import Database, Transaction

OLDEST_POSTGRES: Final = 18

_alembic = Lock()
"""Alembic keeps its context in the process; processes meet at an advisory lock, see `migrations/env.py`."""


def upgrade(url: str, revision: str = "head", *, scripts: Path | None = None) -> None:
    """Run the migrations up to a revision; two at once wait for each other. Raises as `check_version`."""
    check_version(url)
    with _alembic:
        command.upgrade(config(url, scripts), revision)


def head_revision() -> str:
    """The newest revision. Raises when there is more than one."""
    revision = ScriptDirectory.from_config(config("")).get_current_head()
    assert revision is not None  # the folder holds at least the first migration
    return revision


def current_revision(tx: Transaction) -> str | None:
    """The revision of a database; None for an empty one."""
    if tx.execute(text("SELECT to_regclass('alembic_version')::text")).scalar_one() is None:
        return None
    found: str | None = tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def check_version(url: str) -> None:
    """Raise InvalidRequest when the server is older than Postgres 18, Unavailable when it is away."""
    database = Database(url, pool_size=1)
    try:
        with database.transaction(read_only=True) as tx:
            number = int(tx.execute(text("SHOW server_version_num")).scalar_one())
    finally:
        database.dispose()
    if number < OLDEST_POSTGRES * 10_000:
        raise InvalidRequest(
            f"the database is Postgres {number // 10_000}; Benchfarm needs {OLDEST_POSTGRES} or newer",
            field="DATABASE_URL",
        )


def config(url: str, scripts: Path | None = None) -> Config:
    """Alembic's settings for a database."""
    settings = Config(attributes={"url": url})
    settings.set_main_option("script_location", str(scripts or _scripts()).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def _scripts() -> Path:
    """The scripts of the checkout this package lies in; for an installed package those beside the process."""
    places = [Path(__file__).resolve().parents[3] / "migrations", Path.cwd() / "migrations"]
    for place in places:
        if (place / "env.py").is_file():
            return place
    raise NotFound(f"there is no migrations folder at {places[0]} or {places[1]}; name it with --scripts")
