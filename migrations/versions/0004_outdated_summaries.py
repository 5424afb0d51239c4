"""Active summaries by rule version: the sweep finds the outdated ones among millions

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-20
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    op.create_index("ix_summaries_rule", "summaries", ["rule_version"], postgresql_where=sa.text("active"))


def downgrade() -> None:
    set_timeouts()
    op.drop_index("ix_summaries_rule", table_name="summaries")
