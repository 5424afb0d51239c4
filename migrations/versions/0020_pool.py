"""The knowledge pool: entries of others, probed platforms, and how alike they are.

Revision ID: 0020
Revises: 0019
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_JSON = postgresql.JSONB(astext_type=sa.Text())


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_entries()
    _create_entries_predictors()
    _create_probed_platforms()
    _create_likenesses()


def downgrade() -> None:
    set_timeouts()
    op.drop_table("likenesses")
    op.drop_table("probed_platforms")
    op.drop_table("pool_predictors")
    op.drop_table("pool_entries")


def _create_entries() -> None:
    same = "of the contents: the same again is the same"
    key = "of the platform, as the farm of origin has it"
    manifest = "origin, platform, licence, source, what there is"
    version = "of the probe set that `probes` is of"
    op.create_table(
        "pool_entries",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False, comment="what the account pays for it"),
        sa.Column("probes_version", sa.SmallInteger(), nullable=False, comment=version),
        sa.Column("public_id", sa.Text(), nullable=False, comment=same),
        sa.Column("key", sa.Text(), nullable=False, comment=key),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("manifest", _JSON, nullable=False, comment=manifest),
        sa.Column("probes", _JSON, nullable=False, comment="times of probes by timing and workload"),
        sa.Column("rows", sa.LargeBinary(), nullable=False, comment="as they lay in the pool file"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_pool_entries_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pool_entries")),
        sa.UniqueConstraint("public_id", name=op.f("uq_pool_entries_public_id")),
        comment="platforms of others, imported: possible donors, never answers as ours",
    )


def _create_entries_predictors() -> None:
    name = op.f("fk_pool_predictors_entry_id")
    op.create_table(
        "pool_predictors",
        sa.Column("entry_id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("file", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["entry_id"], ["pool_entries.id"], name=name, ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("entry_id", "subject", name=op.f("pk_pool_predictors")),
        comment="the predictors that entries brought",
    )


def _create_probed_platforms() -> None:
    probes = "results of the probe set that were compared"
    op.create_table(
        "probed_platforms",
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False, comment=probes),
        sa.Column("newest_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("probes_version", sa.SmallInteger(), nullable=False),
        sa.Column("rule_version", sa.SmallInteger(), nullable=False, comment="of the summaries"),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_probed_platforms_platform_id")),
        sa.PrimaryKeyConstraint("platform_id", name=op.f("pk_probed_platforms")),
        comment="what of each platform's probes was compared: where there is other now, it is compared again",
    )


def _create_likenesses() -> None:
    donor = "the public id of a platform or an entry"
    op.create_table(
        "likenesses",
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False, comment="probes that both have"),
        sa.Column("divergence", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("spearman", sa.Double(), nullable=True),
        sa.Column("log_ratio_variance", sa.Double(), nullable=False),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("probes_version", sa.SmallInteger(), nullable=False),
        sa.Column("is_near", sa.Boolean(), nullable=False),
        sa.Column("donor", sa.Text(), nullable=False, comment=donor),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("timing", sa.Text(), nullable=False),
        sa.CheckConstraint("timing IN ('alone', 'in_situ')", name=op.f("ck_likenesses_timing")),
        sa.ForeignKeyConstraint(["target_id"], ["platforms.id"], name=op.f("fk_likenesses_target_id")),
        sa.PrimaryKeyConstraint("target_id", "subject", "timing", "donor", name=op.f("pk_likenesses")),
        comment="how alike a donor is to a target in one subject, over the probe set",
    )
    op.create_index("ix_likenesses_donor", "likenesses", ["donor"])
