"""`benchfarm export`: tables of search spaces that answer without a network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchfarm.commands.options import seconds_of
from benchfarm.commands.output_files import check_file, write_whole
from benchfarm.commands.platforms import PlatformText
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.exports import ExportView

app = typer.Typer(help="What answers without a network: tables of search spaces, and keys.", no_args_is_help=True)

ExportText = Annotated[str, typer.Argument(metavar="EXPORT", help="The export's id.")]


@app.command("table")
def export_table(
    context: typer.Context,
    platform: PlatformText,
    space: Annotated[str, typer.Argument(metavar="SPACE", help="`benchfarm spaces list` shows them.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Where to write the table; a file there is replaced.")] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Of the predictors of whole models, not the one that answers.")
    ] = None,
    gene: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUES", help="Values that a gene may have: hw=160,192,224. Repeatable."),
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Make one anew that was made longer ago: 12h, 7d.")
    ] = None,
    _json: Json = False,
) -> None:
    """Have the table of a search space made with what predicts on a platform, and write it to a file."""
    session = Session.of(context)
    check_file(out, field="out")
    genes = dict(_gene(each) for each in gene or ())
    max_age_s = seconds_of(max_age, "--max-age")
    with session.client(patient=True) as client:
        found = client.exports.table(platform, space, version=version, genes=genes, max_age_s=max_age_s)
        data = client.exports.file(found.id) if out is not None else None
    if out is not None and data is not None:
        write_whole(out, data, field="out")
    session.show(found, lambda: facts(_shown(found, out)))


@app.command()
def show(context: typer.Context, export: ExportText, _json: Json = False) -> None:
    """One export: its predictor, whether that still answers, and how many architectures it lacked."""
    session = Session.of(context)
    with session.client() as client:
        found = client.exports.get(export)
    session.show(found, lambda: facts(_shown(found, None)))


@app.command()
def keys(context: typer.Context, _json: Json = False) -> None:
    """The public keys by which the farm's tables are known."""
    session = Session.of(context)
    with session.client() as client:
        found = client.exports.keys()
    rows = [(each.id, each.algorithm, each.public_key, each.is_active, each.created_at) for each in found.keys]
    nothing = "the farm has no key yet; it makes one with its first export"
    session.show(found, lambda: table(("id", "algorithm", "public key", "active", "made"), rows) if rows else nothing)


@app.command()
def misses(
    context: typer.Context,
    export: ExportText,
    report: Annotated[
        Path | None, typer.Option(help="Report these first: a JSON list of architectures by their genes.")
    ] = None,
    _json: Json = False,
) -> None:
    """For which architectures a table had no number; with --report more of them."""
    session = Session.of(context)
    with session.client() as client:
        if report is not None:
            client.exports.report_misses(export, _architectures(report))
        found = client.exports.misses(export)
    rows = [(json.dumps(each.genes), each.reports, each.last_at) for each in found.misses]
    session.show(found, lambda: table(("genes", "reports", "last"), rows) if rows else "nothing was missed")


def _gene(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, values = text.partition("=")
    try:
        return name, tuple(int(each) for each in values.split(","))
    except ValueError as error:
        raise InvalidRequest(f"{text[:80]!r} is not NAME=VALUES, as in hw=160,192,224", field="gene") from error


def _architectures(path: Path) -> list[Mapping[str, int | tuple[int, ...]]]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="report") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is no JSON", field="report") from error
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise InvalidRequest(f"{path} is no list of architectures by their genes", field="report")
    return given


def _shown(found: ExportView, out: Path | None) -> Mapping[str, object]:
    written = {} if out is None else {"file": str(out)}
    return {**found.model_dump(), "genes": found.genes or "all", **written}
