"""`benchfarm agent boards ...`: what the agent of a lab sees, and which SSH hosts it trusts."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from benchfarm_agent.board_ways import open_boards
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.lab_file import LabFile, read_lab_file
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.settings import Settings
from benchfarm_agent.standings import Standing, read_standings
from benchfarm_agent.state_dir import StateDir, is_in_use, open_state_dir
from benchfarm_core.errors import BenchfarmError, InvalidRequest, NotFound

EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3
APPEAR_S: Final = 2.0
"""Phones take a moment to say that they are there."""
LOOK_S: Final = 0.1
_UNSETTLED: Final = frozenset({"opening", "authorizing"})
_NO_FARM: Final = "http://127.0.0.1"

app = typer.Typer(name="boards", help="What the agent of this lab sees: each board's state, and what to do about it.")

_StateDirOption = Annotated[
    Path, typer.Option(envvar="BENCHFARM_AGENT_STATE_DIR", help="The agent's folder, as `agent run` has it.")
]
_BoardsOption = Annotated[
    Path | None, typer.Option("--boards", envvar="BENCHFARM_AGENT_BOARDS", help="The lab's boards.toml.")
]


@app.command("list")
def list_boards(
    state_dir: _StateDirOption,
    boards: _BoardsOption = None,
    wait_s: Annotated[float, typer.Option(help="How long to look where no agent runs.")] = 10.0,
) -> None:
    """Every board, also those that cannot be used: asked of the running agent, else looked for now."""
    try:
        if is_in_use(state_dir):
            found = read_standings(StateDir(state_dir.resolve()).standings)
        else:
            found = _looked(state_dir, boards, wait_s)
    except BenchfarmError as error:
        raise _refused(error) from error
    for line in table(found) or ["no board is to be seen: name some in boards.toml"]:
        typer.echo(line)


@app.command()
def trust(
    name: Annotated[str, typer.Argument(help="The SSH host's name in boards.toml.")],
    boards: _BoardsOption = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the board itself says its key is: `ssh-keygen -lf /etc/ssh/...pub`.")
    ] = None,
    replace: Annotated[bool, typer.Option(help="Forget the key that it was known by.")] = False,
) -> None:
    """Trust an SSH host by the key that it shows now. Compare the printed fingerprint with the board's own."""
    from benchfarm_agent.ports.ssh_trust import trust as trust_host
    from benchfarm_agent.ssh_way import target_of

    try:
        hosts = {host.name: host for host in _read(boards, Settings(url=_NO_FARM, state_dir=Path())).ssh}
        if name not in hosts:
            raise NotFound(
                f"boards.toml has no SSH host {name[:60]!r}; it has {', '.join(hosts) or 'none'}", field="name"
            )
        key = asyncio.run(trust_host(target_of(hosts[name]), fingerprint=fingerprint, replace=replace))
    except BenchfarmError as error:
        raise _refused(error) from error
    typer.echo(f"{name} is trusted with {key.fingerprint}")


def table(standings: list[Standing]) -> list[str]:
    """One line per board, and one for what to do where something is to be done."""
    lines = []
    for one in standings:
        lines.append(f"{one.label:<24}{one.state:<14}{one.detail}".rstrip())
        if one.advice:
            lines.append(f"{'':<24}{'':<14}{one.advice}")
    return lines


def _read(boards: Path | None, settings: Settings) -> LabFile:
    """As the agent reads it, whose settings say what the file leaves out. Raises InvalidRequest."""
    return read_lab_file(boards, max_temperature_c=settings.max_temperature_c)


def _looked(state_dir: Path, boards: Path | None, wait_s: float) -> list[Standing]:
    watch_children_without_threads()
    lab_file = _read(boards, Settings(url=_NO_FARM, state_dir=state_dir))
    state, lock = open_state_dir(state_dir)
    logger = logging.getLogger("benchfarm_agent")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the table says it
    try:
        return asyncio.run(_seen(Settings(url=_NO_FARM, state_dir=state.root), state, lab_file, wait_s))
    finally:
        logger.setLevel(level)
        os.close(lock)


async def _seen(settings: Settings, state: StateDir, lab_file: LabFile, wait_s: float) -> list[Standing]:
    """What the boards are once each has been tried, or after `wait_s`."""
    until_s = boottime_s() + wait_s
    async with open_boards(settings, state, lab_file) as watch:
        await asyncio.sleep(min(wait_s, APPEAR_S))
        while boottime_s() < until_s and any(one.state in _UNSETTLED for one in watch.standings()):  # noqa: ASYNC110  (a look for people)
            await asyncio.sleep(LOOK_S)
        return list(watch.standings())


def _refused(error: BenchfarmError) -> typer.Exit:
    typer.echo(error.detail, err=True)
    return typer.Exit(EXIT_USAGE if isinstance(error, InvalidRequest | NotFound) else EXIT_REFUSED)
