"""What boards can be set to, what happened to them, and who wanted a platform first.

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KINDS = (
    "kind IN ('registered', 'online', 'offline', 'agent', 'board_model', 'generation', 'address', 'health', 'note')"
)

# whose job stood first in a queue of it: platforms with engine options are the only ones made so far because wanted
_FIRST_WANTED = """
    UPDATE platforms p SET wanted_by_id = (
        SELECT q.account_id FROM queues q WHERE q.platform_id = p.id ORDER BY q.id LIMIT 1)
    WHERE strpos(p.key, '~') > 0
"""


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    for name, comment in (("ranges", "what it can be set to"), ("marks", "why it is no real board")):
        column = sa.Column(name, postgresql.JSONB(), nullable=False, server_default=sa.text("'[]'"), comment=comment)
        op.add_column("boards", column)
    why = "who first wanted it; null: a board was registered with it"
    op.add_column("platforms", sa.Column("wanted_by_id", sa.Integer(), nullable=True, comment=why))
    op.create_foreign_key(op.f("fk_platforms_wanted_by_id"), "platforms", "accounts", ["wanted_by_id"], ["id"])
    op.create_index(op.f("ix_platforms_wanted_by_id"), "platforms", ["wanted_by_id"])
    op.execute(_FIRST_WANTED)
    _create_board_events()
    op.create_index("ix_leases_board", "leases", ["board_id", "id"])


def _create_board_events() -> None:
    op.create_table(
        "board_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False) for name in _TEXTS),
        sa.Column("author", sa.Text(), nullable=False),
        sa.CheckConstraint(_KINDS, name=op.f("ck_board_events_kind")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_board_events_board_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_board_events")),
        comment="what happened to boards, apart from health_changes",
    )
    op.create_index("ix_board_events_board", "board_events", ["board_id", "at", "id"])
    comings = sa.text("kind IN ('online', 'offline')")
    op.create_index("ix_board_events_comings", "board_events", ["at"], postgresql_where=comings)


_TEXTS = ("before", "after", "reason")


def downgrade() -> None:
    set_timeouts()
    op.drop_index("ix_leases_board", table_name="leases")
    op.drop_table("board_events")
    op.drop_column("platforms", "wanted_by_id")
    op.drop_column("boards", "marks")
    op.drop_column("boards", "ranges")
