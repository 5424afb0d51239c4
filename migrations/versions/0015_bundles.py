"""Bundles for machines that reach nothing, and the parts of their results that were imported.

Revision ID: 0015
Revises: 0014
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_bundles()
    _create_bundle_parts()


def _create_bundles() -> None:
    order = "the order without its key; json, not jsonb: columns keep their order"
    sealed = "what it was packed to; null: never to its end"
    op.create_table(
        "bundles",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="signs the results; travels in the bundle"),
        sa.Column("contents_sha256", sa.Text(), nullable=True, comment=sealed),
        sa.Column("spec", sa.JSON(), nullable=False, comment=order),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_bundles_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundles")),
        sa.UniqueConstraint("public_id", name=op.f("uq_bundles_public_id")),
        comment="measurements packed for machines that reach nothing",
    )


def _create_bundle_parts() -> None:
    op.create_table(
        "bundle_parts",
        sa.Column("bundle_id", sa.Integer(), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.BigInteger(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False, comment="one run of a bundle on one board"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of head and part, as they came"),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("answer", postgresql.JSONB(), nullable=False, comment="what the import answered"),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_bundle_parts_bundle_id")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_bundle_parts_board_id")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_bundle_parts_lease_id")),
        sa.PrimaryKeyConstraint("bundle_id", "run_id", "part", name=op.f("pk_bundle_parts")),
        comment="imported parts of results files",
    )
    op.create_index("ix_bundle_parts_lease", "bundle_parts", ["lease_id"])


def downgrade() -> None:
    set_timeouts()
    op.drop_table("bundle_parts")
    op.drop_table("bundles")
