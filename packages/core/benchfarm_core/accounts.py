"""Accounts, their quotas, and tokens."""

from datetime import datetime

from pydantic import Field

from benchfarm_core.access import Role
from benchfarm_core.values import Answer, Value


class Quotas(Value):
    """Limits of one account."""

    pending_items: int = Field(default=200_000, ge=0, lt=2**31)
    active_jobs: int = Field(default=1000, ge=0, lt=2**31)
    stored_bytes: int = Field(default=20 * 2**30, ge=0, lt=2**53)
    """Like every number of the API below 2**53: readers of JSON that keep numbers as doubles take it exactly."""


class AccountRequest(Value):
    """A new account."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$")
    quotas: Quotas = Quotas()


class AccountView(Answer):
    """An account as the API shows it."""

    id: str
    name: str
    quotas: Quotas
    created_at: datetime


class TokenRequest(Value):
    """A new token for an account."""

    account: str = Field(max_length=60)
    role: Role
    name: str = Field(default="", max_length=100)
    expires_in_s: int | None = Field(default=None, ge=1, le=10 * 365 * 86_400)


class TokenView(Answer):
    """A token without its secret."""

    id: str
    account: str
    role: Role
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class CreatedToken(TokenView):
    """A new token; `token` is shown this once."""

    token: str


class EnrolTokenRequest(Value):
    """A one-time token with which one agent enrols. `name` becomes the agent's; empty, the agent names itself."""

    name: str = Field(default="", max_length=100)
    expires_in_s: int = Field(default=86_400, ge=60, le=30 * 86_400)


class EnrolToken(Answer):
    """The one-time token; shown this once."""

    token: str
    expires_at: datetime


class AgentView(Answer):
    """An agent as operators see it. `boards_online`: boards that it drives now; none of one that has drained."""

    id: str
    name: str
    agent_version: str
    last_heard_at: datetime | None
    boards: list[str]
    boards_online: int = 0


class WhoAmI(Answer):
    """Whose token this is."""

    account: str
    role: Role
    token_id: str
