"""What latency questions of a token had queued to be measured.

Revision ID: 0025
Revises: 0024
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    asked = "board seconds that its questions had queued since"
    since = sa.Column("asked_since", sa.DateTime(timezone=True), nullable=True)
    op.add_column(
        "tokens", sa.Column("asked_s", sa.Double(), server_default=sa.text("0"), nullable=False, comment=asked)
    )
    op.add_column("tokens", since)


def downgrade() -> None:
    set_timeouts()
    op.drop_column("tokens", "asked_since")
    op.drop_column("tokens", "asked_s")
