"""Pairs of workloads, and what was found of them."""

from sqlalchemy import (
    REAL,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)

from benchfarm_core.comparing import ComparisonVerdict
from benchfarm_store.schema import metadata, one_of

pairs = Table(
    "pairs",
    metadata,
    Column("workload_id", ForeignKey("workloads.id"), nullable=False),
    Column("a_id", ForeignKey("workloads.id"), nullable=False, index=True),
    Column("b_id", ForeignKey("workloads.id"), nullable=False, index=True),
    PrimaryKeyConstraint("workload_id"),
    comment="the sides of workloads of kind pair: files and rights are theirs",
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("measurement_id", ForeignKey("results.measurement_id"), nullable=False),
    Column("change_percent", Double, nullable=False),
    Column("low_percent", Double, nullable=False),
    Column("high_percent", Double, nullable=False),
    Column("tolerance_percent", Double, nullable=False),
    Column("a_ms", Double, nullable=False),
    Column("b_ms", Double, nullable=False),
    Column("coverage", REAL, nullable=False),
    Column("clean_share", REAL, nullable=False),
    Column("pairs", Integer, nullable=False),
    Column("rounds", Integer, nullable=False),
    Column("rule_version", SmallInteger, nullable=False),
    Column("launches", SmallInteger, nullable=False),
    Column("clock_proof", SmallInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    PrimaryKeyConstraint("measurement_id"),
    one_of("verdict", ComparisonVerdict),
    Index("ix_comparisons_rule", "rule_version"),
    comment="the answer of a pair's measurement by the latest rule that derived one",
)
