"""`benchfarm support`: what came of every attempt, families down, engines across."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import table
from benchfarm_core.platforms import Precision
from benchfarm_core.support import SupportRow, support_text


def add_to(root: typer.Typer) -> None:
    """Add the verb."""
    root.command()(support)


def support(
    context: typer.Context,
    family: Annotated[str | None, typer.Option(help="A kernel type, a model's name, or `upload`.")] = None,
    engine: Annotated[str | None, typer.Option(help="An engine's name.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="One precision.")] = None,
    board_model: Annotated[str | None, typer.Option(help="One board model; else all together.")] = None,
    _json: Json = False,
) -> None:
    """What each engine measured so far and what it failed at, by workload family."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.support(family=family, engine=engine, precision=precision, board_model=board_model))
    session.show(found, lambda: _matrix(found))


def _matrix(found: Sequence[SupportRow]) -> RenderableType:
    if not found:
        return "nothing was tried yet that fits; `benchfarm jobs submit` measures, and each attempt shows here"
    cells: dict[tuple[str, str], list[SupportRow]] = defaultdict(list)
    for row in found:
        cells[row.family, _column(row)].append(row)
    families = sorted({family for family, _ in cells})
    columns = sorted({column for _, column in cells})
    rows = [(family, *(support_text(cells.get((family, column), ())) for column in columns)) for family in families]
    return table(("family", *columns), rows)


def _column(row: SupportRow) -> str:
    return f"{row.engine}-{row.version}{row.options}/{row.precision}"
