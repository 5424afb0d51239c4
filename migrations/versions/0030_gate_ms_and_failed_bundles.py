"""What leases waited at gates, which nobody pays for, why bundles could not be packed, and jobs of questions by end.

Revision ID: 0030
Revises: 0029
Create Date: 2026-11-23
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0030"
down_revision: str | None = "0029"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    # no row is written: what older leases waited nobody knows, and they stay as they were charged
    op.add_column("leases", sa.Column("gate_ms", sa.Double(), server_default=sa.text("0"), nullable=False))
    asked = sa.text("labels ->> 'asked_by' = 'latency'")
    op.create_index("ix_jobs_asked", "jobs", ["account_id", "finished_at"], postgresql_where=asked)
    op.add_column("bundles", sa.Column("failure", sa.Text(), server_default=sa.text("''"), nullable=False))


def downgrade() -> None:
    set_timeouts()
    op.drop_column("bundles", "failure")
    op.drop_index("ix_jobs_asked", "jobs")
    op.drop_column("leases", "gate_ms")
