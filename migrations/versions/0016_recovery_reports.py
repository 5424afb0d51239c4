"""Each report of a recovery stands in a board's history once, however often it is sent.

Revision ID: 0016
Revises: 0015
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEX = "uq_board_events_report"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    comment = "of an agent that may send the same again; null: told once"
    op.add_column("board_events", sa.Column("report_id", sa.Text(), nullable=True, comment=comment))
    told_by_one = sa.text("report_id IS NOT NULL")
    op.create_index(INDEX, "board_events", ["board_id", "report_id"], unique=True, postgresql_where=told_by_one)


def downgrade() -> None:
    set_timeouts()
    op.drop_index(INDEX, "board_events")
    op.drop_column("board_events", "report_id")
