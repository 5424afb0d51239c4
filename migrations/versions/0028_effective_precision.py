"""What an engine computed a result in, and the support matrix by it.

Revision ID: 0028
Revises: 0027
Create Date: 2026-11-23
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0028"
down_revision: str | None = "0027"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLE = "support_outcomes"
_PK = "pk_support_outcomes"
_KEY = ("family", "engine", "version", "options", "precision", "board_model", "code", "subject")
_OF_A_RESULT = "what the engine computed in, by its own word; null: nobody told"
_OF_AN_OUTCOME = "of an ok; empty where nobody told"


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    # no row is written: what older results were computed in nobody knows
    op.add_column("results", sa.Column("effective_precision", sa.Text(), nullable=True, comment=_OF_A_RESULT))
    column = sa.Column("effective_precision", sa.Text(), nullable=False, server_default="", comment=_OF_AN_OUTCOME)
    op.add_column(_TABLE, column)
    op.drop_constraint(op.f(_PK), _TABLE)
    op.create_primary_key(op.f(_PK), _TABLE, [*_KEY, "effective_precision"])


def downgrade() -> None:
    set_timeouts()
    key = ", ".join(_KEY)
    op.execute(
        f"""
        CREATE TEMPORARY TABLE merged ON COMMIT DROP AS
        SELECT {key}, sum(count)::bigint AS count, sum(seconds) AS seconds, max(relative_l2_max) AS relative_l2_max,
            (array_agg(relative_l2_last ORDER BY last_at DESC) FILTER (WHERE relative_l2_last IS NOT NULL))[1]
                AS relative_l2_last,
            (array_agg(measurement_id ORDER BY last_at DESC))[1] AS measurement_id,
            min(first_at) AS first_at, max(last_at) AS last_at
        FROM {_TABLE} GROUP BY {key}
        """
    )
    op.execute(f"DELETE FROM {_TABLE}")
    op.drop_constraint(op.f(_PK), _TABLE)
    op.drop_column(_TABLE, "effective_precision")
    op.create_primary_key(op.f(_PK), _TABLE, list(_KEY))
    columns = f"{key}, count, seconds, relative_l2_max, relative_l2_last, measurement_id, first_at, last_at"
    op.execute(f"INSERT INTO {_TABLE} ({columns}) SELECT {columns} FROM merged")
    op.execute("DROP TABLE merged")
    op.drop_column("results", "effective_precision")
