"""`benchfarm agent engines ...`: environments of engines' own, below the agent's folder."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from benchfarm_agent import engine_installing
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.engine_probe import probe_engines
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.state_dir import StateDir, is_in_use
from benchfarm_core.boards import EngineReport
from benchfarm_core.errors import BenchfarmError, Conflict, InvalidRequest

EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3

app = typer.Typer(name="engines", no_args_is_help=True, help="Environments of engines' own.")

_StateDirOption = Annotated[
    Path, typer.Option(envvar="BENCHFARM_AGENT_STATE_DIR", help="The agent's folder, as `agent run` has it.")
]
_Name = Annotated[str, typer.Argument(help="The engine.")]


@app.command("list")
def list_engines(state_dir: _StateDirOption) -> None:
    """Every engine: where it lives, its version and precisions, or why it is not available."""
    state = StateDir(state_dir.resolve())
    environments = EngineEnvironments(state.engines)
    watch_children_without_threads()
    with tempfile.TemporaryDirectory() as scratch:
        reports = asyncio.run(probe_engines(environments.runner_argv, Path(scratch)))
    for report in reports:
        where = "beside the agent"
        if environments.has_own(report.name):
            where = f"own, {engine_installing.size_bytes(state.engines / report.name) / 1e6:.0f} MB"
        typer.echo(f"{report.name:<18}{where:<20}{_state_of(report)}")


@app.command()
def add(
    name: _Name,
    state_dir: _StateDirOption,
    packages_of: Annotated[
        Path | None, typer.Option(help="An interpreter that has the engine; instead of the list with hashes.")
    ] = None,
) -> None:
    """Give an engine an environment of its own: whole, or nothing is left."""
    state = StateDir(state_dir.resolve())
    watch_children_without_threads()
    try:
        report = engine_installing.add(state.engines, name, packages_of=packages_of)
    except BenchfarmError as error:
        raise _refused(error) from error
    typer.echo(f"{name} {_state_of(report)}")
    if is_in_use(state.root):
        typer.echo("the running agent takes it up when it is started again")


@app.command()
def remove(name: _Name, state_dir: _StateDirOption) -> None:
    """Remove an engine's environment; the agent must not run."""
    state = StateDir(state_dir.resolve())
    try:
        if is_in_use(state.root):
            raise Conflict(f"the agent in {state.root} may be measuring with it: stop it first")
        engine_installing.remove(state.engines, name)
    except BenchfarmError as error:
        raise _refused(error) from error


def _state_of(report: EngineReport) -> str:
    if not report.available:
        return f"not available: {report.reason}"
    return f"{report.version}  {', '.join(report.precisions)}"


def _refused(error: BenchfarmError) -> typer.Exit:
    typer.echo(error.detail, err=True)
    return typer.Exit(EXIT_USAGE if isinstance(error, InvalidRequest) else EXIT_REFUSED)
