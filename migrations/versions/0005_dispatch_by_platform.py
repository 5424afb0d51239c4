"""Waiting measurements by platform: a queue without any costs dispatch nothing. Losses apart from attempts. Old orphans
by age.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_WANTED = sa.text("state = 'wanted'")
_ORPHANS_BEFORE = "results that came after their lease had ended; kept, never an answer"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    losses = sa.Column(
        "losses",
        sa.SmallInteger(),
        server_default=sa.text("0"),
        nullable=False,
        comment="the attempts that took a board down",
    )
    op.add_column("measurements", losses)
    op.drop_index("ix_measurements_wanted", table_name="measurements")
    columns = ["platform_id", "queue_id", "wanted_at", "id"]
    op.create_index(
        "ix_measurements_wanted", "measurements", columns, postgresql_where=_WANTED, postgresql_include=["clock_need"]
    )
    op.create_index("ix_orphans_received_at", "orphans", ["received_at"])
    op.create_table_comment(
        "orphans",
        "results that came after their lease had ended; kept for a while, never an answer",
        existing_comment=_ORPHANS_BEFORE,
    )


def downgrade() -> None:
    set_timeouts()
    op.create_table_comment("orphans", _ORPHANS_BEFORE)
    op.drop_index("ix_orphans_received_at", table_name="orphans")
    op.drop_index("ix_measurements_wanted", table_name="measurements")
    columns = ["queue_id", "wanted_at", "id"]
    op.create_index("ix_measurements_wanted", "measurements", columns, postgresql_where=_WANTED)
    op.drop_column("measurements", "losses")
