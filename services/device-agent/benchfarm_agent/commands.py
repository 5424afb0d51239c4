"""`benchfarm agent ...`: the verbs that this package adds to the command line.

Exit codes: 0 after a drain, 2 for a wrong command line, 3 when the farm or this machine refuses the agent and
only a person can mend it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from benchfarm_agent.board_commands import app as boards_app
from benchfarm_agent.boards.simulated import SPEED_MAX
from benchfarm_agent.boards.simulated_profile import SAMPLE, read_profile
from benchfarm_agent.bundle_commands import pack
from benchfarm_agent.engine_commands import app as engines
from benchfarm_agent.main import run as run_agent
from benchfarm_agent.runner_commands import app as runner
from benchfarm_agent.settings import Settings
from benchfarm_agent.simulating import BOARDS_MAX, run_simulated
from benchfarm_core.errors import BenchfarmError
from benchfarm_core.refusals import VALUE_ERROR

EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3

app = typer.Typer(name="agent", no_args_is_help=True, help="Drive the boards of a lab for a farm.")
app.add_typer(engines)
app.add_typer(runner)
app.add_typer(boards_app)
app.command()(pack)


@app.callback()
def agent() -> None:
    """Drive the boards of a lab for a farm."""


@app.command()
def run(
    url: Annotated[str | None, typer.Option(help="The farm's address; http:// on loopback only.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where identity, spool and cache live.")] = None,
    enrol_token_file: Annotated[
        Path | None, typer.Option(help="A one-time token, needed at the first start only.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The agent's name for people; the host's name by default.")] = None,
    boards: Annotated[Path | None, typer.Option(help="boards.toml: phones and SSH hosts beside this machine.")] = None,
) -> None:
    """Enrol if needed, then measure until SIGTERM. Options may come as BENCHFARM_AGENT_URL and so on."""
    given: dict[str, Any] = {
        "url": url,
        "state_dir": state_dir,
        "enrol_token_file": enrol_token_file,
        "name": name,
        "boards": boards,
    }
    _until_stopped(given, run_agent)


@app.command()
def simulate(
    *,
    boards: Annotated[int, typer.Option(min=1, max=BOARDS_MAX, help="How many boards.")] = 10,
    profile: Annotated[Path | None, typer.Option(help="What they are like; the sample by default.")] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=SPEED_MAX, help="So many times as fast as real time.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="What all chance comes from.")] = 0,
    show_profile: Annotated[bool, typer.Option("--show-profile", help="Print the sample profile and end.")] = False,
    url: Annotated[str | None, typer.Option(help="The farm's address; http:// on loopback only.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where identity and spool live.")] = None,
    enrol_token_file: Annotated[
        Path | None, typer.Option(help="A one-time token, needed at the first start only.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The agent's name for people; the host's name by default.")] = None,
) -> None:
    """Drive simulated boards until SIGTERM: to learn the farm, and for load tests. Nothing is measured."""
    if show_profile:
        typer.echo(SAMPLE.read_text(), nl=False)
        return
    given = {"url": url, "state_dir": state_dir, "enrol_token_file": enrol_token_file, "name": name, "profile": None}

    def run_boards(settings: Settings) -> None:
        run_simulated(settings, read_profile(profile), boards=boards, speed=speed, seed=seed)

    _until_stopped(given, run_boards)


def _until_stopped(given: Mapping[str, Any], run_with: Callable[[Settings], None]) -> None:
    """Runs an agent with these settings; an error of one that was given is the caller's to mend."""
    try:
        settings = Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            told = problem["msg"].removeprefix(VALUE_ERROR)
            typer.echo(f"{'.'.join(map(str, problem['loc']))}: {told}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    try:
        run_with(settings)
    except BenchfarmError as error:
        typer.echo(f"agent stopped: {error.detail}", err=True)
        raise typer.Exit(EXIT_USAGE if error.field in given else EXIT_REFUSED) from error
