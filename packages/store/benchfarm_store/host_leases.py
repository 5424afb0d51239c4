"""Whether a board of some host measures now: what computes there for seconds waits for it."""

from typing import Final

from sqlalchemy import text

from benchfarm_core.boards import BOOT
from benchfarm_store.database import Transaction


def is_measuring(tx: Transaction, boot_id: str) -> bool:
    """Whether a board has a lease now that is the host whose kernel's present run has this id; False without an id.

    Offers that nobody has taken yet do not count, nor do leases that ran out.
    """
    return bool(boot_id) and bool(tx.execute(_MEASURING, {"boot": boot_id, "now": tx.now}).scalar_one())


_MEASURING: Final = text(f"""
    SELECT EXISTS (
        SELECT FROM leases l JOIN boards b ON b.id = l.board_id
        WHERE l.ended_at IS NULL AND l.accepted_at IS NOT NULL AND l.expires_at > :now AND b.facts->>'{BOOT}' = :boot)
""")
