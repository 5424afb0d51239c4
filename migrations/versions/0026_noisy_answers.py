"""Which answers count although they were noisy.

Revision ID: 0026
Revises: 0025
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    # a constant default is kept in the catalogue: no row is written. Earlier answers that were noisy in their last try
    # are not told from those that were quiet by then, so none is marked
    counts = "it counts for want of a better answer"
    noisy: sa.Column[bool] = sa.Column(
        "noisy", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment=counts
    )
    op.add_column("summaries", noisy)


def downgrade() -> None:
    set_timeouts()
    op.drop_column("summaries", "noisy")
