"""`benchfarm tokens`: who may come in. Administrators only."""

from pathlib import Path
from typing import Annotated

import typer

from benchfarm.calls import checked
from benchfarm.commands.options import seconds_of
from benchfarm.commands.output_files import kept_secret
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm_core.access import Role
from benchfarm_core.accounts import TokenRequest

app = typer.Typer(help="Who may come in. Administrators only.", no_args_is_help=True)


@app.command()
def create(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account's name.")],
    role: Annotated[Role, typer.Option(help="What the token may do.")] = Role.CLIENT,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    expires_in: Annotated[str | None, typer.Option(metavar="DURATION", help="90d; by default never.")] = None,
    output: Annotated[Path | None, typer.Option(help="A new file for the token, instead of printing it.")] = None,
    _json: Json = False,
) -> None:
    """Make a token. Its text is shown this once."""
    session = Session.of(context)
    fields = {"account": account, "role": role, "name": name}
    request = checked(TokenRequest, {**fields, "expires_in_s": seconds_of(expires_in, "--expires-in")})
    with session.client() as client:
        made = kept_secret(output, lambda: client.create_token(request))
    session.show(made, lambda: facts(made.model_dump(exclude={"revoked_at", "last_used_at"})))


@app.command("list")
def list_tokens(context: typer.Context, _json: Json = False) -> None:
    """All tokens, without their texts."""
    session = Session.of(context)
    with session.client() as client:
        tokens = list(client.tokens())
    rows = [(t.id, t.account, t.role, t.name, t.created_at, t.expires_at, t.revoked_at, t.last_used_at) for t in tokens]
    names = ("id", "account", "role", "name", "created", "expires", "revoked", "last used")
    session.show(tokens, lambda: table(names, rows))


@app.command()
def revoke(
    context: typer.Context, token: Annotated[str, typer.Argument(help="The token's id.")], _json: Json = False
) -> None:
    """End a token at once."""
    session = Session.of(context)
    with session.client() as client:
        ended = client.revoke_token(token)
    session.show(ended, lambda: f"revoked {ended.id}")
