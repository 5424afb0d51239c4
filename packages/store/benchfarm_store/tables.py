"""The schema, private to this package. Every other module of the farm goes through functions.

Things that results point at carry a small surrogate `id`, because a million rows repeat it; the id that
people see is `public_id`. Columns are ordered wide to narrow, so that rows carry no padding.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.access import Role
from benchfarm_core.boards import BoardState, Health
from benchfarm_core.events import EventKind
from benchfarm_core.jobs import ItemSource, ItemState, JobState
from benchfarm_core.measurements import MEASUREMENT_IDENTITY, MeasurementState, Purpose, Timing
from benchfarm_core.summaries import Grade

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ZERO = text("0")
EMPTY = text("''")
NOT_DELETED = text("deleted_at IS NULL")
WANTED: dict[str, Any] = {"postgresql_where": text("state = 'wanted'"), "postgresql_include": ["clock_need"]}


def _at(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    names = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({names})", name=column)


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False, server_default=EMPTY)


def _count(name: str, kind: type[Integer | BigInteger | Double[float]] = Integer) -> Column[Any]:
    return Column(name, kind, nullable=False, server_default=ZERO)


farms = Table(
    "farms",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    Column("salt", Text),
    _at("created_at"),
    comment="origins of measurements; id 1 is this farm, whose salt hides board serials",
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("quota_pending_items", Integer, nullable=False),
    Column("quota_active_jobs", Integer, nullable=False),
    Column("quota_stored_bytes", BigInteger, nullable=False),
    _count("stored_bytes", BigInteger),
    _count("device_s", Double),
    _at("device_s_at"),
    _at("created_at"),
)

agents = Table(
    "agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    _at("last_heard_at", nullable=True),
    _at("created_at"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("agent_id", ForeignKey("agents.id")),
    Column("role", Text, nullable=False),
    _text("name"),
    Column("hash", LargeBinary, nullable=False, unique=True),
    _at("created_at"),
    _at("expires_at", nullable=True),
    _at("revoked_at", nullable=True),
    _at("last_used_at", nullable=True),
    _one_of("role", Role),
)

enrol_tokens = Table(
    "enrol_tokens",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    _text("name"),
    _at("created_at"),
    _at("expires_at"),
    _at("used_at", nullable=True),
    Column("agent_id", ForeignKey("agents.id")),
)

boards = Table(
    "boards",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("agent_id", ForeignKey("agents.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("hardware_id", Text, nullable=False),
    Column("board_model", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("facts", JSONB, nullable=False),
    Column("engines", JSONB, nullable=False),
    Column("clock_proof", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("health", Text, nullable=False),
    _text("reason"),
    Column("generation_id", Integer, comment="the current row of generations"),
    Column("platform_id", Integer, comment="the platform of the latest lease"),
    _at("platform_since", nullable=True),
    _at("cooling_until", nullable=True),
    _at("registered_at"),
    _one_of("state", BoardState),
    _one_of("health", Health),
    Index("ix_boards_dispatchable", "id", postgresql_where=text("state IN ('idle', 'leased', 'cooling')")),
)

generations = Table(
    "generations",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("name", Text, nullable=False),
    _at("created_at"),
    UniqueConstraint("board_id", "name"),
)

health_changes = Table(
    "health_changes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("board_id", ForeignKey("boards.id"), nullable=False, index=True),
    Column("from_health", Text, nullable=False),
    Column("to_health", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("author", Text, nullable=False),
    _at("at"),
)

platforms = Table(
    "platforms",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("key", Text, nullable=False, unique=True),
    Column("spec", JSONB, nullable=False),
    _at("created_at"),
)

platform_aliases = Table(
    "platform_aliases",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False, index=True),
    _at("set_at"),
)

board_platforms = Table(
    "board_platforms",
    metadata,
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False, index=True),
    PrimaryKeyConstraint("board_id", "platform_id"),
    comment="what each board offers now",
)

protocols = Table(
    "protocols",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("spec", JSONB, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("workload_id", ForeignKey("workloads.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False, index=True),
    Column("reference_sha256", Text, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("flops", BigInteger),
    Column("parameters", BigInteger),
    Column("opset", Integer, nullable=False),
    Column("format", Text, nullable=False),
    Column("dims", JSONB, nullable=False),
    Column("inputs", JSONB, nullable=False),
    Column("graph", JSONB, nullable=False),
    Column("reasons", JSONB, nullable=False),
    _at("created_at"),
    _at("deleted_at", nullable=True),
    Index("uq_models_account_workload", "account_id", "workload_id", unique=True, postgresql_where=NOT_DELETED),
)

workloads = Table(
    "workloads",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("digest", Uuid(as_uuid=False), nullable=False, unique=True, comment="the id after w_"),
    Column("flops", BigInteger),
    Column("parameters", BigInteger),
    Column("input_bytes", BigInteger),
    Column("output_bytes", BigInteger),
    Column("weight_bytes", BigInteger),
    Column("kind", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("reference_sha256", Text),
    Column("spec", JSON, nullable=False, comment="json, not jsonb: columns keep their order"),
)

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
    _text("reason"),
    Column("priority", SmallInteger, nullable=False),
    Column("options", JSONB, nullable=False, comment="the spec without its long lists"),
    Column("workload_ids", ARRAY(BigInteger), nullable=False),
    Column("platform_ids", ARRAY(Integer), nullable=False),
    Column("item_nos", ARRAY(Integer), comment="the items wanted of the whole product; null: all"),
    Column("total", Integer, nullable=False),
    Column("planned", Integer, nullable=False),
    _count("pending"),
    _count("succeeded"),
    _count("failed"),
    _count("cancelled"),
    _count("known"),
    _count("plan_cursor"),
    _count("event_number"),
    _count("device_s_spent", Double),
    _at("created_at"),
    _at("progressed_at", nullable=True),
    _at("progress_event_at", nullable=True),
    _at("finished_at", nullable=True),
    _at("expires_at", nullable=True),
    _one_of("state", JobState),
    CheckConstraint("planned + pending + succeeded + failed + cancelled = total", name="counts"),
    CheckConstraint("least(planned, pending, succeeded, failed, cancelled, known) >= 0", name="not_negative"),
    Index("ix_jobs_account", "account_id", "id"),
    Index("ix_jobs_unfinished", "account_id", postgresql_where=text("finished_at IS NULL")),
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
    _text("reason"),
    PrimaryKeyConstraint("job_id", "item_no"),
    _one_of("state", ItemState),
    _one_of("source", ItemSource),
    Index("ix_job_items_measurement", "measurement_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("request_sha256", Text, nullable=False),
    Column("job_id", ForeignKey("jobs.id")),
    _at("created_at"),
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
    _at("wanted_at"),
    Column("lease_id", BigInteger, comment="the latest lease that had it"),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("protocol_id", ForeignKey("protocols.id"), nullable=False),
    Column("queue_id", ForeignKey("queues.id"), nullable=False),
    Column("avoid_board_id", Integer, comment="where the last attempt failed"),
    Column("expected_s", REAL, nullable=False),
    Column("repeat_no", SmallInteger, nullable=False),
    Column("origin_id", SmallInteger, nullable=False, server_default=text("1")),
    Column("attempts", SmallInteger, nullable=False, server_default=ZERO),
    Column("inconclusive", SmallInteger, nullable=False, server_default=ZERO),
    Column("losses", SmallInteger, nullable=False, server_default=ZERO, comment="the attempts that took a board down"),
    Column("clock_need", SmallInteger, nullable=False, server_default=ZERO),
    Column("timing", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("failure", Text),
    Column("detail", Text),
    UniqueConstraint(*MEASUREMENT_IDENTITY, name="identity"),
    _one_of("timing", Timing),
    _one_of("state", MeasurementState),
    _one_of("purpose", Purpose),
    CheckConstraint("state <> 'leased' OR lease_id IS NOT NULL", name="lease"),
    Index("ix_measurements_wanted", "platform_id", "queue_id", "wanted_at", "id", **WANTED),
)

leases = Table(
    "leases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("token", Uuid(as_uuid=False), nullable=False, unique=True, comment="the id after l_"),
    _at("offered_at"),
    _at("accepted_at", nullable=True),
    _at("expires_at"),
    _at("ended_at", nullable=True),
    _count("conversion_ms", Double),
    _count("lease_wall_ms", Double),
    Column("running_measurement_id", BigInteger, comment="the last one reported as started"),
    Column("agent_id", ForeignKey("agents.id"), nullable=False),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("queue_id", ForeignKey("queues.id"), nullable=False),
    Column("end_reason", Text),
    _text("detail"),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
    Index("uq_leases_live", "board_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    Index("ix_leases_expiring", "expires_at", postgresql_where=text("ended_at IS NULL")),
)

lease_items = Table(
    "lease_items",
    metadata,
    Column("lease_id", ForeignKey("leases.id"), nullable=False),
    Column("measurement_id", ForeignKey("measurements.id"), nullable=False),
    _at("started_at", nullable=True),
    _at("finished_at", nullable=True),
    Column("position", SmallInteger, nullable=False),
    Column("outcome", Text, comment="ok or a failure code"),
    Column("detail", Text),
    PrimaryKeyConstraint("lease_id", "measurement_id"),
)

launches = Table(
    "launches",
    metadata,
    Column("lease_id", ForeignKey("leases.id"), nullable=False),
    Column("launch_no", SmallInteger, nullable=False),
    Column("evidence", JSONB, nullable=False),
    PrimaryKeyConstraint("lease_id", "launch_no"),
)

results = Table(
    "results",
    metadata,
    Column("measurement_id", ForeignKey("measurements.id"), primary_key=True),
    Column("lease_id", ForeignKey("leases.id"), nullable=False),
    _at("measured_at"),
    Column("platform_id", Integer, nullable=False, comment="as the measurement has it, for the list by time"),
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("artifact_sha256", LargeBinary),
    Index("ix_results_time", "measured_at"),
    Index("ix_results_platform", "platform_id", "measured_at"),
)

samples = Table(
    "samples",
    metadata,
    Column("measurement_id", ForeignKey("results.measurement_id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

summaries = Table(
    "summaries",
    metadata,
    Column("measurement_id", ForeignKey("results.measurement_id"), nullable=False),
    Column("median_ms", Double, nullable=False),
    Column("normalised_ms", Double),
    Column("low_ms", Double, nullable=False),
    Column("high_ms", Double, nullable=False),
    Column("interval_coverage", REAL, nullable=False),
    Column("spread", REAL, nullable=False),
    Column("clean_share", REAL, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("rule_version", SmallInteger, nullable=False),
    Column("launches", SmallInteger, nullable=False),
    Column("clock_proof", SmallInteger, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("grade", Text, nullable=False),
    Column("canary", Text),
    PrimaryKeyConstraint("measurement_id", "rule_version"),
    _one_of("grade", Grade),
    Index("uq_summaries_active", "measurement_id", unique=True, postgresql_where=text("active")),
    Index("ix_summaries_rule", "rule_version", postgresql_where=text("active")),
)

canary_goldens = Table(
    "canary_goldens",
    metadata,
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("sgemm_ns", BigInteger),
    Column("mobilenet_ns", BigInteger),
    Column("lease_id", ForeignKey("leases.id"), nullable=False, comment="the latest lease in the history"),
    Column("sgemm_recent_ns", ARRAY(BigInteger), nullable=False),
    Column("mobilenet_recent_ns", ARRAY(BigInteger), nullable=False),
    _at("measured_at"),
    PrimaryKeyConstraint("generation_id", "platform_id"),
    comment="per canary the reference, which never changes, and the medians of the latest leases",
)

orphans = Table(
    "orphans",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("measurement_id", BigInteger, nullable=False),
    Column("lease_token", Uuid(as_uuid=False), nullable=False),
    Column("agent_id", ForeignKey("agents.id"), nullable=False),
    Column("data", LargeBinary, nullable=False),
    _at("received_at"),
    UniqueConstraint("lease_token", "measurement_id"),
    Index("ix_orphans_received_at", "received_at"),
    comment="results that came after their lease had ended; kept for a while, never an answer",
)

events = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    _at("at"),
    Column("data", JSONB, nullable=False),
    PrimaryKeyConstraint("job_id", "number"),
    _one_of("kind", EventKind),
)
