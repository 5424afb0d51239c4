"""Answers that were given up in hope of a better one, kept while their measurement waits.

Revision ID: 0031
Revises: 0030
Create Date: 2026-11-23
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0031"
down_revision: str | None = "0030"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    # what is being tried now has kept nothing: it ends as it would have
    op.create_table(
        "kept_tries",
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "slowest_ns", sa.BigInteger(), nullable=True, comment="counts once a later lease's fastest canary took less"
        ),
        sa.Column("artifact_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("effective_precision", sa.Text(), nullable=True),
        sa.Column("summary", postgresql.JSONB(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["measurements.id"], name="fk_kept_tries_measurement_id_measurements"
        ),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name="fk_kept_tries_lease_id_leases"),
        sa.PrimaryKeyConstraint("measurement_id", name="pk_kept_tries"),
        comment="what a try that was given up would have answered, while its measurement waits",
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("kept_tries")
