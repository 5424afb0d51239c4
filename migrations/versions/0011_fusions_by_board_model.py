"""Boards of different models may show different fusions of one engine.

Revision ID: 0011
Revises: 0010
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KEY = ("engine", "version", "options", "precision", "first", "second")
_WITH_MODEL = ("engine", "version", "options", "precision", "board_model", "first", "second")


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    why = "empty: measured before it was kept"
    op.add_column("fusions", sa.Column("board_model", sa.Text(), nullable=False, server_default="", comment=why))
    op.alter_column("fusions", "board_model", server_default=None)
    op.drop_constraint(op.f("pk_fusions"), "fusions")
    op.create_primary_key(op.f("pk_fusions"), "fusions", list(_WITH_MODEL))


def downgrade() -> None:
    set_timeouts()
    same = " AND ".join(f"f.{name} = other.{name}" for name in _KEY)
    op.execute(
        f"DELETE FROM fusions f USING fusions other WHERE {same}"
        " AND (f.measured_at, f.board_model) < (other.measured_at, other.board_model)"
    )
    op.drop_constraint(op.f("pk_fusions"), "fusions")
    op.create_primary_key(op.f("pk_fusions"), "fusions", list(_KEY))
    op.drop_column("fusions", "board_model")
