"""`benchfarm boards`: the lab's boards and their health."""

from typing import Annotated

import typer

from benchfarm.commands.options import Reason
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm_core.boards import BoardState, Health

app = typer.Typer(help="The boards and their health.", no_args_is_help=True)

BoardId = Annotated[str, typer.Argument(help="The board's id.")]


@app.command("list")
def list_boards(
    context: typer.Context,
    state: Annotated[BoardState | None, typer.Option(help="Only boards in this state.")] = None,
    health: Annotated[Health | None, typer.Option(help="Only boards of this health.")] = None,
    _json: Json = False,
) -> None:
    """The boards, and why one is not used."""
    session = Session.of(context)
    with session.client() as client:
        boards = list(client.boards(state=state, health=health))
    rows = [
        (b.id, b.model_name or b.board_model, b.kind, b.state, b.health, b.clock_proof, b.last_heard_at, b.reason)
        for b in boards
    ]
    names = ("id", "model", "kind", "state", "health", "clock proof", "last heard", "reason")
    session.show(boards, lambda: table(names, rows))


@app.command()
def show(context: typer.Context, board: BoardId, _json: Json = False) -> None:
    """One board with its engines and platforms."""
    session = Session.of(context)
    with session.client() as client:
        found = client.board(board)
    engines = [
        f"{e.name} {e.version} ({', '.join(e.precisions)})" if e.available else f"{e.name}: {e.reason}"
        for e in found.engines
    ]
    shown = found.model_dump(exclude={"engines", "platforms"})
    session.show(found, lambda: facts({**shown, "engines": engines, "platforms": "\n".join(found.platforms)}))


@app.command()
def quarantine(context: typer.Context, board: BoardId, reason: Reason, _json: Json = False) -> None:
    """Take a board out of use: it gets no more leases. Operators only."""
    _set_health(Session.of(context), board, Health.QUARANTINED, reason)


@app.command()
def release(context: typer.Context, board: BoardId, reason: Reason = "released", _json: Json = False) -> None:
    """Take a board back into use. Operators only."""
    _set_health(Session.of(context), board, Health.GOOD, reason)


@app.command()
def health(
    context: typer.Context,
    board: BoardId,
    health: Annotated[Health, typer.Argument(help="The new health.")],
    reason: Reason,
    _json: Json = False,
) -> None:
    """Set a board's health. Operators only; a retired board never comes back."""
    _set_health(Session.of(context), board, health, reason)


def _set_health(session: Session, board: str, health: Health, reason: str) -> None:
    with session.client() as client:
        changed = client.set_board_health(board, health, reason)
    session.show(changed, lambda: f"{changed.id} is {changed.health}: {changed.reason or '-'}")
