"""Measurement sets: latencies that somebody else measured, in tables of their own.

Revision ID: 0017
Revises: 0016
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_sets()
    _create_kernels()


def _create_sets() -> None:
    same = "of the contents: the same again is the same"
    platform = "as those say who measured, with source and licence"
    op.create_table(
        "measurement_sets",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False, comment="what the account pays for it"),
        sa.Column("public_id", sa.Text(), nullable=False, comment=same),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("platform", sa.JSON(), nullable=False, comment=platform),
        sa.Column("rejected", sa.JSON(), nullable=False, comment="rows that were not taken, by reason"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_measurement_sets_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement_sets")),
        sa.UniqueConstraint("public_id", name=op.f("uq_measurement_sets_public_id")),
        comment="imported latencies of others; never answers as ours",
    )


def _create_kernels() -> None:
    fixed = "columns that are the same in every row"
    name = op.f("fk_measurement_set_kernels_set_id")
    op.create_table(
        "measurement_set_kernels",
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=False),
        sa.Column("format", sa.SmallInteger(), nullable=False, comment="of the packed rows"),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("given_as", sa.Text(), nullable=False, comment="what the set itself calls the type"),
        sa.Column("columns", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("fixed", sa.JSON(), nullable=False, comment=fixed),
        sa.Column("rows", sa.LargeBinary(), nullable=False, comment="configurations and times, packed"),
        sa.ForeignKeyConstraint(["set_id"], ["measurement_sets.id"], name=name, ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("set_id", "type", name=op.f("pk_measurement_set_kernels")),
        comment="the rows of imported sets, by kernel type",
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("measurement_set_kernels")
    op.drop_table("measurement_sets")
