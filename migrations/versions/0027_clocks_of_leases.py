"""A lease's clock is its fastest canary, no longer what a twentieth of them stay below.

Where a processor has a fast mode that it is seldom in, the twentieth lay in it or beside it by luck. What the farm
keeps of old leases cannot say what their fastest was, so both sides of the old quotient, the reference and what each
lease saw, are taken to the fast mode by one factor per generation and platform: the lowest of its latest leases over
the middle one. Times that were normalised stay as they are, but for rounding, and new ones are on the same scale.

Revision ID: 0027
Revises: 0026
Create Date: 2026-11-22
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_FACTORS = """
    SELECT g.generation_id, g.platform_id, min(seen.ns) / percentile_cont(0.5) WITHIN GROUP (ORDER BY seen.ns) AS factor
    FROM canary_goldens g CROSS JOIN LATERAL unnest(g.sgemm_recent_ns) AS seen(ns)
    GROUP BY g.generation_id, g.platform_id
"""


def set_timeouts() -> None:
    """A migration that cannot get its locks soon gives up instead of stopping the farm."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")


def upgrade() -> None:
    set_timeouts()
    op.execute(f"""
        UPDATE leases l SET sgemm_ns = round(l.sgemm_ns * f.factor)
        FROM queues q JOIN ({_FACTORS}) f ON f.platform_id = q.platform_id
        WHERE q.id = l.queue_id AND f.generation_id = l.generation_id AND l.sgemm_ns IS NOT NULL AND f.factor < 1
    """)
    op.execute(f"""
        UPDATE canary_goldens g SET sgemm_ns = round(g.sgemm_ns * f.factor)
        FROM ({_FACTORS}) f
        WHERE f.generation_id = g.generation_id AND f.platform_id = g.platform_id AND f.factor < 1
    """)


def downgrade() -> None:
    set_timeouts()  # nothing else: the quotients are what they were, and an older version goes on from there
