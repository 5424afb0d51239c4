"""What came of every attempt, by family and engine; which operators an engine computes as one.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-21
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_OPTIONS = "as in platform keys; empty: all at their default"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def _text(name: str, comment: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, comment=comment)


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def upgrade() -> None:
    set_timeouts()
    op.create_table(
        "support_outcomes",
        _text("family"),
        _text("engine"),
        _text("version"),
        _text("options", _OPTIONS),
        _text("precision"),
        _text("board_model"),
        _text("code", "ok or a failure code"),
        _text("subject", "the operator that a failure is about"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False, comment="of board time, where known"),
        sa.Column("relative_l2_max", sa.Double(), nullable=True),
        sa.Column("relative_l2_last", sa.Double(), nullable=True),
        sa.Column("measurement_id", sa.BigInteger(), nullable=False, comment="the latest one"),
        _moment("first_at"),
        _moment("last_at"),
        sa.PrimaryKeyConstraint(
            "family",
            "engine",
            "version",
            "options",
            "precision",
            "board_model",
            "code",
            "subject",
            name="pk_support_outcomes",
        ),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurements.id"], name="fk_support_outcomes_measurement_id"),
        comment="what came of every attempt, counted as results come in",
    )
    op.create_table(
        "fusions",
        _text("engine"),
        _text("version"),
        _text("options", _OPTIONS),
        _text("precision"),
        _text("first"),
        _text("second"),
        sa.Column("t1_ms", sa.Double(), nullable=True),
        sa.Column("t2_ms", sa.Double(), nullable=True),
        sa.Column("t12_ms", sa.Double(), nullable=True),
        _moment("measured_at"),
        sa.Column("by_latency", sa.Boolean(), nullable=True),
        sa.Column("by_profile", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("engine", "version", "options", "precision", "first", "second", name="pk_fusions"),
        sa.CheckConstraint("by_latency IS NOT NULL OR by_profile IS NOT NULL", name=op.f("ck_fusions_verdict")),
        comment="whether an engine computes two operators in a row as one, by each way to find out",
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_table("fusions")
    op.drop_table("support_outcomes")
