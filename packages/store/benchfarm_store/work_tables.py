"""What is wanted and who has it: jobs, queues, measurements, leases."""

from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.jobs import ItemSource, ItemState, JobState
from benchfarm_core.measurements import MEASUREMENT_IDENTITY, MeasurementState, Purpose, Timing
from benchfarm_store.schema import ZERO, at, count, metadata, one_of, text_or_empty

WANTED_ALONE = text("state = 'wanted' AND timing = 'alone'")
WANTED: dict[str, Any] = {"postgresql_where": text("state = 'wanted'"), "postgresql_include": ["clock_need"]}

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid(as_uuid=False), primary_key=True, server_default=text("uuidv7()")),
    Column("retry_of", ForeignKey("jobs.id")),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("protocol_id", ForeignKey("protocols.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    text_or_empty("reason"),
    Column("priority", SmallInteger, nullable=False),
    Column("options", JSONB, nullable=False, comment="the spec without its long lists"),
    Column("workload_ids", ARRAY(BigInteger), nullable=False),
    Column("platform_ids", ARRAY(Integer), nullable=False),
    Column("item_nos", ARRAY(Integer), comment="the items wanted of the whole product; null: all"),
    Column("total", Integer, nullable=False),
    Column("planned", Integer, nullable=False),
    count("pending"),
    count("succeeded"),
    count("failed"),
    count("cancelled"),
    count("known"),
    count("plan_cursor"),
    count("event_number"),
    count("device_s_spent", Double),
    at("created_at"),
    at("progressed_at", nullable=True),
    at("progress_event_at", nullable=True),
    at("finished_at", nullable=True),
    at("expires_at", nullable=True),
    one_of("state", JobState),
    CheckConstraint("planned + pending + succeeded + failed + cancelled = total", name="counts"),
    CheckConstraint("least(planned, pending, succeeded, failed, cancelled, known) >= 0", name="not_negative"),
    Index("ix_jobs_account", "account_id", "id"),
    Index("ix_jobs_unfinished", "account_id", postgresql_where=text("finished_at IS NULL")),
    # those that questions made, as `asked_jobs` labels them
    Index("ix_jobs_asked", "account_id", "finished_at", postgresql_where=text("labels ->> 'asked_by' = 'latency'")),
    Index("ix_jobs_expiring", "expires_at", postgresql_where=text("finished_at IS NULL AND expires_at IS NOT NULL")),
)

job_items = Table(
    "job_items",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("measurement_id", ForeignKey("measurements.id")),
    Column("item_no", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("source", Text),
    Column("failure", Text),
    text_or_empty("reason"),
    PrimaryKeyConstraint("job_id", "item_no"),
    one_of("state", ItemState),
    one_of("source", ItemSource),
    Index("ix_job_items_measurement", "measurement_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("request_sha256", Text, nullable=False),
    Column("job_id", ForeignKey("jobs.id")),
    at("created_at"),
    PrimaryKeyConstraint("account_id", "key"),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

queues = Table(
    "queues",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("protocol_id", ForeignKey("protocols.id"), nullable=False),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    UniqueConstraint("platform_id", "protocol_id", "account_id", "priority"),
    comment="the groups among which dispatch chooses; rows are never removed, so nothing can be lost between",
)

measurements = Table(
    "measurements",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("workload_id", ForeignKey("workloads.id"), nullable=False),
    at("wanted_at"),
    Column("lease_id", BigInteger, comment="the latest lease that had it"),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("protocol_id", ForeignKey("protocols.id"), nullable=False),
    Column("queue_id", ForeignKey("queues.id"), nullable=False),
    Column("avoid_board_id", Integer, comment="where the last attempt failed"),
    Column("only_board_id", ForeignKey("boards.id"), comment="the board for whose own sake it is measured"),
    Column("repeat_no", Integer, nullable=False),
    Column("expected_s", REAL, nullable=False),
    Column("origin_id", SmallInteger, nullable=False, server_default=text("1")),
    Column("attempts", SmallInteger, nullable=False, server_default=ZERO),
    Column("inconclusive", SmallInteger, nullable=False, server_default=ZERO),
    Column("noisy", SmallInteger, nullable=False, server_default=ZERO, comment="answers that were given up for noise"),
    Column("losses", SmallInteger, nullable=False, server_default=ZERO, comment="the attempts that took a board down"),
    Column("clock_need", SmallInteger, nullable=False, server_default=ZERO),
    Column("timing", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("failure", Text),
    Column("detail", Text),
    UniqueConstraint(*MEASUREMENT_IDENTITY, name="identity"),
    one_of("timing", Timing),
    one_of("state", MeasurementState),
    one_of("purpose", Purpose),
    CheckConstraint("state <> 'leased' OR lease_id IS NOT NULL", name="lease"),
    Index("ix_measurements_wanted", "platform_id", "queue_id", "wanted_at", "id", **WANTED),
    # for boards that cannot time in situ, before which much of a queue may stand that they cannot take
    Index("ix_measurements_alone", "platform_id", "queue_id", "wanted_at", "id", postgresql_where=WANTED_ALONE),
)

leases = Table(
    "leases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("token", Uuid(as_uuid=False), nullable=False, unique=True, comment="the id after l_"),
    at("offered_at"),
    at("accepted_at", nullable=True),
    at("expires_at"),
    at("ended_at", nullable=True),
    count("conversion_ms", Double),
    count("lease_wall_ms", Double),
    count("gate_ms", Double),
    Column("running_measurement_id", BigInteger, comment="the last one reported as started"),
    Column("sgemm_ns", BigInteger, comment="the canary's floor in its first results"),
    Column("mobilenet_ns", BigInteger, comment="the same of the other canary"),
    Column(
        "fastest_ns",
        BigInteger,
        comment="the clock's canary at its fastest; null: sgemm_ns is what a twentieth of its runs stayed below",
    ),
    Column("agent_id", ForeignKey("agents.id"), nullable=False),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("queue_id", ForeignKey("queues.id"), nullable=False),
    Column("end_reason", Text),
    text_or_empty("detail"),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
    Index("ix_leases_board", "board_id", "id"),
    Index("ix_leases_queue", "queue_id", "id"),
    Index("uq_leases_live", "board_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    Index("ix_leases_expiring", "expires_at", postgresql_where=text("ended_at IS NULL")),
)

lease_items = Table(
    "lease_items",
    metadata,
    Column("lease_id", ForeignKey("leases.id"), nullable=False),
    Column("measurement_id", ForeignKey("measurements.id"), nullable=False),
    at("started_at", nullable=True),
    at("finished_at", nullable=True),
    Column("position", SmallInteger, nullable=False),
    Column("outcome", Text, comment="ok or a failure code"),
    Column("detail", Text),
    PrimaryKeyConstraint("lease_id", "measurement_id"),
)
