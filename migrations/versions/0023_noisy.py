"""How often an answer was given up for noise.

Revision ID: 0023
Revises: 0022
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    given_up = "answers that were given up for noise"
    noisy: sa.Column[int] = sa.Column(
        "noisy", sa.SmallInteger(), server_default=sa.text("0"), nullable=False, comment=given_up
    )
    op.add_column("measurements", noisy)


def downgrade() -> None:
    set_timeouts()
    op.drop_column("measurements", "noisy")
