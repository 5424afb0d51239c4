"""What keeps adaptations within their budgets, what they wait for, and what they cost.

Revision ID: 0022
Revises: 0021
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    zero, moment = sa.text("0"), sa.DateTime(timezone=True)
    waiting = "training waits for its host to be quiet"
    looked = "when a sweep last counted what boards have yet to measure"
    waited = "while no board measured anything of it"
    op.add_column("adaptations", sa.Column("waiting_since", moment, nullable=True, comment=waiting))
    op.add_column("adaptations", sa.Column("looked_at", moment, nullable=True, comment=looked))
    for name in ("known_board_s", "train_s"):
        op.add_column("adaptations", sa.Column(name, sa.Double(), server_default=zero, nullable=False))
    lapse: sa.Column[float] = sa.Column("waited_s", sa.Double(), server_default=zero, nullable=False, comment=waited)
    op.add_column("adaptations", lapse)
    op.add_column("adaptations", sa.Column("awaited", sa.Integer(), server_default=zero, nullable=False))
    given_up: sa.Column[bool] = sa.Column(
        "given_up", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="it waits for this no more"
    )
    op.add_column("adaptation_items", given_up)
    op.create_index("ix_adaptation_items_measurement", "adaptation_items", ["measurement_id"])
    op.create_index("ix_leases_queue", "leases", ["queue_id", "id"])


def downgrade() -> None:
    set_timeouts()
    op.drop_index("ix_leases_queue", table_name="leases")
    op.drop_index("ix_adaptation_items_measurement", table_name="adaptation_items")
    op.drop_column("adaptation_items", "given_up")
    for name in ("awaited", "waited_s", "train_s", "known_board_s", "looked_at", "waiting_since"):
        op.drop_column("adaptations", name)
