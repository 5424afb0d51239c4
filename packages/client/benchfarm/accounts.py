"""The part of `Client` about accounts and tokens; administrators only."""

from collections.abc import Iterator

from benchfarm.calls import Calls
from benchfarm.connection import path_part
from benchfarm_core.accounts import AccountRequest, AccountView, CreatedToken, TokenRequest, TokenView


class AccountCalls(Calls):
    """Accounts and tokens as `Client` sees them."""

    def accounts(self) -> Iterator[AccountView]:
        """All accounts."""
        return self._pages(AccountView, "/accounts")

    def create_account(self, request: AccountRequest) -> AccountView:
        """A new account."""
        return self._post(AccountView, "/accounts", request)

    def tokens(self) -> Iterator[TokenView]:
        """All tokens, without their secrets."""
        return self._pages(TokenView, "/tokens")

    def create_token(self, request: TokenRequest) -> CreatedToken:
        """A new token; its text is in this answer and nowhere else."""
        return self._post(CreatedToken, "/tokens", request)

    def revoke_token(self, token_id: str) -> TokenView:
        """End a token. Revoking twice changes nothing."""
        answer = self._connection.request("DELETE", f"/tokens/{path_part(token_id)}")
        return self._connection.value(TokenView, answer)
