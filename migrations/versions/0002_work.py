"""Protocols, workloads, models, jobs and measurements

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-20
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_protocols()
    _create_workloads()
    _create_models()
    _create_jobs()
    _create_idempotency_keys()
    _create_queues()
    _create_measurements()
    _create_job_items()
    _create_events()


def downgrade() -> None:
    set_timeouts()
    op.drop_table("events")
    op.drop_table("job_items")
    op.drop_table("measurements")
    op.drop_table("queues")
    op.drop_table("idempotency_keys")
    op.drop_table("jobs")
    op.drop_table("models")
    op.drop_table("workloads")
    op.drop_table("protocols")


def _create_protocols() -> None:
    op.create_table(
        "protocols",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_protocols")),
        sa.UniqueConstraint("public_id", name=op.f("uq_protocols_public_id")),
    )


def _create_workloads() -> None:
    op.create_table(
        "workloads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("digest", sa.Uuid(as_uuid=False), nullable=False, comment="the id after w_"),
        sa.Column("flops", sa.BigInteger(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("input_bytes", sa.BigInteger(), nullable=True),
        sa.Column("output_bytes", sa.BigInteger(), nullable=True),
        sa.Column("weight_bytes", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("reference_sha256", sa.Text(), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False, comment="json, not jsonb: columns keep their order"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workloads")),
        sa.UniqueConstraint("digest", name=op.f("uq_workloads_digest")),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("workload_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("reference_sha256", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("flops", sa.BigInteger(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("opset", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("dims", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("inputs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("graph", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_models_account_id")),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_models_workload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_reference_sha256"), "models", ["reference_sha256"], unique=False)
    op.create_index(op.f("ix_models_sha256"), "models", ["sha256"], unique=False)
    op.create_index(op.f("ix_models_workload_id"), "models", ["workload_id"], unique=False)
    op.create_index(
        "uq_models_account_workload",
        "models",
        ["account_id", "workload_id"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(as_uuid=False), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("retry_of", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("protocol_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column(
            "options",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the spec without its long lists",
        ),
        sa.Column("workload_ids", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("platform_ids", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column(
            "item_nos",
            sa.ARRAY(sa.Integer()),
            nullable=True,
            comment="the items wanted of the whole product; null: all",
        ),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.Column("pending", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("succeeded", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("known", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("plan_cursor", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("event_number", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("device_s_spent", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("progressed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress_event_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'planning', 'running', 'succeeded', 'partial', 'failed', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint(
            "least(planned, pending, succeeded, failed, cancelled, known) >= 0", name=op.f("ck_jobs_not_negative")
        ),
        sa.CheckConstraint("planned + pending + succeeded + failed + cancelled = total", name=op.f("ck_jobs_counts")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_jobs_account_id")),
        sa.ForeignKeyConstraint(["protocol_id"], ["protocols.id"], name=op.f("fk_jobs_protocol_id")),
        sa.ForeignKeyConstraint(["retry_of"], ["jobs.id"], name=op.f("fk_jobs_retry_of")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    _index_jobs()


def _index_jobs() -> None:
    op.create_index("ix_jobs_account", "jobs", ["account_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_expiring",
        "jobs",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_unfinished", "jobs", ["account_id"], unique=False, postgresql_where=sa.text("finished_at IS NULL")
    )


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_idempotency_keys_account_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id")),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)


def _create_queues() -> None:
    op.create_table(
        "queues",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("protocol_id", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_queues_account_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_queues_platform_id")),
        sa.ForeignKeyConstraint(["protocol_id"], ["protocols.id"], name=op.f("fk_queues_protocol_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queues")),
        sa.UniqueConstraint(
            "platform_id",
            "protocol_id",
            "account_id",
            "priority",
            name=op.f("uq_queues_platform_id_protocol_id_account_id_priority"),
        ),
        comment="the groups among which dispatch chooses; rows are never removed, so nothing can be lost between",
    )


def _create_measurements() -> None:
    op.create_table(
        "measurements",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("workload_id", sa.BigInteger(), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_id", sa.BigInteger(), nullable=True, comment="the latest lease that had it"),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("protocol_id", sa.Integer(), nullable=False),
        sa.Column("queue_id", sa.Integer(), nullable=False),
        sa.Column("avoid_board_id", sa.Integer(), nullable=True, comment="where the last attempt failed"),
        sa.Column("expected_s", sa.REAL(), nullable=False),
        sa.Column("repeat_no", sa.SmallInteger(), nullable=False),
        sa.Column("origin_id", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("inconclusive", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("clock_need", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("timing", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "purpose IN ('job', 'probe', 'train', 'holdout', 'golden', 'audit')", name=op.f("ck_measurements_purpose")
        ),
        sa.CheckConstraint("state <> 'leased' OR lease_id IS NOT NULL", name=op.f("ck_measurements_lease")),
        sa.CheckConstraint(
            "state IN ('wanted', 'leased', 'done', 'failed', 'cancelled')", name=op.f("ck_measurements_state")
        ),
        sa.CheckConstraint("timing IN ('alone', 'in_situ')", name=op.f("ck_measurements_timing")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_measurements_platform_id")),
        sa.ForeignKeyConstraint(["protocol_id"], ["protocols.id"], name=op.f("fk_measurements_protocol_id")),
        sa.ForeignKeyConstraint(["queue_id"], ["queues.id"], name=op.f("fk_measurements_queue_id")),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_measurements_workload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
        sa.UniqueConstraint("workload_id", "platform_id", "protocol_id", "timing", "repeat_no", name="identity"),
    )
    op.create_index(
        "ix_measurements_wanted",
        "measurements",
        ["queue_id", "wanted_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'wanted'"),
    )


def _create_job_items() -> None:
    op.create_table(
        "job_items",
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("measurement_id", sa.BigInteger(), nullable=True),
        sa.Column("item_no", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("source IN ('known', 'joined', 'new')", name=op.f("ck_job_items_source")),
        sa.CheckConstraint(
            "state IN ('planned', 'pending', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_job_items_state")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_items_job_id")),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurements.id"], name=op.f("fk_job_items_measurement_id")),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_job_items")),
    )
    op.create_index("ix_job_items_measurement", "job_items", ["measurement_id"], unique=False)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("kind IN ('state', 'progress', 'item_failed')", name=op.f("ck_events_kind")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id")),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_events")),
    )
