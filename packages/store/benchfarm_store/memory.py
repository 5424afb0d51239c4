"""Whether workloads fit into the memory of the boards that would measure them."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.matching import is_too_large, why_too_large
from benchfarm_store.database import Transaction


class Needing(Protocol):
    """A workload with the least memory that it takes, where that is known."""

    @property
    def needed_bytes(self) -> int | None:
        """In a launch, at least."""


def of_largest_boards(tx: Transaction, platform_ids: Sequence[int]) -> dict[int, int]:
    """The memory in bytes of each platform's largest board; a platform with a board that does not tell is left out."""
    return {row.platform_id: row.memory_bytes for row in tx.execute(_MEMORY, {"ids": list(platform_ids)})}


_MEMORY = text("""
    SELECT x.platform_id, max(x.memory_bytes) AS memory_bytes FROM (
        SELECT o.platform_id, CASE WHEN jsonb_typeof(b.facts->'memory_bytes') = 'number'
            THEN least(CAST(b.facts->>'memory_bytes' AS numeric), 1e18)::bigint ELSE 0 END AS memory_bytes
        FROM board_platforms o JOIN boards b ON b.id = o.board_id
        WHERE o.platform_id = ANY(CAST(:ids AS int[])) AND b.health <> 'retired') x
    GROUP BY x.platform_id HAVING min(x.memory_bytes) > 0
""")


def check(tx: Transaction, workloads: Sequence[Needing], platform_ids: Sequence[int]) -> None:
    """Raise InvalidRequest (`model_too_large_for_board`) for the first workload that fits on none of the platforms."""
    memory = of_largest_boards(tx, platform_ids)
    if len(memory) < len(platform_ids):
        return
    largest = max(memory.values(), default=None)
    for index, workload in enumerate(workloads):
        needed = workload.needed_bytes
        if needed is not None and largest is not None and is_too_large(needed, largest):
            raise InvalidRequest(
                f"no board can measure this: {why_too_large(needed, largest)}",
                code="model_too_large_for_board",
                field=f"workloads.{index}",
            )
