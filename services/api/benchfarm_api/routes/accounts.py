"""Accounts and their quotas, and whose token is used."""

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import conflict
from benchfarm_api.routes import PageParameters, new_router
from benchfarm_core.accounts import AccountRequest, AccountView, WhoAmI
from benchfarm_core.jobs import Page
from benchfarm_store import accounts

router = new_router("accounts")


@router.get("/whoami")
async def get_whoami(caller: CallerDep) -> WhoAmI:
    """Whose token this is."""
    return WhoAmI(account=caller.account, role=caller.role, token_id=caller.token_id)


@router.post("/accounts", status_code=201, responses=conflict())
def create_account(account: AccountRequest, parts: PartsDep) -> AccountView:
    """A new account; its name is taken for ever."""
    with parts.database.transaction() as tx:
        return accounts.create_account(tx, account)


@router.get("/accounts")
def list_accounts(parts: PartsDep, page: PageParameters) -> Page[AccountView]:
    """All accounts by age."""
    with parts.database.transaction(read_only=True) as tx:
        return accounts.list_accounts(tx, page.cursor, page.limit)
