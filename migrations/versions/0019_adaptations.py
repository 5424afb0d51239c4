"""Adaptations: what was asked for, what is measured for them, and what each round brought.

Revision ID: 0019
Revises: 0018
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_adaptations()
    _create_items()
    _create_rounds()


def _create_adaptations() -> None:
    json = postgresql.JSONB(astext_type=sa.Text())
    states = "'queued', 'probing', 'measuring', 'training', 'judging', 'succeeded', 'failed', 'cancelled'"
    op.create_table(
        "adaptations",
        sa.Column("id", sa.Uuid(as_uuid=False), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("leases_after", sa.BigInteger(), nullable=False, comment="leases of before are none of its"),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False, comment="charged with its time on boards"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, comment="of its state"),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True, comment="some process computes"),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("board_s", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("holdout_board_s", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("round", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("request", json, nullable=False),
        sa.Column("donors", json, server_default=sa.text("'[]'"), nullable=False, comment="keys of platforms"),
        sa.Column("predictors", json, server_default=sa.text("'[]'"), nullable=False, comment="what became of each"),
        sa.CheckConstraint(f"state IN ({states})", name=op.f("ck_adaptations_state")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_adaptations_account_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_adaptations_platform_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adaptations")),
        comment="predictors in the making for a platform; one at a time",
    )
    live = sa.text("finished_at IS NULL")
    op.create_index("uq_adaptations_live", "adaptations", ["platform_id"], unique=True, postgresql_where=live)
    op.create_index("ix_adaptations_platform", "adaptations", ["platform_id", "id"])


def _create_items() -> None:
    purposes = "'job', 'probe', 'train', 'holdout', 'golden', 'audit'"
    measurement = op.f("fk_adaptation_items_measurement_id")
    op.create_table(
        "adaptation_items",
        sa.Column("adaptation_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False, comment="0: of the probes"),
        sa.Column("purpose", sa.Text(), nullable=False, comment="what it is for here"),
        sa.Column("source", sa.Text(), nullable=False),
        sa.CheckConstraint(f"purpose IN ({purposes})", name=op.f("ck_adaptation_items_purpose")),
        sa.CheckConstraint("source IN ('known', 'joined', 'new')", name=op.f("ck_adaptation_items_source")),
        sa.ForeignKeyConstraint(["adaptation_id"], ["adaptations.id"], name=op.f("fk_adaptation_items_adaptation_id")),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurements.id"], name=measurement),
        sa.PrimaryKeyConstraint("adaptation_id", "measurement_id", name=op.f("pk_adaptation_items")),
        comment="the measurements of adaptations",
    )


def _create_rounds() -> None:
    op.create_table(
        "adaptation_rounds",
        sa.Column("adaptation_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("point", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["adaptation_id"], ["adaptations.id"], name=op.f("fk_adaptation_rounds_adaptation_id")),
        sa.PrimaryKeyConstraint("adaptation_id", "round", name=op.f("pk_adaptation_rounds")),
        comment="what was known after each round",
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("adaptation_rounds")
    op.drop_table("adaptation_items")
    op.drop_table("adaptations")
