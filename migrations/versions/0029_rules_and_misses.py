"""Rules of fusion by which predictors learnt, what hold-outs cost when measured again, and whose misses tables have.

Revision ID: 0029
Revises: 0028
Create Date: 2026-11-23
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0029"
down_revision: str | None = "0028"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_PK = "pk_export_misses"
_FK = "fk_export_misses_account_id"
_INDEX = "ix_measurements_alone"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    op.create_table(
        "fusion_rules",
        sa.Column("digest", sa.Text(), nullable=False, comment="as in the evidence of predictors"),
        sa.Column("rules", postgresql.JSONB(), nullable=False, comment="[first, second, fused] of each measured pair"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_fusion_rules")),
        comment="what engines were known to fuse when a predictor was made, which answers by it",
    )
    cost = "expected board seconds of these; null: before it was kept"
    op.add_column("predictor_looks", sa.Column("again_s", sa.Double(), nullable=True, comment=cost))
    whose = "whose devices told it"
    op.add_column("export_misses", sa.Column("account_id", sa.Integer(), nullable=True, comment=whose))
    # who told them nobody knows; who had the table made can do most with them
    op.execute("UPDATE export_misses m SET account_id = e.account_id FROM exports e WHERE e.id = m.export_id")
    op.alter_column("export_misses", "account_id", nullable=False)
    op.create_foreign_key(op.f(_FK), "export_misses", "accounts", ["account_id"], ["id"])
    op.drop_constraint(op.f(_PK), "export_misses")
    op.create_primary_key(op.f(_PK), "export_misses", ["export_id", "account_id", "digest"])
    # nobody writes measurements while it is made, a second or two with a million of them
    op.create_index(
        _INDEX,
        "measurements",
        ["platform_id", "queue_id", "wanted_at", "id"],
        postgresql_where=sa.text("state = 'wanted' AND timing = 'alone'"),
    )


def downgrade() -> None:
    set_timeouts()
    op.drop_index(_INDEX, table_name="measurements")
    op.execute(
        """
        CREATE TEMPORARY TABLE merged ON COMMIT DROP AS
        SELECT export_id, digest, sum(reports)::int AS reports, min(first_at) AS first_at, max(last_at) AS last_at,
            (array_agg(genes))[1] AS genes
        FROM export_misses GROUP BY export_id, digest
        """
    )
    op.execute("DELETE FROM export_misses")
    op.drop_constraint(op.f(_PK), "export_misses")
    op.drop_column("export_misses", "account_id")
    op.create_primary_key(op.f(_PK), "export_misses", ["export_id", "digest"])
    columns = "export_id, digest, reports, first_at, last_at, genes"
    op.execute(f"INSERT INTO export_misses ({columns}) SELECT {columns} FROM merged")
    op.execute("DROP TABLE merged")
    op.drop_column("predictor_looks", "again_s")
    op.drop_table("fusion_rules")
