"""`benchfarm boards`: the lab's boards and their health."""

from itertools import islice
from typing import Annotated

import typer

from benchfarm.calls import checked
from benchfarm.commands.options import Reason
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import cell, facts, ms_text, printable, table
from benchfarm_core.board_history import BoardEventView
from benchfarm_core.boards import BoardState, Health, MergeRequest, SplitRequest
from benchfarm_core.operating_ranges import clusters, range_text, ranges_text

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
        (b.id, b.model_name, b.board_model, b.kind, b.state, b.health, b.clock_proof, b.last_heard_at, b.reason)
        for b in boards
    ]
    names = ("id", "model", "board model", "kind", "state", "health", "clock proof", "last heard", "reason")
    session.show(boards, lambda: table(names, rows))


@app.command()
def show(context: typer.Context, board: BoardId, _json: Json = False) -> None:
    """One board with its clusters, what it can be set to, its engines and platforms, and its latest golden run."""
    session = Session.of(context)
    with session.client() as client:
        found = client.board(board)
        golden = next(client.golden_runs(board), None)
    engines = [
        f"{e.name} {e.version} ({', '.join(e.precisions)})" if e.available else f"{e.name}: {e.reason}"
        for e in found.engines
    ]
    shown = found.model_dump(exclude={"engines", "platforms", "ranges"})
    parts = {
        "clusters": "\n".join(clusters(found.ranges)),
        "ranges": "\n".join(map(range_text, found.ranges)),
        "engines": engines,
        "platforms": "\n".join(found.platforms),
        "golden_run": f"{golden.outcome or 'running'} at {cell(golden.wanted_at)} {golden.detail}" if golden else "",
    }
    session.show(found, lambda: facts({**shown, **parts}))


@app.command()
def why(context: typer.Context, board: BoardId, _json: Json = False) -> None:
    """Why a board is not used now: what removes it, since when it waits for quiet, which engines it lacks and why."""
    session = Session.of(context)
    with session.client() as client:
        found = client.explain_board(board)
    shown = found.model_dump(exclude={"last_lease", "ranges", "gate_wait", "lacks"})
    lacks = "\n".join(f"{engine}: {reason}" for engine, reason in found.lacks.items())
    last = found.last_lease
    lease = f"{last.end_reason or 'live'}: {last.detail or '-'} (offered {cell(last.offered_at)})" if last else ""
    parts = {"lacks": lacks, "last_lease": lease, "ranges": ranges_text(found.ranges)}
    session.show(found, lambda: facts({**shown, **parts}))


@app.command()
def history(
    context: typer.Context,
    board: BoardId,
    limit: Annotated[int, typer.Option(min=1, help="At most so many events, the newest.")] = 50,
    _json: Json = False,
) -> None:
    """What happened to a board, newest first. Operators only."""
    session = Session.of(context)
    with session.client() as client:
        events = list(islice(client.board_history(board), limit))
    rows = [(e.at, e.kind, " -> ".join(filter(None, (e.before, e.after))), e.reason, e.author) for e in events]
    session.show(events, lambda: table(("at", "what", "change", "reason", "author"), rows))


@app.command()
def watch(context: typer.Context, board: BoardId, _json: Json = False) -> None:
    """Show what happens to a board until Ctrl-C, after its latest events. Operators only.

    With --json each event is a JSON document in a line of its own.
    """
    session = Session.of(context)
    with session.client(patient=True) as client:
        for event in client.watch_board(board):
            session.write((event.model_dump_json() if session.as_json else _line(event)) + "\n", now=True)


def _line(event: BoardEventView) -> str:
    change = " -> ".join(filter(None, (event.before, event.after)))
    parts = (cell(event.at), event.kind, change, event.reason, f"({event.author})")
    return printable(" ".join(filter(None, parts)))


