"""Latencies that somebody else measured. Nothing of the farm's own points here, and these rows point at no platform."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from benchfarm_store.schema import at, metadata

measurement_sets = Table(
    "measurement_sets",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    at("imported_at"),
    Column("stored_bytes", BigInteger, nullable=False, comment="what the account pays for it"),
    Column("public_id", Text, nullable=False, unique=True, comment="of the contents: the same again is the same"),
    Column("author", Text, nullable=False),
    Column("platform", JSON, nullable=False, comment="as those say who measured, with source and licence"),
    Column("rejected", JSON, nullable=False, comment="rows that were not taken, by reason"),
    comment="imported latencies of others; never answers as ours",
)

measurement_set_kernels = Table(
    "measurement_set_kernels",
    metadata,
    Column("set_id", ForeignKey("measurement_sets.id", ondelete="CASCADE"), nullable=False),
    Column("row_count", Integer, nullable=False),
    Column("format", SmallInteger, nullable=False, comment="of the packed rows"),
    Column("type", Text, nullable=False),
    Column("given_as", Text, nullable=False, comment="what the set itself calls the type"),
    Column("columns", ARRAY(Text), nullable=False),
    Column("fixed", JSON, nullable=False, comment="columns that are the same in every row"),
    Column("rows", LargeBinary, nullable=False, comment="configurations and times, packed"),
    PrimaryKeyConstraint("set_id", "type"),
    comment="the rows of imported sets, by kernel type",
)
