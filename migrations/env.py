"""How Alembic reaches the database: one transaction for all steps, one migrating process at a time."""

import os

from alembic import context
from sqlalchemy import text

from benchfarm_store.database import create_database_engine
from benchfarm_store.tables import metadata

MIGRATION_LOCK = 0x62656E6368
"""Any fixed number: the advisory lock that two migrating processes meet at."""


def run() -> None:
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
    engine = create_database_engine(url)
    try:
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
            with context.begin_transaction():
                connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                context.run_migrations()
    finally:
        engine.dispose()


run()
