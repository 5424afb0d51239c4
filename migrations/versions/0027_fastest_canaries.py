"""The fastest canary of a lease, by which its times are normalised, and the reference for it.

Revision ID: 0027
Revises: 0026
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_COLUMNS = {
    "leases": "the clock's canary at its fastest; null: sgemm_ns is what a twentieth of its runs stayed below",
    "canary_goldens": "the reference for fastest canaries; null: no lease since has told one",
}


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    # no row is written: what older leases saw stays beside the reference that it was divided by
    for table, comment in _COLUMNS.items():
        op.add_column(table, sa.Column("fastest_ns", sa.BigInteger(), nullable=True, comment=comment))


def downgrade() -> None:
    set_timeouts()
    for table in _COLUMNS:
        op.drop_column(table, "fastest_ns")
