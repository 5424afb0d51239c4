"""Who may call what: every route, every role, and what a revoked or foreign token gets."""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from benchfarm_api.access import REMEMBER_AGENTS_S, REMEMBER_S, Authenticator, GuardedRoute
from benchfarm_api.main import create_app
from benchfarm_api.settings import Settings
from benchfarm_core.access import ACCESS, PUBLIC, Role, may
from benchfarm_core.errors import Unauthenticated
from benchfarm_store import tokens
from benchfarm_store.database import Database, Transaction
from benchfarm_store.tokens import Caller

MakeCaller = Callable[..., httpx2.Client]

UNKNOWN_JOB = "00000000-0000-7000-8000-000000000000"


def routes(app: FastAPI) -> dict[str, tuple[str, str]]:
    """Every route's method and path, with something harmless in the place of parameters."""
    found: dict[str, tuple[str, str]] = {}
    for context in iter_route_contexts(app.routes):
        assert isinstance(context.original_route, GuardedRoute), context.path
        assert context.methods is not None
        assert context.path is not None
        assert context.name is not None
        path = re.sub(r"\{job_id\}", UNKNOWN_JOB, context.path)
        path = re.sub(r"\{measurement_id\}", "1", path)
        assert context.name not in found
        found[context.name] = (min(context.methods), re.sub(r"\{[^}]+\}", "nothing", path))
    return found


def test_every_route_is_guarded_and_stands_in_the_access_table(app: FastAPI) -> None:
    assert set(routes(app)) == set(ACCESS)


def test_operation_ids_are_the_names_of_the_table(app: FastAPI) -> None:
    operations = {operation["operationId"] for path in app.openapi()["paths"].values() for operation in path.values()}
    assert operations == set(ACCESS)


def test_every_role_on_every_route(app: FastAPI, caller: MakeCaller) -> None:
    callers = {role: caller(role, "everybody") for role in Role if role is not Role.AGENT}
    wrong = []
    for operation, (method, path) in routes(app).items():
        for role, client in callers.items():
            # Without a body that makes sense nothing happens: what counts is refused (403) or not.
            status = client.request(method, path).status_code
            if (status == 403) == may(role, operation):
                wrong.append((operation, role, status))
    assert not wrong


def test_an_agent_reaches_the_agent_api_only(app: FastAPI, http: httpx2.Client, lab: Any) -> None:
    wrong = []
    for operation, (method, path) in routes(app).items():
        status = http.request(method, path, headers=lab.headers).status_code
        if (status == 403) == may(Role.AGENT, operation):
            wrong.append((operation, status))
    assert not wrong


def test_without_a_token_only_public_routes_answer(app: FastAPI, http: httpx2.Client) -> None:
    for operation, (method, path) in routes(app).items():
        answer = http.request(method, path)
        assert (answer.status_code == 401) == (ACCESS[operation] != PUBLIC), operation
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic YTpi", "bft_abc", "Bearer nonsense", "Bearer bft_\x80"])
def test_a_wrong_token(http: httpx2.Client, header: str) -> None:
    answer = http.get("/v1/whoami", headers=[(b"Authorization", header.encode("latin-1"))])
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_revoked_token_stops_working_within_two_seconds(caller: MakeCaller) -> None:
    admin, client = caller("admin", "root"), caller("client", "alice")
    me = client.get("/v1/whoami").json()
    revoked = admin.delete(f"/v1/tokens/{me['token_id']}")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"] is not None
    until_s = time.monotonic() + 2
    while (answer := client.get("/v1/whoami")).status_code == 200:
        assert time.monotonic() < until_s
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
    assert admin.delete(f"/v1/tokens/{me['token_id']}").json() == revoked.json()


def test_a_token_that_was_revoked_here_stops_at_once(caller: MakeCaller) -> None:
    admin, client = caller("admin", "root"), caller("client", "alice")
    me = client.get("/v1/whoami").json()
    assert admin.delete(f"/v1/tokens/{me['token_id']}").status_code == 200
    assert client.get("/v1/whoami").json()["code"] == "token_revoked"


