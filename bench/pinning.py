"""The pinning table: every frequency of the QEMU board asked, set, observed and proven, and every ending put back.

The board's kernel, cpufreq and thermal control are real; its clocks do not change its speed, and its time is emulated.
"""

import argparse
import asyncio
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from bench.pinning_child import BOARD, PINNED, command
from bench.report import command_run, write_section
from benchfarm_agent.boards.clock_watch import watched_clock
from benchfarm_agent.boards.clocks import Clocks
from benchfarm_agent.boards.clusters import cores_text
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_core.clock_proof import ClockEvidence, proof
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import OperatingPoint
from tests.peers.qemu_board import IDLE_C, POLICIES, QemuBoard

Row = dict[str, object]
_Answer = TypeVar("_Answer")
REPOSITORY = Path(__file__).resolve().parents[1]
COOLING = "/sys/class/thermal/cooling_device*/cur_state"
TABLE = "Clocks asked, set and observed on the QEMU board"
ENDINGS = "Clocks put back on the QEMU board"


def main() -> None:
    """Measures both tables and writes their sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launch-s", type=float, default=1.5, help="how long each clock is watched")
    parser.add_argument("--print-only", action="store_true", help="leave docs/performance.md alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        board = QemuBoard(Path(folder))
        try:
            clocks = [*_every_clock(board, Path(folder), given.launch_s), _hot_clock(board, Path(folder))]
            endings = [_ending(board, Path(folder), name, how) for name, how in _ENDINGS.items()]
        finally:
            board.end()
    for row in [*clocks, *endings]:
        print(row)
    if not given.print_only:
        write_section(TABLE, command_run(), clocks)
        write_section(ENDINGS, command_run(), endings)
    *cool, hot = clocks
    is_met = all(row["proof"] == "verified" for row in cool) and hot["proof"] == "unpinned"
    if not is_met or not all(row["put back"] for row in [*clocks, *endings]):
        raise SystemExit("a clock was not proven, or not put back")


def _every_clock(board: QemuBoard, folder: Path, launch_s: float) -> list[Row]:
    """A row per frequency of each cluster."""

    async def rows(port: SshPort, facts: BoardFacts) -> list[Row]:
        points = [
            OperatingPoint(mode="pinned", cores=cluster.cores, threads=len(cluster.cores), freq_khz=(khz,))
            for cluster in facts.clusters
            for khz in cluster.freq_khz
        ]
        return [await _row(port, facts, point, Journal(folder), launch_s) for point in points]

    return asyncio.run(_connected(board, rows))


async def _row(port: SshPort, facts: BoardFacts, point: OperatingPoint, journal: Journal, launch_s: float) -> Row:
    before = await _settings(port)
    await Clocks(facts).pin(port, point, journal, BOARD)
    shown = await _shown(port, point)
    async with watched_clock(port, facts, point, "/tmp") as watch:
        await port.run(["sleep", str(launch_s)], timeout_s=60)
        evidence = await watch.end(launch_s)
    await Clocks.restore(port, journal, BOARD)
    return _told(point, shown, evidence) | {"put back": await _settings(port) == before}


def _told(point: OperatingPoint, shown: list[str], evidence: ClockEvidence) -> Row:
    return {
        "cores": cores_text(point.cores),
        "asked kHz": point.freq_khz[0],
        "governor": shown[0],
        "set kHz": shown[1],
        "residency": "none" if evidence.residency is None else f"{evidence.residency:.4f}",
        "watched s": round(evidence.watched_s, 2),
        "throttle events": evidence.throttle_events,
        "proof": proof(evidence).value,
    }


def _hot_clock(board: QemuBoard, folder: Path) -> Row:
    """The highest clock of the last cluster while the board is at 80 degrees."""

    async def row(port: SshPort, facts: BoardFacts) -> Row:
        cluster = facts.clusters[-1]
        point = OperatingPoint(mode="pinned", cores=cluster.cores, threads=1, freq_khz=cluster.freq_khz[-1:])
        before = await _settings(port)
        await Clocks(facts).pin(port, point, Journal(folder), BOARD)
        async with watched_clock(port, facts, point, "/tmp") as watch:
            begun_s = time.monotonic()
            board.heat(80)
            await asyncio.to_thread(board.ssh_run, f"until cat {COOLING} | grep -q [1-9]; do sleep 0.1; done")
            shown = await _shown(port, point)
            evidence = await watch.end(time.monotonic() - begun_s)
        board.heat(IDLE_C)
        await asyncio.to_thread(board.ssh_run, f"while cat {COOLING} | grep -q [1-9]; do sleep 0.1; done")
        await Clocks.restore(port, Journal(folder), BOARD)
        told = _told(point, shown, evidence) | {"put back": await _settings(port) == before}
        return told | {"cores": f"{told['cores']} at 80 degrees"}

    return asyncio.run(_connected(board, row))


def _after_success(board: QemuBoard, journals: Path) -> None:
    async def work(port: SshPort, facts: BoardFacts) -> None:
        await Clocks(facts).pin(port, _point(facts), Journal(journals), BOARD)
        await Clocks.restore(port, Journal(journals), BOARD)

    asyncio.run(_connected(board, work))


def _after_refusal(board: QemuBoard, journals: Path) -> None:
    """The speed is refused, after governor and limits were taken."""

    async def work(port: SshPort, facts: BoardFacts) -> None:
        await port.run(["mount", "-o", "bind", f"{POLICIES}/policy2/scaling_driver", _SPEED], timeout_s=10)
        try:
            await Clocks(facts).pin(port, _point(facts), Journal(journals), BOARD)
        except TransientDeviceError:
            return
        finally:
            await port.run(["umount", _SPEED], timeout_s=10)
        raise SystemExit("the board refused nothing")

    asyncio.run(_connected(board, work))


def _after_sigterm(board: QemuBoard, journals: Path) -> None:
    _hold_until(board, journals, signal.SIGTERM)


def _after_sigkill(board: QemuBoard, journals: Path) -> None:
    _hold_until(board, journals, signal.SIGKILL)
    asyncio.run(_connected(board, lambda port, _: Clocks.restore(port, Journal(journals), BOARD)))


def _after_unplugging(board: QemuBoard, journals: Path) -> None:
    async def work(port: SshPort, facts: BoardFacts) -> None:
        await Clocks(facts).pin(port, _point(facts), Journal(journals), BOARD)
        board.ssh_relay.unplug()
        try:
            await Clocks.restore(port, Journal(journals), BOARD)
        except BoardUnreachable:
            return
        raise SystemExit("the board was not away")

    asyncio.run(_connected(board, work))
    board.ssh_relay.plug()
    asyncio.run(_connected(board, lambda port, _: Clocks.restore(port, Journal(journals), BOARD)))


_SPEED = f"{POLICIES}/policy2/scaling_setspeed"
_ENDINGS: dict[str, Callable[[QemuBoard, Path], None]] = {
    "success": _after_success,
    "a setting that the board refuses": _after_refusal,
    "SIGTERM": _after_sigterm,
    "kill -9, then a new start": _after_sigkill,
    "connection lost, then back": _after_unplugging,
}


def _ending(board: QemuBoard, folder: Path, name: str, how: Callable[[QemuBoard, Path], None]) -> Row:
    before = asyncio.run(_connected(board, lambda port, _: _settings(port)))
    how(board, folder)
    after = asyncio.run(_connected(board, lambda port, _: _settings(port)))
    left = sum(1 for name in Journal(folder).entries(BOARD))
    return {"how a pinned clock's lease ends": name, "put back": before == after, "left in the journal": left}


def _hold_until(board: QemuBoard, journals: Path, number: signal.Signals) -> None:
    point = OperatingPoint(mode="pinned", cores=(2,), threads=1, freq_khz=(1_300_000,))
    with subprocess.Popen(command(_target(board), journals, point), cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if child.stdout.readline().strip() != PINNED.encode():
            raise SystemExit("the board could not be pinned")
        child.send_signal(number)


def _point(facts: BoardFacts) -> OperatingPoint:
    cluster = facts.clusters[-1]
    return OperatingPoint(mode="pinned", cores=cluster.cores, threads=1, freq_khz=cluster.freq_khz[:1])


async def _connected(board: QemuBoard, work: Callable[[SshPort, BoardFacts], Awaitable[_Answer]]) -> _Answer:
    port = SshPort(_target(board))
    try:
        return await work(port, await read_board_facts(port))
    finally:
        await port.close()


def _target(board: QemuBoard) -> SshTarget:
    ssh = board.ssh
    return SshTarget(ssh.host, ssh.user, ssh.key_file, ssh.known_hosts_file, ssh.port)


async def _settings(port: SshPort) -> dict[str, str | None]:
    names = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
    return await port.read([f"{POLICIES}/policy{number}/{name}" for number in (0, 2) for name in names])


async def _shown(port: SshPort, point: OperatingPoint) -> list[str]:
    folder = f"{POLICIES}/policy{point.cores[0]}"
    texts = await port.read([f"{folder}/scaling_governor", f"{folder}/scaling_cur_freq"])
    return [text or "?" for text in texts.values()]


if __name__ == "__main__":
    main()
