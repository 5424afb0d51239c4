"""What was found: results, summaries, goldens, orphans, events, support, fusions."""

from typing import Final

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.events import EventKind
from benchfarm_core.summaries import Grade
from benchfarm_store.schema import EMPTY, at, metadata, one_of

SUPPORT_KEY: Final = (
    "family", "engine", "version", "options", "precision", "board_model", "code", "subject", "effective_precision",
)  # fmt: skip
FUSION_KEY: Final = ("engine", "version", "options", "precision", "board_model", "first", "second")

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
    at("measured_at"),
    Column("platform_id", Integer, nullable=False, comment="as the measurement has it, for the list by time"),
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("artifact_sha256", LargeBinary),
    Column("effective_precision", Text, comment="what the engine computed in, by its own word; null: nobody told"),
    Index("ix_results_time", "measured_at"),
    Index("ix_results_platform", "platform_id", "measured_at"),
)

samples = Table(
    "samples",
    metadata,
    Column("measurement_id", ForeignKey("results.measurement_id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

kept_tries = Table(
    "kept_tries",
    metadata,
    Column("measurement_id", ForeignKey("measurements.id"), primary_key=True),
    Column("lease_id", ForeignKey("leases.id"), nullable=False),
    at("measured_at"),
    Column("slowest_ns", BigInteger, comment="counts once a later lease's fastest canary took less"),
    Column("artifact_sha256", LargeBinary),
    Column("effective_precision", Text),
    Column("summary", JSONB, nullable=False),
    Column("data", LargeBinary, nullable=False),
    comment="what a try that was given up would have answered, while its measurement waits",
)

summaries = Table(
    "summaries",
    metadata,
    Column("measurement_id", ForeignKey("results.measurement_id"), nullable=False),
    Column("median_ms", Double, nullable=False),
    Column("normalised_ms", Double),
    Column("load_ms", Double),
    Column("first_ms", Double),
    Column("peak_pss_bytes", BigInteger),
    Column("model_pss_bytes", BigInteger),
    Column("mapped_weights_bytes", BigInteger),
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
    Column(
        "noisy", Boolean, nullable=False, server_default=text("false"), comment="it counts for want of a better answer"
    ),
    Column("grade", Text, nullable=False),
    Column("canary", Text),
    PrimaryKeyConstraint("measurement_id", "rule_version"),
    one_of("grade", Grade),
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
    Column("fastest_ns", BigInteger, comment="the reference for fastest canaries; null: no lease since has told one"),
    Column("lease_id", ForeignKey("leases.id"), nullable=False, comment="the latest lease in the history"),
    Column("sgemm_recent_ns", ARRAY(BigInteger), nullable=False),
    Column("mobilenet_recent_ns", ARRAY(BigInteger), nullable=False),
    at("measured_at"),
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
    at("received_at"),
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
    at("at"),
    Column("data", JSONB, nullable=False),
    PrimaryKeyConstraint("job_id", "number"),
    one_of("kind", EventKind),
)

support_outcomes = Table(
    "support_outcomes",
    metadata,
    Column("family", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("options", Text, nullable=False, comment="as in platform keys; empty: all at their default"),
    Column("precision", Text, nullable=False),
    Column("board_model", Text, nullable=False),
    Column("code", Text, nullable=False, comment="ok or a failure code"),
    Column("subject", Text, nullable=False, comment="the operator that a failure is about"),
    Column(
        "effective_precision", Text, nullable=False, server_default=EMPTY, comment="of an ok; empty where nobody told"
    ),
    Column("count", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False, comment="of board time, where known"),
    Column("relative_l2_max", Double),
    Column("relative_l2_last", Double),
    Column("measurement_id", ForeignKey("measurements.id"), nullable=False, comment="the latest one"),
    at("first_at"),
    at("last_at"),
    PrimaryKeyConstraint(*SUPPORT_KEY),
    comment="what came of every attempt, counted as results come in",
)

fusions = Table(
    "fusions",
    metadata,
    Column("engine", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("options", Text, nullable=False, comment="as in platform keys; empty: all at their default"),
    Column("precision", Text, nullable=False),
    Column("board_model", Text, nullable=False, comment="empty: measured before it was kept"),
    Column("first", Text, nullable=False),
    Column("second", Text, nullable=False),
    Column("t1_ms", Double),
    Column("t2_ms", Double),
    Column("t12_ms", Double),
    Column("spread_ms", Double, comment="by how much t1 + t2 - t12 may be wrong"),
    at("measured_at"),
    Column("by_latency", Boolean),
    Column("by_profile", Boolean),
    PrimaryKeyConstraint(*FUSION_KEY),
    CheckConstraint("t12_ms IS NOT NULL OR by_profile IS NOT NULL", name="verdict"),
    comment="whether an engine computes two operators in a row as one, by each way to find out",
)

fusion_rules = Table(
    "fusion_rules",
    metadata,
    Column("digest", Text, primary_key=True, comment="as in the evidence of predictors"),
    Column("rules", JSONB, nullable=False, comment="[first, second, fused] of each measured pair"),
    comment="what engines were known to fuse when a predictor was made, which answers by it",
)
