"""`benchfarm agent pack`: what the farm handed out as one file for a machine that reaches nothing."""

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from benchfarm_agent.bundle_packing import pack as make_bundle
from benchfarm_core.bundles import BundleOrder
from benchfarm_core.errors import BenchfarmError

EXIT_USAGE: Final = 2


def pack(
    order: Annotated[Path, typer.Argument(help="What POST /v1/bundles answered, as JSON.")],
    out: Annotated[Path, typer.Option(help="The bundle's file; it must not exist.")],
    state_dir: Annotated[
        Path | None,
        typer.Option(envvar="BENCHFARM_AGENT_STATE_DIR", help="An agent's folder, for its engines' environments."),
    ] = None,
) -> None:
    """Pack a bundle; prints the hash of its contents. `benchfarm bundle create` does this and tells the farm."""
    try:
        wanted = BundleOrder.model_validate_json(order.read_bytes())
    except (OSError, ValidationError) as error:
        typer.echo(f"{order} is no order of a bundle: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    try:
        sha256 = make_bundle(wanted, out, engines=None if state_dir is None else state_dir / "engines")
    except (BenchfarmError, OSError) as error:
        typer.echo(f"the bundle cannot be packed: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    typer.echo(sha256)
