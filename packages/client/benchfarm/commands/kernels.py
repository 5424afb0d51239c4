"""`benchfarm kernels`, `protocols`, `engines`: what the farm knows how to measure."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import cell, table
from benchfarm_core.errors import NotFound
from benchfarm_core.views import EngineView, KernelColumn

app = typer.Typer(help="The kernel catalogue.", no_args_is_help=True)


def add_to(root: typer.Typer) -> None:
    """Add the verbs."""
    root.add_typer(app, name="kernels")
    root.command()(protocols)
    root.command()(engines)


@app.command("list")
def list_kernels(context: typer.Context, _json: Json = False) -> None:
    """The kernel types with the names of their columns."""
    session = Session.of(context)
    with session.client() as client:
        kinds = client.kernels()
    rows = [(kind.type, " ".join(column.name for column in kind.columns), kind.catalogue_version) for kind in kinds]
    session.show(kinds, lambda: table(("kernel", "columns", "catalogue version"), rows))


@app.command()
def show(
    context: typer.Context,
    kernel: Annotated[str, typer.Argument(metavar="TYPE", help="A kernel type: conv-bn-act.")],
    _json: Json = False,
) -> None:
    """One kernel type: columns, units, ranges, rules."""
    session = Session.of(context)
    with session.client() as client:
        kinds = {kind.type: kind for kind in client.kernels()}
    if kernel not in kinds:
        raise NotFound(f"there is no kernel type {kernel!r}; there are {', '.join(kinds)}", field="kernel")
    kind = kinds[kernel]
    session.show(
        kind,
        lambda: table(("column", "unit", "allowed", "meaning"), column_rows(kind.columns), title=kind.type),
        lambda: "\n".join(kind.rules),
    )


def protocols(context: typer.Context, _json: Json = False) -> None:
    """The measurement protocols with their parameters."""
    session = Session.of(context)
    with session.client() as client:
        found = client.protocols()
    names = ("name", "version", "launches", "visit ms", "blocks", "block min us", "half width target")
    rows = [
        (
            p.name,
            p.version,
            f"{p.launches_min}-{p.launches_max}",
            p.visit_ms,
            f"{p.blocks_min}-{p.blocks_max}",
            p.block_min_us,
            None if p.half_width_target is None else f"{p.half_width_target:.1%}",
        )
        for p in found
    ]
    session.show(found, lambda: table(names, rows))


def engines(context: typer.Context, _json: Json = False) -> None:
    """The engines, the boards that have them, and why others do not."""
    session = Session.of(context)
    with session.client() as client:
        found = client.engines()
    rows = [(e.name, e.versions, e.precisions, _options(e), e.boards, e.unavailable) for e in found]
    session.show(
        found, lambda: table(("engine", "versions", "precisions", "options", "boards", "unavailable on"), rows)
    )


def _options(engine: EngineView) -> list[str]:
    """Of the newest version that tells them: `graph=all (all or none)`."""
    newest = next((engine.options[version] for version in reversed(engine.versions) if version in engine.options), {})
    return [f"{name}={cell(option.default)} ({option.values})" for name, option in sorted(newest.items())]


def column_rows(columns: Iterable[KernelColumn]) -> Iterator[tuple[str, str, str, str]]:
    """A table's rows for columns: name, unit, what is allowed, meaning."""
    for column in columns:
        allowed = " ".join(column.choices) or f"{column.low} to {column.high}"
        yield column.name, column.unit, allowed, column.meaning
