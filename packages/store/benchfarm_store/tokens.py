"""Tokens: who calls, with which role. Only SHA-256 of a token is stored."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, insert, select, text

from benchfarm_core.access import Role
from benchfarm_core.accounts import CreatedToken, EnrolToken, EnrolTokenRequest, TokenRequest, TokenView
from benchfarm_core.errors import InvalidRequest, NotFound, Unauthenticated
from benchfarm_core.jobs import Page
from benchfarm_core.messages import Nudge, agent_channel
from benchfarm_core.values import Value
from benchfarm_store import cursors
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import account_number, account_text
from benchfarm_store.tables import accounts, enrol_tokens, tokens

TOKEN_PREFIX: Final = "bft_"
ENROL_PREFIX: Final = "bfe_"


class Caller(Value):
    """Whoever holds the token of a call."""

    token_id: str
    account_id: str
    account: str
    role: Role
    agent_id: str | None

    @property
    def account_number(self) -> int:
        """The account's row."""
        return account_number(self.account_id)


def authenticate(tx: Transaction, token: str) -> Caller:
    """Whose token this is. Writes `last_used_at` at most once a minute. Raises Unauthenticated."""
    row = _valid(tx, tx.execute(_AUTHENTICATE, {"hash": token_hash(token)}).one_or_none())
    if row.last_used_at is None or tx.now - row.last_used_at > timedelta(minutes=1):
        tx.execute(_USED, {"id": row.id, "now": tx.now})
    return Caller(
        token_id=row.id,
        account_id=account_text(row.account_id),
        account=row.account,
        role=row.role,
        agent_id=row.agent_id,
    )


def check_valid(tx: Transaction, token_id: str) -> None:
    """Raise Unauthenticated for a token that was revoked or has expired since its caller was let in. Writes nothing."""
    _valid(tx, tx.execute(_BY_ID, {"id": token_id}).one_or_none())


def _valid(tx: Transaction, row: Row[Any] | None) -> Row[Any]:
    """The row of a token that works now. Raises Unauthenticated."""
    if row is None:
        raise Unauthenticated("the token is unknown")
    if row.revoked_at is not None:
        raise Unauthenticated("the token was revoked", code="token_revoked")
    if row.expires_at is not None and row.expires_at <= tx.now:
        raise Unauthenticated("the token has expired")
    return row


_BY_ID = text("SELECT revoked_at, expires_at FROM tokens WHERE id = :id")
_AUTHENTICATE = text("""
    SELECT t.id, t.account_id, a.name AS account, t.role, t.agent_id, t.expires_at, t.revoked_at, t.last_used_at
    FROM tokens t JOIN accounts a ON a.id = t.account_id WHERE t.hash = :hash
""")
# never waits: that somebody else notes the same fact now is enough
_USED = text("""
    UPDATE tokens SET last_used_at = :now
    WHERE id IN (SELECT id FROM tokens WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
""")


def create_token(tx: Transaction, request: TokenRequest) -> CreatedToken:
    """A new token for an account by its name. Raises NotFound; agents get theirs by enrolling."""
    if request.role == Role.AGENT:
        raise InvalidRequest("an agent gets its token by enrolling", field="role")
    account = tx.execute(select(accounts).where(accounts.c.name == request.account)).one_or_none()
    if account is None:
        raise NotFound(f"there is no account {request.account}")
    expires_at = tx.now + timedelta(seconds=request.expires_in_s) if request.expires_in_s else None
    token, row = issue(tx, account.id, request.role, name=request.name, expires_at=expires_at)
    return CreatedToken(token=token, **_view(row).model_dump())


def list_tokens(tx: Transaction, cursor: str | None, limit: int) -> Page[TokenView]:
    """All tokens by age, without their secrets."""
    statement = _TOKENS.order_by(tokens.c.created_at, tokens.c.id).limit(limit + 1)
    if cursor:
        at, token_id = cursors.decode("tokens", cursor, datetime, str)
        statement = statement.where(
            (tokens.c.created_at > at) | ((tokens.c.created_at == at) & (tokens.c.id > token_id))
        )
    return cursors.page(
        tx.execute(statement).all(), limit, _view, lambda row: cursors.encode("tokens", row.created_at, row.id)
    )


def revoke_token(tx: Transaction, token_id: str) -> TokenView:
    """End a token now; an agent's poll that is parked hears of it. Revoking twice changes nothing. Raises NotFound."""
    statement = text("UPDATE tokens SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id")
    tx.execute(statement, {"id": token_id, "now": tx.now})
    row = tx.execute(_TOKENS.where(tokens.c.id == token_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such token")
    if row.agent_id is not None:
        tx.after_commit(Nudge(channel=agent_channel(row.agent_id)))
    return _view(row)


def create_enrol_token(tx: Transaction, request: EnrolTokenRequest, by: Caller) -> EnrolToken:
    """A one-time token with which one agent enrols into the caller's account."""
    return issue_enrol_token(tx, by.account_number, request)


def issue_enrol_token(tx: Transaction, account: int, request: EnrolTokenRequest) -> EnrolToken:
    """As `create_enrol_token`, for the account of that row."""
    token = ENROL_PREFIX + secrets.token_urlsafe(32)
    expires_at = tx.now + timedelta(seconds=request.expires_in_s)
    tx.execute(
        insert(enrol_tokens).values(
            hash=token_hash(token),
            account_id=account,
            name=request.name,
            created_at=tx.now,
            expires_at=expires_at,
        )
    )
    return EnrolToken(token=token, expires_at=expires_at)


def issue(
    tx: Transaction,
    account: int,
    role: Role,
    *,
    name: str = "",
    agent_id: str | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, Row[Any]]:
    """A fresh token text and its row."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token_id = "t_" + secrets.token_hex(8)
    tx.execute(
        insert(tokens).values(
            id=token_id,
            account_id=account,
            agent_id=agent_id,
            role=role,
            name=name,
            hash=token_hash(token),
            created_at=tx.now,
            expires_at=expires_at,
        )
    )
    return token, tx.execute(_TOKENS.where(tokens.c.id == token_id)).one()


def token_hash(token: str) -> bytes:
    """What is stored of a token: it is random, so one round of SHA-256 is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


_TOKENS = select(tokens, accounts.c.name.label("account")).join(accounts, accounts.c.id == tokens.c.account_id)


def _view(row: Any) -> TokenView:
    return TokenView(
        id=row.id,
        account=row.account,
        role=row.role,
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
