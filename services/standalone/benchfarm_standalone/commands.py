"""``benchfarm up``: the whole farm in the foreground, until Ctrl-C."""

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.farm import DEFAULT_PORT, Farm
from benchfarm_standalone.processes import adopt_orphans
from benchfarm_standalone.settings import default_home

EXIT_STOPPED = 0
EXIT_FAILED = 9  # the number that the benchfarm command has for a fault
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Boards(StrEnum):
    """Which boards the farm brings along."""

    LOCAL = "local"
    NONE = "none"


def up(
    home: Annotated[
        Path | None, typer.Option(help="Folder for all that the farm keeps. [default: ~/.local/state/benchfarm]")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the API on loopback; 0 for any free one.")] = DEFAULT_PORT,
    boards: Annotated[Boards, typer.Option(help="Offer this machine as a board, or no board.")] = Boards.LOCAL,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="DATABASE_URL", help="A PostgreSQL 18 of your own instead of the embedded one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout when ready.")] = False,
) -> None:
    """Run a whole farm on this machine: Postgres, Valkey, API, workers and an agent. Ctrl-C stops all of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    farm = Farm(
        home or default_home(),
        port=port,
        local_board=boards is Boards.LOCAL,
        database_url=database_url,
        owns_orphans=adopt_orphans(),
    )
    raise typer.Exit(asyncio.run(_run(farm, as_json=as_json)))


async def _run(farm: Farm, *, as_json: bool) -> int:
    """Start, tell, wait, stop. Returns the exit status."""
    asked_to_stop = _stop_on_signals(farm)
    try:
        if not await _unless(asked_to_stop, farm.start()):
            return EXIT_STOPPED
        _tell(farm, as_json=as_json)
        await _unless(asked_to_stop, farm.wait())
    except FarmError as error:
        sys.stderr.write(f"benchfarm up: {error}\n")
        return EXIT_FAILED
    finally:
        await farm.stop()
    return EXIT_STOPPED


def _stop_on_signals(farm: Farm) -> asyncio.Event:
    """An event that a first signal sets; a second signal ends all patience with processes that do not stop."""
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            farm.hurry()
        asked.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    return asked


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless the event comes first, which cancels it. Tells whether it was done; raises what it raised."""
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if doing.done():
        doing.result()
        return True
    doing.cancel()
    await asyncio.gather(doing, return_exceptions=True)
    return False


def _tell(farm: Farm, *, as_json: bool) -> None:
    """Say where the farm is and how to use it. The token itself is never printed: terminals are recorded."""
    token_file = farm.home.admin_token_file
    if as_json:
        told = {"url": farm.url, "pid": os.getpid(), "home": str(farm.home.path), "admin_token_file": str(token_file)}
        print(json.dumps({**told, "donors": farm.donors}), flush=True)
        return
    lines = (
        f"Benchfarm is up at {farm.url}",
        f"  admin token  {token_file}",
        f"  logs         {farm.home.log_dir}",
        f"  donors       {', '.join(farm.donors) or 'none'}",
        f"  first steps  benchfarm login {farm.url} --token-file {shlex.quote(str(token_file))}",
        "Ctrl-C stops it.",
    )
    print("\n".join(lines), flush=True)
