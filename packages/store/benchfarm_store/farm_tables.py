"""Who and what there is: accounts, agents, boards, platforms, protocols, models, workloads."""

from sqlalchemy import (
    JSON,
    BigInteger,
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

from benchfarm_core.access import Role
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import BoardState, Health
from benchfarm_store.schema import at, count, metadata, one_of, text_or_empty

NOT_DELETED = text("deleted_at IS NULL")
NO_ITEMS = text("'[]'")

farms = Table(
    "farms",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    Column("salt", Text),
    at("created_at"),
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
    count("stored_bytes", BigInteger),
    count("device_s", Double),
    at("device_s_at"),
    at("created_at"),
)

agents = Table(
    "agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    at("last_heard_at", nullable=True),
    at("created_at"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("agent_id", ForeignKey("agents.id")),
    Column("role", Text, nullable=False),
    text_or_empty("name"),
    Column("hash", LargeBinary, nullable=False, unique=True),
    at("created_at"),
    at("expires_at", nullable=True),
    at("revoked_at", nullable=True),
    at("last_used_at", nullable=True),
    Column(
        "asked_s",
        Double,
        nullable=False,
        server_default=text("0"),
        comment="board seconds that its questions had queued since",
    ),
    at("asked_since", nullable=True),
    one_of("role", Role),
)

enrol_tokens = Table(
    "enrol_tokens",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    text_or_empty("name"),
    at("created_at"),
    at("expires_at"),
    at("used_at", nullable=True),
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
    text_or_empty("reason"),
    Column("generation_id", Integer, comment="the current row of generations"),
    Column("platform_id", Integer, comment="the platform of the latest lease"),
    at("platform_since", nullable=True),
    at("cooling_until", nullable=True),
    at("registered_at"),
    Column("ranges", JSONB, nullable=False, server_default=NO_ITEMS, comment="what it can be set to"),
    Column("marks", JSONB, nullable=False, server_default=NO_ITEMS, comment="why it is no real board"),
    Column(
        "gate_wait",
        JSONB(none_as_null=True),
        nullable=True,
        comment="since when it waits at its gate, and why; null: it does not",
    ),
    one_of("state", BoardState),
    one_of("health", Health),
    Index("ix_boards_dispatchable", "id", postgresql_where=text("state IN ('idle', 'leased', 'cooling')")),
)

generations = Table(
    "generations",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("name", Text, nullable=False),
    at("created_at"),
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
    at("at"),
)

board_events = Table(
    "board_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    at("at"),
    Column("board_id", ForeignKey("boards.id"), nullable=False),
    Column("kind", Text, nullable=False),
    text_or_empty("before"),
    text_or_empty("after"),
    text_or_empty("reason"),
    Column("author", Text, nullable=False),
    Column("report_id", Text, comment="of an agent that may send the same again; null: told once"),
    one_of("kind", BoardEventKind),
    Index(
        "uq_board_events_report",
        "board_id",
        "report_id",
        unique=True,
        postgresql_where=text("report_id IS NOT NULL"),
    ),
    Index("ix_board_events_board", "board_id", "at", "id"),
    Index("ix_board_events_comings", "at", postgresql_where=text("kind IN ('online', 'offline')")),
    comment="what happened to boards, apart from health_changes",
)

platforms = Table(
    "platforms",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("key", Text, nullable=False, unique=True),
    Column("spec", JSONB, nullable=False),
    at("created_at"),
    Column(
        "wanted_by_id",
        ForeignKey("accounts.id"),
        index=True,
        comment="who first wanted it; null: a board was registered with it",
    ),
)

platform_aliases = Table(
    "platform_aliases",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("platform_id", ForeignKey("platforms.id"), nullable=False, index=True),
    at("set_at"),
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
    at("created_at"),
    at("deleted_at", nullable=True),
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
