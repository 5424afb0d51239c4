"""Adaptations, their measurements and their rounds."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.adapting import AdaptationState
from benchfarm_core.jobs import ItemSource
from benchfarm_core.measurements import Purpose
from benchfarm_store.schema import ZERO, at, count, metadata, one_of, text_or_empty

_LIVE = text("finished_at IS NULL")
_NONE = text("'[]'")

adaptations = Table(
    "adaptations",
    metadata,
    Column("id", Uuid(as_uuid=False), primary_key=True, server_default=text("uuidv7()")),
    Column("leases_after", BigInteger, nullable=False, comment="leases of before are none of its"),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, comment="charged with its time on boards"),
    at("created_at"),
    Column("changed_at", DateTime(timezone=True), nullable=False, comment="of its state"),
    Column("claimed_until", DateTime(timezone=True), comment="some process computes"),
    at("finished_at", nullable=True),
    Column("waiting_since", DateTime(timezone=True), comment="training waits for its host to be quiet"),
    Column("looked_at", DateTime(timezone=True), comment="when a sweep last counted what boards have yet to measure"),
    count("board_s", Double),
    count("holdout_board_s", Double),
    count("known_board_s", Double),
    count("train_s", Double),
    Column("waited_s", Double, nullable=False, server_default=ZERO, comment="while no board measured anything of it"),
    count("round"),
    count("awaited"),
    Column(
        "attempts",
        SmallInteger,
        nullable=False,
        server_default=ZERO,
        comment="steps begun since the last that brought it on",
    ),
    Column("author", Text, nullable=False),
    Column("state", Text, nullable=False),
    text_or_empty("reason"),
    Column("request", JSONB, nullable=False),
    Column("donors", JSONB, nullable=False, server_default=_NONE, comment="keys of platforms"),
    Column("predictors", JSONB, nullable=False, server_default=_NONE, comment="what became of each"),
    one_of("state", AdaptationState),
    Index("uq_adaptations_live", "platform_id", unique=True, postgresql_where=_LIVE),
    Index("ix_adaptations_platform", "platform_id", "id"),
    comment="predictors in the making for a platform; one at a time",
)

adaptation_items = Table(
    "adaptation_items",
    metadata,
    Column("adaptation_id", ForeignKey("adaptations.id"), nullable=False),
    Column("measurement_id", ForeignKey("measurements.id"), nullable=False),
    Column("round", Integer, nullable=False, comment="0: of the probes"),
    Column("purpose", Text, nullable=False, comment="what it is for here"),
    Column("source", Text, nullable=False),
    Column("given_up", Boolean, nullable=False, server_default=text("false"), comment="it waits for this no more"),
    PrimaryKeyConstraint("adaptation_id", "measurement_id"),
    one_of("purpose", Purpose),
    one_of("source", ItemSource),
    Index("ix_adaptation_items_measurement", "measurement_id"),
    comment="the measurements of adaptations",
)

adaptation_rounds = Table(
    "adaptation_rounds",
    metadata,
    Column("adaptation_id", ForeignKey("adaptations.id"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("point", JSONB, nullable=False),
    PrimaryKeyConstraint("adaptation_id", "round"),
    comment="what was known after each round",
)
