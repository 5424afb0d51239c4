"""`benchfarm pool`: what can be a donor, how alike platforms are, and files that carry both between farms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from benchfarm.commands.output_files import writing
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.pool import LikenessView, PoolEntryView, PoolImported, PoolMember
from benchfarm_core.predictor_headers import Lineage

app = typer.Typer(
    help="The knowledge pool: possible donors of predictors, of this farm and of others.", no_args_is_help=True
)


@app.command("list")
def list_pool(context: typer.Context, _json: Json = False) -> None:
    """Platforms of this farm that were probed or have a predictor, and what others measured."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.pool.list())
    names = ("id", "platform", "origin", "probes", "rows", "predictors", "licence")
    session.show(found, lambda: table(names, map(_listed, found)))


def _listed(member: PoolMember) -> tuple[object, ...]:
    origin = "this farm" if member.is_own else member.origin
    rows = sum(member.rows.values()) if member.rows is not None else None
    subjects = [one.subject for one in member.predictors]
    return (member.id, member.key, origin, f"{member.probes} of {member.probes_of}", rows, subjects, member.licence)


@app.command()
def matrix(
    context: typer.Context,
    platform: Annotated[
        str | None, typer.Argument(metavar="PLATFORM", help="The target's id, key or alias; else all.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="A kernel type, or `model`.")] = None,
    timing: Annotated[Timing | None, typer.Option(help="Kernels alone, or in situ.")] = None,
    _json: Json = False,
) -> None:
    """How alike donors are to a platform over the probe set, the nearest first; 0 is alike but for speed."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.pool.matrix(target=platform, subject=subject, timing=timing))
    names = ("target", "subject", "timing", "donor", "divergence", "90 %", "spearman", "probes", "near")
    session.show(found, lambda: table(names, map(_compared, found)) if found else _NOTHING)


_NOTHING = "nothing is compared yet that fits; platforms are compared once both have results of the probe set"


def _compared(one: LikenessView) -> tuple[object, ...]:
    donor = one.donor if one.is_own else f"{one.donor} ({one.donor_id})"
    interval = f"{one.low:.4f} to {one.high:.4f}"
    rank = None if one.spearman is None else f"{one.spearman:.3f}"
    place = (one.target, one.subject, one.timing, donor)
    return (*place, f"{one.divergence:.4f}", interval, rank, one.count, one.is_near)


@app.command("export")
def export_file(
    context: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="The pool file; it must not exist.")],
    licence: Annotated[
        str, typer.Option(help="Of this farm's rows and predictors: its short name, or where it stands.")
    ],
    source: Annotated[str, typer.Option(help="Who measured, for people.")] = "",
    platform: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A platform, or an entry by its id; else all of this farm. Repeatable."),
    ] = None,
    _json: Json = False,
) -> None:
    """Write rows and predictors as one file for another farm. Uploads are never in it. Operators only."""
    session = Session.of(context)
    if out.exists():
        raise InvalidRequest(f"{out} is there already: choose another name", field="out")
    with session.client(patient=True) as client:
        data = client.pool.export_file(licence=licence, source=source, names=platform or ())
    with writing(out, field="out"):
        out.write_bytes(data)
    written: Mapping[str, object] = {"file": str(out), "size_bytes": len(data)}
    session.show(written, lambda: f"{out}: {len(data)} bytes; there, benchfarm pool import {out.name}")


@app.command("import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `benchfarm pool export` wrote.")],
    _json: Json = False,
) -> None:
    """Take in a pool file, whole or not at all; a second time changes nothing. Operators only."""
    session = Session.of(context)
    with session.client(patient=True) as client:
        found = client.pool.import_file(file)
    session.show(found, lambda: _came_to(found))


def _came_to(found: PoolImported) -> RenderableType:
    own = f", {len(found.own)} that this farm itself measured left out" if found.own else ""
    lines = [f"{len(found.entries)} entries with {found.rows} rows, {len(found.repeated)} were there already{own}"]
    return "\n".join([*lines, *(f"left out: {one}" for one in found.left_out)])


@app.command()
def show(
    context: typer.Context,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The entry's id.")],
    _json: Json = False,
) -> None:
    """An imported entry, and what its predictors were taught."""
    session = Session.of(context)
    with session.client() as client:
        found = client.pool.get(entry)
    session.show(found, lambda: _shown(found))


def _shown(found: PoolEntryView) -> RenderableType:
    rows = ", ".join(f"{count} {kind}" for kind, count in (found.rows or {}).items())
    told: dict[str, object] = {"id": found.id, "platform": found.key, "origin": found.origin, "rows": rows}
    told |= {"licence": found.licence, "source": found.source, "imported": found.imported_at, "by": found.author}
    names = ("subject", "kept", "donors", "rows' hash", "rule", "code")
    taught = [
        (one.subject, one.is_kept, list(one.lineage.donors), one.lineage.data_hash, *_made_by(one.lineage))
        for one in found.taught
    ]
    return Group(facts(told), table(names, taught) if taught else "it came without predictors")


def _made_by(lineage: Lineage) -> tuple[int, str]:
    return lineage.rule_version, lineage.code_version


@app.command()
def delete(
    context: typer.Context,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The entry's id.")],
    _json: Json = False,
) -> None:
    """Take an imported entry away with its rows and predictors. Operators only."""
    session = Session.of(context)
    with session.client() as client:
        found = client.pool.delete(entry)
    session.show(found, lambda: f"{found.id} is gone: {found.key} of {found.origin}")
