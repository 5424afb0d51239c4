"""What the protocol memory found, beside the times.

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIMES = ("load_ms", "first_ms")
_SIZES = ("peak_pss_bytes", "model_pss_bytes", "mapped_weights_bytes")


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    for name in _TIMES:
        op.add_column("summaries", sa.Column(name, sa.Double(), nullable=True))
    for name in _SIZES:
        op.add_column("summaries", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    set_timeouts()
    for name in (*_SIZES, *_TIMES):
        op.drop_column("summaries", name)
