"""The golden suite on boards, and board models that are one.

Revision ID: 0014
Revises: 0013
Create Date: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_OLD_KINDS = ("registered", "online", "offline", "agent", "board_model", "generation", "address", "health", "note")
_NEW_KINDS = (*_OLD_KINDS[:7], "reboot", "golden", "recovery", *_OLD_KINDS[7:])
_REASONS = "reason IN ('enrolled', 'generation', 'rebooted', 'released', 'again', 'day')"
_OUTCOMES = "outcome IN ('begun', 'steady', 'drifted', 'failed', 'lapsed')"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    _check_kinds(_NEW_KINDS)
    why = "the board for whose own sake it is measured"
    op.add_column("measurements", sa.Column("only_board_id", sa.Integer(), nullable=True, comment=why))
    key = op.f("fk_measurements_only_board_id")
    op.create_foreign_key(key, "measurements", "boards", ["only_board_id"], ["id"])
    # every board of a model repeats the same suite every day: 16 bits would not last a year
    op.alter_column("measurements", "repeat_no", type_=sa.Integer(), existing_nullable=False)
    _create_runs()
    _create_times()
    op.create_table(
        "board_model_merges",
        sa.Column("board_model", sa.Text(), nullable=False),
        sa.Column("merged_into", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("board_model", name=op.f("pk_board_model_merges")),
        comment="what a board model that agents report is called here",
    )


def _check_kinds(kinds: Sequence[str]) -> None:
    op.drop_constraint(op.f("ck_board_events_kind"), "board_events", type_="check")
    named = ", ".join(f"'{kind}'" for kind in kinds)
    op.create_check_constraint(op.f("ck_board_events_kind"), "board_events", f"kind IN ({named})")


def _create_runs() -> None:
    op.create_table(
        "golden_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drift", sa.Double(), nullable=True, comment="the largest move from the history, as a share"),
        sa.Column("board_s", sa.Double(), nullable=True, comment="of the board's time, once it has ended"),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("generation_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("boot_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint(_REASONS, name=op.f("ck_golden_runs_reason")),
        sa.CheckConstraint(_OUTCOMES, name=op.f("ck_golden_runs_outcome")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_golden_runs_board_id")),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name=op.f("fk_golden_runs_generation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_golden_runs")),
        comment="each run of the golden suite on a board",
    )
    op.create_index("ix_golden_runs_board", "golden_runs", ["board_id", "wanted_at"])
    live = sa.text("ended_at IS NULL")
    op.create_index("uq_golden_runs_live", "golden_runs", ["board_id"], unique=True, postgresql_where=live)


def _create_times() -> None:
    op.create_table(
        "golden_times",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("measurement_id", sa.BigInteger(), nullable=True, comment="null: a canary beside the suite"),
        sa.Column("normalised_ms", sa.Double(), nullable=True),
        sa.Column("median_ms", sa.Double(), nullable=True),
        sa.Column("platform_id", sa.Integer(), nullable=False),
        sa.Column("spread", sa.REAL(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["golden_runs.id"], name=op.f("fk_golden_times_run_id")),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurements.id"], name=op.f("fk_golden_times_measurement_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_golden_times_platform_id")),
        sa.PrimaryKeyConstraint("run_id", "platform_id", "name", name=op.f("pk_golden_times")),
        comment="what a run measures, and its times once it has ended",
    )


def downgrade() -> None:
    set_timeouts()
    for table in ("board_model_merges", "golden_times", "golden_runs"):
        op.drop_table(table)
    op.alter_column("measurements", "repeat_no", type_=sa.SmallInteger(), existing_nullable=False)
    op.drop_column("measurements", "only_board_id")
    op.execute("DELETE FROM board_events WHERE kind IN ('reboot', 'golden', 'recovery')")
    _check_kinds(_OLD_KINDS)
