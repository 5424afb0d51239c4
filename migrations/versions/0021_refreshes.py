"""Looks at predictors, what canaries said when a version was made, and tries of a step of an adaptation.

Revision ID: 0021
Revises: 0020
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    canaries = "of its platform when it was made, now over the reference; null: unknown"
    op.add_column("predictors", sa.Column("canaries", sa.Double(), nullable=True, comment=canaries))
    tries = "steps begun since the last that brought it on"
    op.add_column(
        "adaptations",
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False, comment=tries),
    )
    _create_looks()


def _create_looks() -> None:
    op.create_table(
        "predictor_looks",
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=True, comment="of hold-outs, again"),
        sa.Column("judges_from", sa.DateTime(timezone=True), nullable=True, comment="hold-outs of before judge nobody"),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False, comment="what was seen needs no other look"),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False, comment="what there was to look at"),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_predictor_looks_platform_id")),
        sa.PrimaryKeyConstraint("platform_id", "subject", name=op.f("pk_predictor_looks")),
        comment="when somebody last looked whether a predictor is to be made anew",
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("predictor_looks")
    op.drop_column("adaptations", "attempts")
    op.drop_column("predictors", "canaries")
