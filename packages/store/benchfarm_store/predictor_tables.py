"""Predictors: every version of every subject on every platform, with its file, and looks whether they are due."""

from sqlalchemy import (
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
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.predictors import PredictorState
from benchfarm_store.schema import at, count, metadata, one_of

predictors = Table(
    "predictors",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("version", Integer, nullable=False, comment="counted up for each platform and subject"),
    Column("size_bytes", Integer, nullable=False),
    at("created_at"),
    at("activated_at", nullable=True),
    Column("canaries", Double, comment="of its platform when it was made, now over the reference; null: unknown"),
    Column("subject", Text, nullable=False, comment="a kernel type, or model"),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="of the latest change of state"),
    Column("sha256", Text, nullable=False),
    Column("lineage", JSONB, nullable=False, comment="as the file says"),
    Column("evidence", JSONB, nullable=False),
    Column("file", LargeBinary, comment="null: too old to be returned to"),
    UniqueConstraint("platform_id", "subject", "version", name="uq_predictors_version"),
    one_of("state", PredictorState),
    CheckConstraint("state <> 'active' OR file IS NOT NULL", name="file"),
    Index("uq_predictors_active", "platform_id", "subject", unique=True, postgresql_where=text("state = 'active'")),
    comment="what answers where nothing is measured; at most one version of a platform and subject does",
)

predictor_looks = Table(
    "predictor_looks",
    metadata,
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    at("looked_at"),
    Column("wanted_at", DateTime(timezone=True), comment="of hold-outs, again"),
    Column("again_s", Double, comment="expected board seconds of these; null: before it was kept"),
    Column("judges_from", DateTime(timezone=True), comment="hold-outs of before judge nobody"),
    count("attempts", SmallInteger),
    Column("is_done", Boolean, nullable=False, comment="what was seen needs no other look"),
    Column("subject", Text, nullable=False),
    Column("seen", Text, nullable=False, comment="what there was to look at"),
    PrimaryKeyConstraint("platform_id", "subject"),
    comment="when somebody last looked whether a predictor is to be made anew",
)
