"""The golden suite's runs, and board models that were found to be one."""

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from benchfarm_core.board_health import GoldenOutcome, GoldenReason
from benchfarm_store.schema import at, metadata, one_of, text_or_empty

golden_runs = Table(
    "golden_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    at("wanted_at"),
    at("ended_at", nullable=True),
    Column("drift", Double, comment="the largest move from the history, as a share"),
    Column("board_s", Double, comment="of the board's time, once it has ended"),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("outcome", Text),
    text_or_empty("detail"),
    text_or_empty("boot_id"),
    one_of("reason", GoldenReason),
    one_of("outcome", GoldenOutcome),
    Index("ix_golden_runs_board", "board_id", "wanted_at"),
    Index("uq_golden_runs_live", "board_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    comment="each run of the golden suite on a board",
)

golden_times = Table(
    "golden_times",
    metadata,
    Column("run_id", ForeignKey("golden_runs.id"), nullable=False),
    Column("measurement_id", ForeignKey("measurements.id"), comment="null: a canary beside the suite"),
    Column("normalised_ms", Double),
    Column("median_ms", Double),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("spread", REAL),
    Column("name", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "platform_id", "name"),
    comment="what a run measures, and its times once it has ended",
)

board_model_merges = Table(
    "board_model_merges",
    metadata,
    Column("board_model", Text, primary_key=True),
    Column("merged_into", Text, nullable=False),
    Column("author", Text, nullable=False),
    text_or_empty("reason"),
    at("at"),
    comment="what a board model that agents report is called here",
)
