"""The canaries of a lease normalise its results.

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_COLUMNS = {"sgemm_ns": "the canary's floor in its first results", "mobilenet_ns": "the same of the other canary"}


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    for name, comment in _COLUMNS.items():
        op.add_column("leases", sa.Column(name, sa.BigInteger(), nullable=True, comment=comment))


def downgrade() -> None:
    set_timeouts()
    for name in _COLUMNS:
        op.drop_column("leases", name)
