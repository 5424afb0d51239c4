"""Predictors: every version of every subject on every platform, with its file."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.predictors import PredictorState
from benchfarm_store.schema import at, metadata, one_of

predictors = Table(
    "predictors",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("version", Integer, nullable=False, comment="counted up for each platform and subject"),
    Column("size_bytes", Integer, nullable=False),
    at("created_at"),
    at("activated_at", nullable=True),
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
