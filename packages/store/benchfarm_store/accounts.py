"""Accounts, their quotas, and the device-seconds they used."""

from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.accounts import AccountRequest, AccountView, Quotas
from benchfarm_core.errors import Conflict, QuotaExceeded
from benchfarm_core.jobs import Page
from benchfarm_core.scheduling import decay
from benchfarm_store import cursors
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import account_text
from benchfarm_store.tables import accounts

BUSY_RETRY_S: Final = 60
"""When asking again makes sense after a quota of waiting work was full."""


def create_account(tx: Transaction, request: AccountRequest) -> AccountView:
    """A new account. Raises Conflict when the name is taken."""
    quotas = request.quotas
    statement = (
        insert(accounts)
        .values(
            name=request.name,
            quota_pending_items=quotas.pending_items,
            quota_active_jobs=quotas.active_jobs,
            quota_stored_bytes=quotas.stored_bytes,
            device_s_at=tx.now,
            created_at=tx.now,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(accounts)
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        raise Conflict(f"there is an account {request.name} already")
    return _view(row)


def list_accounts(tx: Transaction, cursor: str | None, limit: int) -> Page[AccountView]:
    """All accounts by age."""
    after = cursors.decode("accounts", cursor, int)[0] if cursor else 0
    statement = select(accounts).where(accounts.c.id > after).order_by(accounts.c.id).limit(limit + 1)
    return cursors.page(tx.execute(statement).all(), limit, _view, lambda row: cursors.encode("accounts", row.id))


def charge(tx: Transaction, account: int, device_s: float) -> None:
    """Add device-seconds to an account's use, which halves every hour."""
    row = tx.execute_prepared(_USED, account).one()
    used = decay(row.device_s, (tx.now - row.device_s_at).total_seconds()) + device_s
    tx.execute_prepared(_USE, account, used, tx.now)


_USED = Prepared("account_used", "int", "SELECT device_s, device_s_at FROM accounts WHERE id = $1 FOR NO KEY UPDATE")
_USE = Prepared(
    "account_use", "int, float8, timestamptz", "UPDATE accounts SET device_s = $2, device_s_at = $3 WHERE id = $1"
)


def take_bytes(tx: Transaction, account: int, size_bytes: int) -> None:
    """Charge stored bytes (negative: give back). Raises QuotaExceeded when the quota is full."""
    statement = text(
        "UPDATE accounts SET stored_bytes = greatest(0, stored_bytes + :size) WHERE id = :id"
        " AND (:size <= 0 OR stored_bytes + :size <= quota_stored_bytes) RETURNING id"
    )
    if tx.execute(statement, {"size": size_bytes, "id": account}).one_or_none() is None:
        limit = tx.execute(text("SELECT quota_stored_bytes FROM accounts WHERE id = :id"), {"id": account})
        raise QuotaExceeded(
            "the account's stored models fill its quota; delete some",
            limit=limit.scalar_one(),
            retry_after_s=3600,
        )


def check_room(tx: Transaction, account: int, items: int, what: str = "job") -> None:
    """Raise QuotaExceeded when one more job or adaptation (`what`), or this many more items, is above the account's
    quotas."""
    limits = tx.execute(_HOLD, {"id": account}).one()
    row = tx.execute(_LOAD, {"id": account}).one()
    if row.jobs >= limits.quota_active_jobs:
        raise QuotaExceeded(
            f"{row.jobs} jobs and adaptations of the account are active; wait for one to end",
            limit=limits.quota_active_jobs,
            retry_after_s=BUSY_RETRY_S,
        )
    if row.waiting + items > limits.quota_pending_items:
        raise QuotaExceeded(
            f"{row.waiting} items wait already and the {what} has {items}",
            limit=limits.quota_pending_items,
            retry_after_s=BUSY_RETRY_S,
        )


def free_items(tx: Transaction, account: int) -> int:
    """How many more items may wait. Nothing is held: `check_room` has the last word."""
    quota = tx.execute(text("SELECT quota_pending_items FROM accounts WHERE id = :id"), {"id": account}).scalar_one()
    return max(int(quota - tx.execute(_LOAD, {"id": account}).one().waiting), 0)


# Two submissions at once cannot both take the last room: the second waits for the account's row, and counts
# in a statement of its own, whose snapshot has the first one's job.
_HOLD = text("SELECT quota_active_jobs, quota_pending_items FROM accounts WHERE id = :id FOR NO KEY UPDATE")
_LOAD = text("""
    SELECT (SELECT count(*) FROM adaptations WHERE account_id = :id AND finished_at IS NULL) + count(*) AS jobs,
        (SELECT count(*) FROM adaptations a JOIN adaptation_items i ON i.adaptation_id = a.id AND NOT i.given_up
            JOIN measurements m ON m.id = i.measurement_id AND m.state IN ('wanted', 'leased')
            WHERE a.account_id = :id AND a.finished_at IS NULL)
            + coalesce(sum(planned + pending), 0) AS waiting
    FROM jobs WHERE account_id = :id AND finished_at IS NULL
""")


def _view(row: Any) -> AccountView:
    return AccountView(
        id=account_text(row.id),
        name=row.name,
        quotas=Quotas(
            pending_items=row.quota_pending_items,
            active_jobs=row.quota_active_jobs,
            stored_bytes=row.quota_stored_bytes,
        ),
        created_at=row.created_at,
    )