@app.command()
def golden(
    context: typer.Context,
    board: BoardId,
    limit: Annotated[int, typer.Option(min=1, help="At most so many runs, the newest.")] = 10,
    _json: Json = False,
) -> None:
    """A board's runs of the golden suite, newest first: how it compared with itself."""
    session = Session.of(context)
    with session.client() as client:
        runs = list(islice(client.golden_runs(board), limit))
    rows = [(r.wanted_at, r.reason, r.outcome or "running", share_text(r.drift), r.board_s, r.detail) for r in runs]
    session.show(runs, lambda: table(("at", "why", "outcome", "drift", "board s", "detail"), rows))


@app.command()
def spread(
    context: typer.Context,
    board_model: Annotated[str, typer.Argument(help="The board model, as `boards list` names it.")],
    _json: Json = False,
) -> None:
    """How the units of one board model differ, from their golden runs."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.board_spread(board_model))
    rows = [
        (
            row.platform,
            row.name,
            ms_text(row.median_ms),
            share_text(row.spread),
            "\n".join(f"{one.board_id} {ms_text(one.normalised_ms)} ({one.off:+.1%})" for one in row.boards),
        )
        for row in found
    ]
    session.show(found, lambda: table(("platform", "what", "median ms", "spread", "boards"), rows))


@app.command("merge-model")
def merge_model(
    context: typer.Context,
    board_model: Annotated[str, typer.Argument(help="The board model that goes.")],
    into: Annotated[str, typer.Argument(help="The board model that it is found to be.")],
    reason: Reason,
    _json: Json = False,
) -> None:
    """Two board models are found to be one: boards of the first are boards of the second from now on. Operators only.

    Results stay where they were measured. Refused where the times of both differ, and while measurements wait.
    """
    session = Session.of(context)
    request = checked(MergeRequest, {"into": into, "reason": reason})
    with session.client() as client:
        merged = client.board_models.merge(board_model, request)
    boards = ", ".join(merged.boards) or "no board anew"
    session.show(merged, lambda: f"{merged.board_model} is {merged.merged_into} from now on: {boards}")


@app.command("split-model")
def split_model(
    context: typer.Context,
    board_model: Annotated[str, typer.Argument(help="The board model that was merged.")],
    reason: Reason,
    _json: Json = False,
) -> None:
    """Take a merge back: what agents report as this model is of it again. Operators only.

    What was measured meanwhile stays where it was measured.
    """
    session = Session.of(context)
    request = checked(SplitRequest, {"reason": reason})
    with session.client() as client:
        done = client.board_models.split(board_model, request)
    boards = ", ".join(done.boards) or "boards as they are registered anew"
    session.show(done, lambda: f"{done.board_model} is {done.was_merged_into} no longer: {boards}")


def share_text(share: float | None) -> str:
    """A share in per cent."""
    return "-" if share is None else f"{share:.1%}"


@app.command()
def note(
    context: typer.Context,
    board: BoardId,
    text: Annotated[str, typer.Argument(help="What there is to say; stands in the board's history.")],
    _json: Json = False,
) -> None:
    """Write a note into a board's history. Operators only."""
    session = Session.of(context)
    with session.client() as client:
        written = client.add_board_note(board, text)
    session.show(written, lambda: f"noted at {cell(written.at)}")


@app.command()
def quarantine(context: typer.Context, board: BoardId, reason: Reason, _json: Json = False) -> None:
    """Take a board out of use: it gets no more leases. Operators only."""
    _set_health(Session.of(context), board, Health.QUARANTINED, reason)


@app.command()
def release(context: typer.Context, board: BoardId, reason: Reason = "released", _json: Json = False) -> None:
    """Take a board back into use. Operators only."""
    _set_health(Session.of(context), board, Health.GOOD, reason)


@app.command()
def retire(context: typer.Context, board: BoardId, reason: Reason, _json: Json = False) -> None:
    """Take a board out of use for good; it never comes back, its results stay. Operators only."""
    _set_health(Session.of(context), board, Health.RETIRED, reason)


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
