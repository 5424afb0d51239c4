"""`benchfarm login`, `logout`, `whoami`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchfarm.client import Client
from benchfarm.commands.output_files import writing
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts
from benchfarm.connection import checked_url
from benchfarm.login import Login, forget, login_file, read_token, store
from benchfarm.settings import Settings
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.token_files import MAX_TOKEN_FILE_BYTES


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(login)
    app.command()(logout)
    app.command()(whoami)


def login(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https://host, or http:// to this very machine.")],
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token; without it the token is asked for, or read from a pipe.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates of a lab's own authority (PEM).")] = None,
    _json: Json = False,
) -> None:
    """Check a token with the farm and keep both, readable by you alone."""
    session = Session.of(context)
    kept = Login(
        url=str(checked_url(url)).rstrip("/"),
        token=_token(token_file or session.token_file),
        ca_file=(ca_file or session.ca_file or Settings().ca_file),
    )
    with Client(kept.url, kept.token, ca_file=kept.ca_file) as client:
        who = client.whoami()
    path = login_file()
    with writing(path):
        store(kept)
    session.show(who, lambda: f"logged in to {kept.url} as {who.role} of {who.account}; kept in {path}")


def logout(context: typer.Context, _json: Json = False) -> None:
    """Forget the stored login. The token itself stays valid: `tokens revoke` ends it."""
    removed = forget()
    text = "logged out" if removed else "there was no login"
    Session.of(context).show({"removed": removed}, lambda: f"{text} ({login_file()})")


def whoami(context: typer.Context, _json: Json = False) -> None:
    """The account and role of the token in use."""
    session = Session.of(context)
    with session.client() as client:
        who = client.whoami()
        session.show(who, lambda: facts({"farm": client.url, **who.model_dump()}))


def _token(path: Path | None) -> str:
    if path is not None:
        return read_token(path)
    if sys.stdin.isatty():
        return str(typer.prompt("token", hide_input=True)).strip()
    token = sys.stdin.readline(MAX_TOKEN_FILE_BYTES).strip()
    if not token:
        raise InvalidRequest("no token came through the pipe; give --token-file", field="token_file")
    return token
