"""`benchfarm accounts`: who the farm works for. Administrators only."""

from typing import Annotated

import typer

from benchfarm.calls import checked
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm_core.accounts import AccountRequest, Quotas

app = typer.Typer(help="Who the farm works for. Administrators only.", no_args_is_help=True)
_DEFAULT = Quotas()


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lower case letters, digits, dots and hyphens.")],
    pending_items: Annotated[int, typer.Option(help="Most items that may wait.")] = _DEFAULT.pending_items,
    active_jobs: Annotated[int, typer.Option(help="Most jobs that may run.")] = _DEFAULT.active_jobs,
    stored_bytes: Annotated[int, typer.Option(help="Most bytes of uploads.")] = _DEFAULT.stored_bytes,
    _json: Json = False,
) -> None:
    """Make an account."""
    session = Session.of(context)
    quotas = {"pending_items": pending_items, "active_jobs": active_jobs, "stored_bytes": stored_bytes}
    request = checked(AccountRequest, {"name": name, "quotas": quotas})
    with session.client() as client:
        made = client.create_account(request)
    session.show(made, lambda: facts(made.model_dump()))


@app.command("list")
def list_accounts(context: typer.Context, _json: Json = False) -> None:
    """All accounts with their quotas."""
    session = Session.of(context)
    with session.client() as client:
        accounts = list(client.accounts())
    rows = [
        (a.id, a.name, a.quotas.pending_items, a.quotas.active_jobs, a.quotas.stored_bytes, a.created_at)
        for a in accounts
    ]
    names = ("id", "name", "pending items", "active jobs", "stored bytes", "created")
    session.show(accounts, lambda: table(names, rows))
