"""Tokens of accounts, and one-time tokens with which agents enrol."""

from typing import Annotated

from fastapi import Path

from benchfarm_api.access import AuthenticatorDep, CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import not_found
from benchfarm_api.routes import PageParameters, new_router
from benchfarm_core.accounts import CreatedToken, EnrolToken, EnrolTokenRequest, TokenRequest, TokenView
from benchfarm_core.jobs import Page
from benchfarm_store import tokens

router = new_router("tokens")


@router.post("/tokens", status_code=201, responses=not_found())
def create_token(token: TokenRequest, parts: PartsDep) -> CreatedToken:
    """A new token; its text is shown this once. Agents get theirs by enrolling."""
    with parts.database.transaction() as tx:
        return tokens.create_token(tx, token)


@router.get("/tokens")
def list_tokens(parts: PartsDep, page: PageParameters) -> Page[TokenView]:
    """All tokens by age, without their secrets."""
    with parts.database.transaction(read_only=True) as tx:
        return tokens.list_tokens(tx, page.cursor, page.limit)


@router.delete("/tokens/{token_id}", responses=not_found())
def revoke_token(
    token_id: Annotated[str, Path(max_length=64)], parts: PartsDep, authenticator: AuthenticatorDep
) -> TokenView:
    """End a token; it stops working within two seconds, an agent's within six. Revoking twice changes nothing."""
    with parts.database.transaction() as tx:
        revoked = tokens.revoke_token(tx, token_id)
    authenticator.forget(token_id)
    return revoked


@router.post("/enrol-tokens", status_code=201)
def create_enrol_token(token: EnrolTokenRequest, caller: CallerDep, parts: PartsDep) -> EnrolToken:
    """A one-time token for one agent; shown this once."""
    with parts.database.transaction() as tx:
        return tokens.create_enrol_token(tx, token, caller)
