"""Bundles for machines that reach nothing, and what of them came back."""

from sqlalchemy import (
    JSON,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_store.schema import at, metadata, text_or_empty

bundles = Table(
    "bundles",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    at("created_at"),
    at("expires_at"),
    Column("key", Text, nullable=False, comment="signs the results; travels in the bundle"),
    Column("contents_sha256", Text, comment="what it was packed to; null: never to its end"),
    text_or_empty("failure"),
    Column(
        "spec", JSON, nullable=False, comment="the order without its key; json, not jsonb: columns keep their order"
    ),
    comment="measurements packed for machines that reach nothing",
)

bundle_parts = Table(
    "bundle_parts",
    metadata,
    Column("bundle_id", ForeignKey("bundles.id"), nullable=False),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("lease_id", ForeignKey("leases.id"), nullable=False),
    at("imported_at"),
    Column("part", SmallInteger, nullable=False),
    Column("run_id", Text, nullable=False, comment="one run of a bundle on one board"),
    Column("sha256", Text, nullable=False, comment="of head and part, as they came"),
    Column("author", Text, nullable=False),
    Column("answer", JSONB, nullable=False, comment="what the import answered"),
    PrimaryKeyConstraint("bundle_id", "run_id", "part"),
    Index("ix_bundle_parts_lease", "lease_id"),
    comment="imported parts of results files",
)
