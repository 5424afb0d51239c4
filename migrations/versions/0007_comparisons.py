"""Pairs of workloads and the answers of their measurements.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-21
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_VERDICTS = "verdict IN ('a_faster', 'b_faster', 'no_difference', 'inconclusive')"

# an older farm can read no job, measurement or result of a pair, and to delete them is not for a migration to decide
_REFUSE_WITH_PAIRS = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM workloads WHERE kind = 'pair') THEN
            RAISE EXCEPTION 'pairs of workloads are stored, which a farm older than revision 0007 cannot read'
                USING HINT = 'restore the backup from before the upgrade instead';
        END IF;
    END $$
"""


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    op.create_table(
        "pairs",
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("workload_id", "a_id", "b_id")),
        *(
            sa.ForeignKeyConstraint([name], ["workloads.id"], name=op.f(f"fk_pairs_{name}"))
            for name in ("workload_id", "a_id", "b_id")
        ),
        sa.PrimaryKeyConstraint("workload_id", name=op.f("pk_pairs")),
        comment="the sides of workloads of kind pair: files and rights are theirs",
    )
    for side in ("a_id", "b_id"):
        op.create_index(f"ix_pairs_{side}", "pairs", [side])
    numbers = ("change_percent", "low_percent", "high_percent", "tolerance_percent", "a_ms", "b_ms")
    op.create_table(
        "comparisons",
        sa.Column("measurement_id", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in numbers),
        *(sa.Column(name, sa.REAL(), nullable=False) for name in ("coverage", "clean_share")),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("pairs", "rounds")),
        *(sa.Column(name, sa.SmallInteger(), nullable=False) for name in ("rule_version", "launches", "clock_proof")),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["results.measurement_id"], name=op.f("fk_comparisons_measurement_id")
        ),
        sa.PrimaryKeyConstraint("measurement_id", name=op.f("pk_comparisons")),
        sa.CheckConstraint(_VERDICTS, name=op.f("ck_comparisons_verdict")),
        comment="the answer of a pair's measurement by the latest rule that derived one",
    )
    op.create_index("ix_comparisons_rule", "comparisons", ["rule_version"])


def downgrade() -> None:
    set_timeouts()
    op.execute(_REFUSE_WITH_PAIRS)
    op.drop_index("ix_comparisons_rule", table_name="comparisons")
    op.drop_table("comparisons")
    op.drop_table("pairs")
