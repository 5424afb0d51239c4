"""Pins the clock of a board behind SSH and holds it there until somebody ends it: by SIGTERM, or by SIGKILL."""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from benchfarm_agent.boards.clocks import Clocks
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_core.platforms import OperatingPoint

BOARD = "held"
PINNED = "pinned"


def main() -> None:
    """Says `pinned` when the board is."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("host", "user", "key_file", "known_hosts_file", "journal"):
        parser.add_argument(name)
    for name in ("port", "core", "khz"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    target = SshTarget(given.host, given.user, Path(given.key_file), Path(given.known_hosts_file), given.port)
    point = OperatingPoint(mode="pinned", cores=(given.core,), threads=1, freq_khz=(given.khz,))
    with asyncio.Runner() as runner, contextlib.suppress(asyncio.CancelledError):
        holding = runner.get_loop().create_task(_hold(target, point, Journal(Path(given.journal))))
        runner.get_loop().add_signal_handler(signal.SIGTERM, holding.cancel)
        runner.get_loop().run_until_complete(holding)


def command(target: SshTarget, journal: Path, point: OperatingPoint) -> list[str]:
    """This program with these words; run it where the project lies."""
    words = (target.host, target.user, target.key_file, target.known_hosts_file, journal)
    numbers = (target.port, point.cores[0], point.freq_khz[0])
    return [
        sys.executable,
        "-c",
        "from bench import pinning_child; pinning_child.main()",
        *map(str, (*words, *numbers)),
    ]


async def _hold(target: SshTarget, point: OperatingPoint, journal: Journal) -> None:
    port = SshPort(target)
    try:
        await Clocks(await read_board_facts(port)).pin(port, point, journal, BOARD)
        print(PINNED, flush=True)
        await asyncio.Event().wait()
    finally:
        await Clocks.restore(port, journal, BOARD)
        await port.close()
