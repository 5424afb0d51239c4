"""A pair's times may leave open whether it is fused.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_VERDICT = "ck_fusions_verdict"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    why = "by how much t1 + t2 - t12 may be wrong"
    op.add_column("fusions", sa.Column("spread_ms", sa.Double(), nullable=True, comment=why))
    op.drop_constraint(op.f(_VERDICT), "fusions")
    op.create_check_constraint(op.f(_VERDICT), "fusions", "t12_ms IS NOT NULL OR by_profile IS NOT NULL")


def downgrade() -> None:
    set_timeouts()
    op.execute("DELETE FROM fusions WHERE by_latency IS NULL AND by_profile IS NULL")
    op.drop_constraint(op.f(_VERDICT), "fusions")
    op.create_check_constraint(op.f(_VERDICT), "fusions", "by_latency IS NOT NULL OR by_profile IS NOT NULL")
    op.drop_column("fusions", "spread_ms")
