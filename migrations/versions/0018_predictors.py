"""Predictors: their versions and files.

Revision ID: 0018
Revises: 0017
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    json = postgresql.JSONB(astext_type=sa.Text())
    counted = "counted up for each platform and subject"
    states = "state IN ('candidate', 'active', 'superseded', 'rejected')"
    op.create_table(
        "predictors",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment=counted),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False, comment="a kernel type, or model"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="of the latest change of state"),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("lineage", json, nullable=False, comment="as the file says"),
        sa.Column("evidence", json, nullable=False),
        sa.Column("file", sa.LargeBinary(), nullable=True, comment="null: too old to be returned to"),
        sa.CheckConstraint("state <> 'active' OR file IS NOT NULL", name=op.f("ck_predictors_file")),
        sa.CheckConstraint(states, name=op.f("ck_predictors_state")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_predictors_platform_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_predictors")),
        sa.UniqueConstraint("platform_id", "subject", "version", name="uq_predictors_version"),
        comment="what answers where nothing is measured; at most one version of a platform and subject does",
    )
    op.create_index(
        "uq_predictors_active",
        "predictors",
        ["platform_id", "subject"],
        unique=True,
        postgresql_where=sa.text("state = 'active'"),
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("predictors")
