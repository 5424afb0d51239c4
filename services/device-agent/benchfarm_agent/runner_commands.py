"""`benchfarm agent runner ...`: native runners for boards without Python, below the agent's folder."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from benchfarm_agent.state_dir import StateDir
from benchfarm_engines.native_build import TARGETS, BuiltRunner, build_runner, built_runners, find_runner
from benchfarm_engines.native_packages import CannotBuild

EXIT_REFUSED: Final = 3

app = typer.Typer(name="runner", no_args_is_help=True, help="Native runners for boards without Python.")

_StateDirOption = Annotated[
    Path, typer.Option(envvar="BENCHFARM_AGENT_STATE_DIR", help="The agent's folder, as `agent run` has it.")
]


@app.command()
def build(
    state_dir: _StateDirOption,
    target: Annotated[list[str] | None, typer.Option(help="A processor, x86_64 or aarch64; all by default.")] = None,
    compiler: Annotated[
        Literal["zig", "host"], typer.Option(help="zig is fetched and makes both; host is this machine's g++.")
    ] = "zig",
) -> None:
    """Build the runner of the present version: minutes the first time, nothing where it is there already."""
    runners = StateDir(state_dir.resolve()).runners
    for each in target or TARGETS:
        try:
            built = build_runner(each, runners, compiler=compiler, said=lambda text: typer.echo(text, err=True))
        except (CannotBuild, OSError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(EXIT_REFUSED) from error
        typer.echo(_line(built))


@app.command("list")
def list_runners(state_dir: _StateDirOption) -> None:
    """Every runner that was built; boards get the one that is marked."""
    runners = StateDir(state_dir.resolve()).runners
    used = {find_runner(runners, target) for target in TARGETS}
    for built in built_runners(runners):
        typer.echo(_line(built) + ("  in use" if built in used else "  of an older version"))


def _line(built: BuiltRunner) -> str:
    size = f"{built.size_bytes / 1e6:.1f} MB"
    return f"{built.target:<9}ncnn {built.ncnn_version}  {size}  {built.compiler}  {built.sha256[:16]}  {built.path}"
