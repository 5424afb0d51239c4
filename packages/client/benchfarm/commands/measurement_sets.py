"""`benchfarm measurements`: latencies that somebody else measured, taken in as what they are."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import cell, facts, table
from benchfarm.exit_codes import ExitCode
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import MeasurementSetImported, MeasurementSetView, SetKernelView

app = typer.Typer(
    help="Latencies that others measured: possible donors, never the farm's own answers.", no_args_is_help=True
)

SetId = Annotated[str, typer.Argument(metavar="SET", help="The set's id.")]


@app.command("import")
def import_folder(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Holds platform.json and a <kernel>.csv for each kernel type.")],
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOREIGN=OURS",
            help="What a foreign kernel name stands for: conv-bn-relu=conv-bn-act:act=relu. Repeatable.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only list what would be rejected, row by row.")] = False,
    _json: Json = False,
) -> None:
    """Hand a folder's tables to the farm. A second time changes nothing. Operators only.

    Each row that is not taken is rejected with a reason; --dry-run lists them. Ends with 2 where no row can be taken.
    """
    session = Session.of(context)
    names = dict(map(_naming, name or ()))
    with session.client(patient=True) as client:
        found = client.measurement_sets.import_folder(folder, names=names, dry_run=dry_run)
    session.show(found, *([lambda: _rejected(found)] if dry_run and found.rejected else []), lambda: _came_to(found))
    context.exit(ExitCode.USAGE if dry_run and not found.rows else ExitCode.OK)


def _naming(text: str) -> tuple[str, str]:
    foreign, equals, ours = text.partition("=")
    if not foreign or not equals or not ours:
        detail = f"{text[:60]!r} is no naming; the form is FOREIGN=OURS: conv-bn-relu=conv-bn-act:act=relu"
        raise InvalidRequest(detail, field="names")
    return foreign, ours


def _rejected(found: MeasurementSetImported) -> RenderableType:
    rows = [(one.file, one.line, one.reason_code, one.detail) for one in found.rejected]
    return table(("file", "line", "reason", "detail"), rows)


def _came_to(found: MeasurementSetImported) -> str:
    rejected = sum(found.rejected_by_reason.values())
    reasons = f" ({cell(found.rejected_by_reason)})" if rejected else ""
    unlisted = f", {len(found.rejected)} of them listed" if found.dry_run and len(found.rejected) < rejected else ""
    done = "would be taken" if found.dry_run else "were there already" if found.repeated else "taken"
    return f"{found.id or 'dry run'}: {found.rows} rows {done}, {rejected} rejected{reasons}{unlisted}"


@app.command("list")
def list_sets(context: typer.Context, _json: Json = False) -> None:
    """The imported sets, newest first."""
    session = Session.of(context)
    with session.client() as client:
        sets = list(client.measurement_sets.list())
    rows = [
        (one.id, one.platform.board_model, one.platform.engine, one.platform.precision, _kernels(one), one.imported_at)
        for one in sets
    ]
    session.show(sets, lambda: table(("id", "board model", "engine", "precision", "rows", "imported"), rows))


def _kernels(found: MeasurementSetView) -> str:
    return ", ".join(f"{kernel.rows} {kernel.type}" for kernel in found.kernels)


@app.command()
def show(context: typer.Context, measurement_set: SetId, _json: Json = False) -> None:
    """One imported set: its platform, source and licence, and what it holds."""
    session = Session.of(context)
    with session.client() as client:
        found = client.measurement_sets.get(measurement_set)
    session.show(found, lambda: _facts(found))


@app.command()
def delete(context: typer.Context, measurement_set: SetId, _json: Json = False) -> None:
    """Take an imported set away with its rows. Operators only."""
    session = Session.of(context)
    with session.client() as client:
        found = client.measurement_sets.delete(measurement_set)
    session.show(found, lambda: f"{found.id} is gone, with {found.rows} rows")


def _facts(found: MeasurementSetView) -> RenderableType:
    own = found.model_dump(exclude={"platform", "kernels"})
    platform = found.platform.model_dump(exclude_none=True)
    return facts({**own, **platform, "kernels": "\n".join(map(_kernel, found.kernels))})


def _kernel(kernel: SetKernelView) -> str:
    fixed = f", {cell(kernel.fixed)}" if kernel.fixed else ""
    return f"{kernel.type} (given as {kernel.given_as}): {kernel.rows} rows of {' '.join(kernel.columns)}{fixed}"
