"""Boards say that they wait for quiet.

Revision ID: 0013
Revises: 0012
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    comment = "since when it waits at its gate, and why; null: it does not"
    op.add_column("boards", sa.Column("gate_wait", postgresql.JSONB(), nullable=True, comment=comment))


def downgrade() -> None:
    set_timeouts()
    op.drop_column("boards", "gate_wait")
