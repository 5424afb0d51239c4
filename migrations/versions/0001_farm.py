"""Accounts, tokens, agents, boards and platforms

Revision ID: 0001
Revises:
Create Date: 2026-11-20
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _create_farms()
    _create_accounts()
    _create_agents()
    _create_tokens()
    _create_enrol_tokens()
    _create_boards()
    _create_generations()
    _create_health_changes()
    _create_platforms()
    _create_platform_aliases()
    _create_board_platforms()


def downgrade() -> None:
    set_timeouts()
    op.drop_table("board_platforms")
    op.drop_table("platform_aliases")
    op.drop_table("platforms")
    op.drop_table("health_changes")
    op.drop_table("generations")
    op.drop_table("boards")
    op.drop_table("enrol_tokens")
    op.drop_table("tokens")
    op.drop_table("agents")
    op.drop_table("accounts")
    op.drop_table("farms")


def _create_farms() -> None:
    op.create_table(
        "farms",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_farms")),
        sa.UniqueConstraint("name", name=op.f("uq_farms_name")),
        comment="origins of measurements; id 1 is this farm, whose salt hides board serials",
    )
    op.execute("""
        INSERT INTO farms (id, name, salt, created_at)
        VALUES (1, 'local', encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), now())
    """)


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("quota_pending_items", sa.Integer(), nullable=False),
        sa.Column("quota_active_jobs", sa.Integer(), nullable=False),
        sa.Column("quota_stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("device_s", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("device_s_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
    )


def _create_agents() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("last_heard_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_agents_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('client', 'operator', 'admin', 'agent')", name=op.f("ck_tokens_role")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_tokens_account_id")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_tokens_agent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )


def _create_enrol_tokens() -> None:
    op.create_table(
        "enrol_tokens",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_enrol_tokens_account_id")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_enrol_tokens_agent_id")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_enrol_tokens")),
    )


def _create_boards() -> None:
    op.create_table(
        "boards",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("hardware_id", sa.Text(), nullable=False),
        sa.Column("board_model", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("engines", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("clock_proof", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("health", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("generation_id", sa.Integer(), nullable=True, comment="the current row of generations"),
        sa.Column("platform_id", sa.Integer(), nullable=True, comment="the platform of the latest lease"),
        sa.Column("platform_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cooling_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "health IN ('good', 'suspect', 'quarantined', 'maintenance', 'retired')", name=op.f("ck_boards_health")
        ),
        sa.CheckConstraint("state IN ('offline', 'idle', 'leased', 'cooling')", name=op.f("ck_boards_state")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_boards_agent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boards")),
        sa.UniqueConstraint("public_id", name=op.f("uq_boards_public_id")),
    )
    op.create_index(op.f("ix_boards_agent_id"), "boards", ["agent_id"], unique=False)
    op.create_index(
        "ix_boards_dispatchable",
        "boards",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state IN ('idle', 'leased', 'cooling')"),
    )


def _create_generations() -> None:
    op.create_table(
        "generations",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_generations_board_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generations")),
        sa.UniqueConstraint("board_id", "name", name=op.f("uq_generations_board_id_name")),
    )


def _create_health_changes() -> None:
    op.create_table(
        "health_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("from_health", sa.Text(), nullable=False),
        sa.Column("to_health", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_health_changes_board_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_health_changes")),
    )
    op.create_index(op.f("ix_health_changes_board_id"), "health_changes", ["board_id"], unique=False)


def _create_platforms() -> None:
    op.create_table(
        "platforms",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_platforms")),
        sa.UniqueConstraint("key", name=op.f("uq_platforms_key")),
        sa.UniqueConstraint("public_id", name=op.f("uq_platforms_public_id")),
    )


def _create_platform_aliases() -> None:
    op.create_table(
        "platform_aliases",
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_platform_aliases_platform_id")),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_platform_aliases")),
    )
    op.create_index(op.f("ix_platform_aliases_platform_id"), "platform_aliases", ["platform_id"], unique=False)


def _create_board_platforms() -> None:
    op.create_table(
        "board_platforms",
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_board_platforms_board_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_board_platforms_platform_id")),
        sa.PrimaryKeyConstraint("board_id", "platform_id", name=op.f("pk_board_platforms")),
        comment="what each board offers now",
    )
    op.create_index(op.f("ix_board_platforms_platform_id"), "board_platforms", ["platform_id"], unique=False)
