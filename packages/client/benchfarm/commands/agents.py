"""`benchfarm agents`: the processes in labs that drive boards. Operators only."""

from pathlib import Path
from typing import Annotated

import typer

from benchfarm.commands.options import told_as_typed
from benchfarm.commands.output_files import kept_secret
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm.durations import parse_duration_s

app = typer.Typer(help="The agents that drive boards. Operators only.", no_args_is_help=True)


@app.command("list")
def list_agents(context: typer.Context, _json: Json = False) -> None:
    """The agents, when they were last heard, how many of their boards are online, and their boards."""
    session = Session.of(context)
    with session.client() as client:
        agents = list(client.agents())
    rows = [(a.id, a.name, a.agent_version, a.last_heard_at, a.boards_online, a.boards) for a in agents]
    session.show(agents, lambda: table(("id", "name", "version", "last heard", "online", "boards"), rows))


@app.command()
def enrol_token(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="The agent's name in `agents list`; by default it names itself.")] = "",
    expires_in: Annotated[str, typer.Option(metavar="DURATION", help="How long it can be used.")] = "1d",
    output: Annotated[Path | None, typer.Option(help="A new file for the token, instead of printing it.")] = None,
    _json: Json = False,
) -> None:
    """Make a token with which one agent enrols, once."""
    session = Session.of(context)
    with told_as_typed({"expires_in_s": "--expires-in"}):
        expires_in_s = parse_duration_s(expires_in, field="expires_in_s")
    with session.client() as client:
        made = kept_secret(output, lambda: client.create_enrol_token(name=name, expires_in_s=expires_in_s))
    session.show(made, lambda: facts(made.model_dump()))
