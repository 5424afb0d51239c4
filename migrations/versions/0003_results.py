"""Leases, launches, results, samples and summaries

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-20
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_leases()
    _create_lease_items()
    _create_launches()
    _create_results()
    _create_samples()
    _create_summaries()
    _create_canary_goldens()
    _create_orphans()


def downgrade() -> None:
    set_timeouts()
    op.drop_table("orphans")
    op.drop_table("canary_goldens")
    op.drop_table("summaries")
    op.drop_table("samples")
    op.drop_table("results")
    op.drop_table("launches")
    op.drop_table("lease_items")
    op.drop_table("leases")


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("token", sa.Uuid(as_uuid=False), nullable=False, comment="the id after l_"),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("conversion_ms", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_wall_ms", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("running_measurement_id", sa.BigInteger(), nullable=True, comment="the last one reported as started"),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("generation_id", sa.Integer(), nullable=False),
        sa.Column("queue_id", sa.Integer(), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name=op.f("ck_leases_ended")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_leases_agent_id")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_leases_board_id")),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name=op.f("fk_leases_generation_id")),
        sa.ForeignKeyConstraint(["queue_id"], ["queues.id"], name=op.f("fk_leases_queue_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        sa.UniqueConstraint("token", name=op.f("uq_leases_token")),
    )
    op.create_index(
        "ix_leases_expiring", "leases", ["expires_at"], unique=False, postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_index("uq_leases_live", "leases", ["board_id"], unique=True, postgresql_where=sa.text("ended_at IS NULL"))


def _create_lease_items() -> None:
    op.create_table(
        "lease_items",
        sa.Column("lease_id", sa.BigInteger(), nullable=False),
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True, comment="ok or a failure code"),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_lease_items_lease_id")),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurements.id"], name=op.f("fk_lease_items_measurement_id")),
        sa.PrimaryKeyConstraint("lease_id", "measurement_id", name=op.f("pk_lease_items")),
    )


def _create_launches() -> None:
    op.create_table(
        "launches",
        sa.Column("lease_id", sa.BigInteger(), nullable=False),
        sa.Column("launch_no", sa.SmallInteger(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_launches_lease_id")),
        sa.PrimaryKeyConstraint("lease_id", "launch_no", name=op.f("pk_launches")),
    )


def _create_results() -> None:
    op.create_table(
        "results",
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "platform_id", sa.Integer(), nullable=False, comment="as the measurement has it, for the list by time"
        ),
        sa.Column("generation_id", sa.Integer(), nullable=False),
        sa.Column("artifact_sha256", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name=op.f("fk_results_generation_id")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_results_lease_id")),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurements.id"], name=op.f("fk_results_measurement_id")),
        sa.PrimaryKeyConstraint("measurement_id", name=op.f("pk_results")),
    )
    op.create_index("ix_results_platform", "results", ["platform_id", "measured_at"], unique=False)
    op.create_index("ix_results_time", "results", ["measured_at"], unique=False)


def _create_samples() -> None:
    op.create_table(
        "samples",
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["measurement_id"], ["results.measurement_id"], name=op.f("fk_samples_measurement_id")),
        sa.PrimaryKeyConstraint("measurement_id", name=op.f("pk_samples")),
    )
    op.execute("ALTER TABLE samples ALTER COLUMN data SET STORAGE EXTERNAL")  # packed by zstd already


def _create_summaries() -> None:
    op.create_table(
        "summaries",
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("median_ms", sa.Double(), nullable=False),
        sa.Column("normalised_ms", sa.Double(), nullable=True),
        sa.Column("low_ms", sa.Double(), nullable=False),
        sa.Column("high_ms", sa.Double(), nullable=False),
        sa.Column("interval_coverage", sa.REAL(), nullable=False),
        sa.Column("spread", sa.REAL(), nullable=False),
        sa.Column("clean_share", sa.REAL(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("rule_version", sa.SmallInteger(), nullable=False),
        sa.Column("launches", sa.SmallInteger(), nullable=False),
        sa.Column("clock_proof", sa.SmallInteger(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("grade", sa.Text(), nullable=False),
        sa.Column("canary", sa.Text(), nullable=True),
        sa.CheckConstraint("grade IN ('A', 'B', 'C', 'D')", name=op.f("ck_summaries_grade")),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["results.measurement_id"], name=op.f("fk_summaries_measurement_id")
        ),
        sa.PrimaryKeyConstraint("measurement_id", "rule_version", name=op.f("pk_summaries")),
    )
    op.create_index(
        "uq_summaries_active", "summaries", ["measurement_id"], unique=True, postgresql_where=sa.text("active")
    )


def _create_canary_goldens() -> None:
    op.create_table(
        "canary_goldens",
        sa.Column("generation_id", sa.Integer(), nullable=False),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("sgemm_ns", sa.BigInteger(), nullable=True),
        sa.Column("mobilenet_ns", sa.BigInteger(), nullable=True),
        sa.Column("lease_id", sa.BigInteger(), nullable=False, comment="the latest lease in the history"),
        sa.Column("sgemm_recent_ns", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("mobilenet_recent_ns", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name=op.f("fk_canary_goldens_generation_id")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_canary_goldens_lease_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_canary_goldens_platform_id")),
        sa.PrimaryKeyConstraint("generation_id", "platform_id", name=op.f("pk_canary_goldens")),
        comment="per canary the reference, which never changes, and the medians of the latest leases",
    )


def _create_orphans() -> None:
    op.create_table(
        "orphans",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        sa.Column("lease_token", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_orphans_agent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orphans")),
        sa.UniqueConstraint("lease_token", "measurement_id", name=op.f("uq_orphans_lease_token_measurement_id")),
        comment="results that came after their lease had ended; kept, never an answer",
    )
