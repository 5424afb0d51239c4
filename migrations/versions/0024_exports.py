"""Tables of search spaces for offline use, the keys that sign them, and what they lacked.

Revision ID: 0024
Revises: 0023
Create Date: 2026-11-22
"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def at(name: str) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def text(name: str, comment: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, comment=comment)


def upgrade() -> None:
    set_timeouts()
    op.create_table(
        "farm_keys",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), primary_key=True),
        text("public_id"),
        at("created_at"),
        sa.Column("is_active", sa.Boolean(), nullable=False, comment="signs what is made now"),
        text("secret", "leaves this table for a signature alone"),
        text("public_key"),
        sa.UniqueConstraint("public_id", name="uq_farm_keys_public_id"),
        comment="Ed25519 keys of the farm",
    )
    active = sa.text("is_active")
    op.create_index("uq_farm_keys_active", "farm_keys", ["is_active"], unique=True, postgresql_where=active)
    op.create_table(
        "exports",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), primary_key=True),
        text("public_id"),
        sa.Column("platform_id", sa.Integer(), sa.ForeignKey("platforms.id"), nullable=False),
        sa.Column("predictor_id", sa.Integer(), sa.ForeignKey("predictors.id"), nullable=False),
        sa.Column("key_id", sa.Integer(), sa.ForeignKey("farm_keys.id"), nullable=False),
        sa.Column("account_id", sa.Integer(), sa.ForeignKey("accounts.id"), nullable=False),
        at("created_at"),
        sa.Column("space_version", sa.Integer(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        text("space"),
        sa.Column(
            "genes",
            postgresql.JSONB(),
            nullable=False,
            comment="those that may not have all values, with what they may have",
        ),
        text("wanted", "a hash of what was asked for, the kernels of its engine included"),
        text("kernels", "a hash of what its engine was seen to fuse"),
        text("sha256"),
        sa.Column("file", sa.LargeBinary(), nullable=True, comment="null: newer exports are kept"),
        sa.UniqueConstraint("public_id", name="uq_exports_public_id"),
        sa.UniqueConstraint("predictor_id", "wanted", name="uq_exports_wanted"),
        comment="tables of search spaces that answer without a network",
    )
    op.create_index("ix_exports_platform", "exports", ["platform_id", "space", "id"])
    op.create_table(
        "export_misses",
        sa.Column("export_id", sa.Integer(), sa.ForeignKey("exports.id"), nullable=False),
        sa.Column("reports", sa.Integer(), nullable=False),
        at("first_at"),
        at("last_at"),
        text("digest", "of the genes"),
        sa.Column("genes", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("export_id", "digest", name="pk_export_misses"),
        comment="architectures for which a table had no number",
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("export_misses")
    op.drop_index("ix_exports_platform", table_name="exports")
    op.drop_table("exports")
    op.drop_index("uq_farm_keys_active", table_name="farm_keys")
    op.drop_table("farm_keys")
