"""`benchfarm spaces`: search spaces, the architectures that they draw, and their kernels."""

from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.kernel_parts import kernel_rows
from benchfarm.commands.options import ARCHITECTURE_EXAMPLE
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm.workload_text import parse_architecture
from benchfarm_core.architectures import genes_text
from benchfarm_core.spaces import ArchitectureKernels, SpaceView

app = typer.Typer(help="Search spaces, and the architectures that they draw.", no_args_is_help=True)

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="A search space: ofa_mobilenet_v3.")]


@app.command("list")
def list_spaces(context: typer.Context, _json: Json = False) -> None:
    """The search spaces with the names of their genes."""
    session = Session.of(context)
    with session.client() as client:
        found = client.spaces.list()
    rows = [(one.name, one.version, one.title, " ".join(gene.name for gene in one.genes), one.paper) for one in found]
    session.show(found, lambda: table(("space", "version", "title", "genes", "paper"), rows))


@app.command()
def show(context: typer.Context, space: SpaceName, _json: Json = False) -> None:
    """One search space: its genes, its paper, and what of the paper is reproduced."""
    session = Session.of(context)
    with session.client() as client:
        found = client.spaces.get(space)
    rows = [(gene.name, gene.unit, gene.allowed, gene.meaning) for gene in found.genes]
    session.show(found, lambda: _facts(found), lambda: table(("gene", "unit", "allowed", "meaning"), rows))


@app.command()
def draw(
    context: typer.Context,
    space: SpaceName,
    seed: Annotated[str, typer.Option(help="The same seed draws the same architectures.")] = "0",
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many different ones.")] = 1,
    _json: Json = False,
) -> None:
    """Draw architectures, one a line, as `--architecture` takes them; with --json as the workloads of a job's file."""
    session = Session.of(context)
    with session.client() as client:
        drawn = client.spaces.draw(space, seed=seed, count=count)
    if session.as_json:
        session.show(drawn)
        return
    session.write("".join(f"{one.space} {genes_text(one.genes)}\n" for one in drawn))


@app.command()
def kernels(
    context: typer.Context,
    architecture: Annotated[str, typer.Argument(help=f"Space and genes: '{ARCHITECTURE_EXAMPLE}'.")],
    platform: Annotated[str | None, typer.Option(help="The platform's id, key or alias.")] = None,
    _json: Json = False,
) -> None:
    """Check an architecture; its cost and its kernels: what a platform's engine computes as one."""
    session = Session.of(context)
    asked = parse_architecture(architecture)
    with session.client() as client:
        found = client.spaces.kernels(asked.space, asked.genes, platform)
    if found.rules == "default":
        why = "no platform is named" if platform is None else "what this engine fuses was never measured"
        session.say(f"{why}: by default, a layer and its activation are one kernel")
    if found.rules == "other_board_model":
        session.say("what this engine fuses was measured on boards of another model only")
    names = ("kernel", "type", "configuration", "operators")
    session.show(found, lambda: _cost(found), lambda: table(names, kernel_rows(found.kernels)))


def _facts(found: SpaceView) -> RenderableType:
    texts = {"reproduced": found.kept, "a reading of ours": found.read, "left out": found.left, "drawn": found.drawn_as}
    return facts({"space": f"{found.name} {found.version}: {found.title}", "paper": found.paper, **texts})


def _cost(found: ArchitectureKernels) -> RenderableType:
    return facts({"workload": found.workload_id, **found.cost.model_dump()})
