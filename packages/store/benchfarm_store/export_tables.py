"""Keys of the farm, tables of search spaces that they signed, and architectures that those tables lacked."""

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_store.schema import at, metadata

farm_keys = Table(
    "farm_keys",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    at("created_at"),
    Column("is_active", Boolean, nullable=False, comment="signs what is made now"),
    Column("secret", Text, nullable=False, comment="leaves this table for a signature alone"),
    Column("public_key", Text, nullable=False),
    Index("uq_farm_keys_active", "is_active", unique=True, postgresql_where=text("is_active")),
    comment="Ed25519 keys of the farm",
)

exports = Table(
    "exports",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("predictor_id", ForeignKey("predictors.id"), nullable=False),
    Column("key_id", ForeignKey("farm_keys.id"), nullable=False),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    at("created_at"),
    Column("space_version", Integer, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("space", Text, nullable=False),
    Column("genes", JSONB, nullable=False, comment="those that may not have all values, with what they may have"),
    Column("wanted", Text, nullable=False, comment="a hash of what was asked for, the kernels of its engine included"),
    Column("kernels", Text, nullable=False, comment="a hash of what its engine was seen to fuse"),
    Column("sha256", Text, nullable=False),
    Column("file", LargeBinary, comment="null: newer exports are kept"),
    UniqueConstraint("predictor_id", "wanted", name="uq_exports_wanted"),
    Index("ix_exports_platform", "platform_id", "space", "id"),
    comment="tables of search spaces that answer without a network",
)

export_misses = Table(
    "export_misses",
    metadata,
    Column("export_id", ForeignKey("exports.id"), nullable=False),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, comment="whose devices told it"),
    Column("reports", Integer, nullable=False),
    at("first_at"),
    at("last_at"),
    Column("digest", Text, nullable=False, comment="of the genes"),
    Column("genes", JSONB, nullable=False),
    PrimaryKeyConstraint("export_id", "account_id", "digest"),
    comment="architectures for which a table had no number",
)