def test_a_token_that_is_read_while_it_is_revoked_is_not_remembered(
    database: Database, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader is let in, which came first; nobody is after that."""
    text, read = token(), tokens.authenticate
    with database.transaction() as tx:
        tokens.authenticate(tx, text)  # notes that it was used, so that it is only read from now on
    authenticator = Authenticator(database, anyio.CapacityLimiter(1))

    def revoked_meanwhile(tx: Transaction, text: str) -> Caller:
        caller = read(tx, text)
        with database.transaction() as other:
            tokens.revoke_token(other, caller.token_id)
        authenticator.forget(caller.token_id)
        return caller

    ask = partial(authenticator.caller, text, waits=False)
    with monkeypatch.context() as patched:
        patched.setattr(tokens, "authenticate", revoked_meanwhile)
        assert anyio.run(ask).account == "alice"
    with pytest.raises(Unauthenticated):
        anyio.run(ask)


def test_of_many_calls_none_waits_for_postgres_but_the_first(
    database: Database, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did each second: one of a hundred searches' questions took twice as long as the others."""
    monkeypatch.setattr("benchfarm_api.access.REMEMBER_S", 2.0)
    authenticator, text, read = Authenticator(database, anyio.CapacityLimiter(1)), token(), tokens.authenticate
    looks: list[float] = []

    def slow(tx: Transaction, text: str) -> Caller:
        looks.append(time.monotonic())
        time.sleep(0.5)  # wait: what it must not be waited for
        return read(tx, text)

    async def calls() -> list[float]:
        taken_s, until_s = [], time.monotonic() + 5
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            assert (await authenticator.caller(text, waits=False)).account == "alice"
            taken_s.append(time.monotonic() - began_s)
            await anyio.sleep(0.01)
        return taken_s

    monkeypatch.setattr(tokens, "authenticate", slow)
    first_s, *others_s = anyio.run(calls)
    assert first_s >= 0.5
    assert max(others_s) < 0.3
    assert 2 <= len(looks) <= 5


def test_a_token_that_is_found_revoked_meanwhile_stops_then(
    database: Database, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_api.access.REMEMBER_S", 60.0)
    monkeypatch.setattr("benchfarm_api.access.RENEWED_AFTER", 0.0)
    authenticator, text = Authenticator(database, anyio.CapacityLimiter(1)), token()

    async def calls() -> None:
        caller = await authenticator.caller(text, waits=False)
        with database.transaction() as tx:
            tokens.revoke_token(tx, caller.token_id)
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            await authenticator.caller(text, waits=False)
            await anyio.sleep(0.01)

    with pytest.raises(Unauthenticated):
        anyio.run(calls)


def test_an_agents_token_that_another_process_has_revoked_works_for_a_bounded_time(
    settings: Settings, caller: MakeCaller, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REMEMBER_S < REMEMBER_AGENTS_S <= 5.0, "the API says: within two seconds, an agent's within six"
    monkeypatch.setattr("benchfarm_api.access.REMEMBER_AGENTS_S", 1.0)
    with TestClient(create_app(settings), headers=lab.headers) as other:
        me = other.get("/v1/whoami").json()
        began_s = time.monotonic()
        assert caller("admin", "root").delete(f"/v1/tokens/{me['token_id']}").status_code == 200
        assert other.get("/v1/whoami").status_code == 200 or time.monotonic() - began_s > 1.0
        while (answer := other.get("/v1/whoami")).status_code == 200:
            assert time.monotonic() - began_s < 3
    assert answer.json()["code"] == "token_revoked"


def test_the_body_of_a_stranger_is_not_read(http: httpx2.Client) -> None:
    answer = http.post("/v1/jobs", content=b"{" * 100, headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


def test_tokens_and_accounts(caller: MakeCaller, http: httpx2.Client) -> None:
    admin = caller("admin", "root")
    for quota, beyond in (("active_jobs", 2**31), ("pending_items", 2**31), ("stored_bytes", 2**63)):
        refused = admin.post("/v1/accounts", json={"name": "bob", "quotas": {quota: beyond}})
        assert (refused.status_code, refused.json()["field"]) == (422, f"quotas.{quota}")
    account = admin.post("/v1/accounts", json={"name": "bob", "quotas": {"active_jobs": 3}})
    assert account.status_code == 201
    assert account.json()["quotas"] == {"pending_items": 200_000, "active_jobs": 3, "stored_bytes": 20 * 2**30}
    assert admin.post("/v1/accounts", json={"name": "bob"}).json()["code"] == "conflict"
    created = admin.post("/v1/tokens", json={"account": "bob", "role": "client", "name": "laptop"})
    assert created.status_code == 201
    bob = {"Authorization": f"Bearer {created.json()['token']}"}
    assert http.get("/v1/whoami", headers=bob).json()["account"] == "bob"
    listed = admin.get("/v1/tokens").json()["items"]
    assert created.json()["id"] in [token["id"] for token in listed]
    assert all("token" not in token for token in listed)
    assert admin.post("/v1/tokens", json={"account": "nobody", "role": "client"}).status_code == 404
    assert admin.post("/v1/tokens", json={"account": "bob", "role": "agent"}).json()["field"] == "role"
    assert {account["name"] for account in admin.get("/v1/accounts").json()["items"]} >= {"bob", "root"}
