"""Clocks on the QEMU board: a real kernel that counts, refuses, throttles and loses cores."""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bench.pinning_child import BOARD, PINNED, command
from benchfarm_agent.boards.clock_watch import watched_clock
from benchfarm_agent.boards.clocks import Clocks
from benchfarm_agent.boards.linux_facts import BoardFacts, best_proof, offered_ranges, read_board_facts
from benchfarm_agent.boards.sensors import BoardSensors
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.interface import BoardUnreachable, PortWriteRefused
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_core.clock_proof import ClockEvidence, is_throttled, proof
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.operating_ranges import range_text
from benchfarm_core.platforms import ClockProof, OperatingPoint
from tests.agent.conftest import run
from tests.peers.qemu_board import IDLE_C, POLICIES, QemuBoard

pytestmark = pytest.mark.slow

SMALL_KHZ = (600_000, 1_000_000, 1_400_000, 1_800_000)
LARGE_KHZ = (800_000, 1_300_000, 1_800_000, 2_400_000)
CPUS = "/sys/devices/system/cpu"
COOLING = "/sys/class/thermal/cooling_device*/cur_state"
LAUNCH_S = 1.1
LAUNCH = ("sleep", str(LAUNCH_S))
SETTINGS = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
REPOSITORY = Path(__file__).resolve().parents[2]

_Answer = TypeVar("_Answer")
Work = Callable[[SshPort, BoardFacts], Awaitable[_Answer]]


_known: dict[int, BoardFacts] = {}  # by board: an emulated one needs seconds to tell them


def on_board(board: QemuBoard, work: Work[_Answer]) -> _Answer:
    """What the work gives, over one connection."""

    async def connected() -> _Answer:
        port = SshPort(target_of(board))
        try:
            if id(board) not in _known:
                _known[id(board)] = await read_board_facts(port)
            return await work(port, _known[id(board)])
        finally:
            await port.close()

    return run(connected())


def target_of(board: QemuBoard) -> SshTarget:
    ssh = board.ssh
    return SshTarget(ssh.host, ssh.user, ssh.key_file, ssh.known_hosts_file, ssh.port)


def settings_of(board: QemuBoard) -> list[str]:
    paths = [f"{POLICIES}/policy{number}/{name}" for number in (0, 2) for name in SETTINGS]
    online = [f"{CPUS}/cpu{core}/online" for core in (1, 2, 3)]
    return board.read(" ".join([*paths, *online])).split()


def at(khz: int, *cores: int) -> OperatingPoint:
    return OperatingPoint(mode="pinned", cores=cores, threads=len(cores), freq_khz=(khz,))


async def measured(
    port: SshPort, facts: BoardFacts, point: OperatingPoint, journal: Journal, meanwhile: Callable[[], Any] = int
) -> ClockEvidence:
    """Pins, launches something that takes its time, and puts back."""
    try:
        await Clocks(facts).pin(port, point, journal, BOARD)
        async with watched_clock(port, facts, point, "/tmp") as watch:
            await asyncio.to_thread(meanwhile)
            await port.run(LAUNCH, timeout_s=20)
            return await watch.end(LAUNCH_S)
    finally:
        await Clocks.restore(port, journal, BOARD)


def evidence_of(
    board: QemuBoard, point: OperatingPoint, journals: Path, meanwhile: Callable[[], Any] = int
) -> ClockEvidence:
    return on_board(board, lambda port, facts: measured(port, facts, point, Journal(journals), meanwhile))


def test_it_says_what_it_is(qemu_board: QemuBoard) -> None:
    async def told(port: SshPort, facts: BoardFacts) -> BoardFacts:
        assert (await BoardSensors(port, facts).read((0,))).temperature_c == pytest.approx(IDLE_C, abs=1)
        return facts

    facts = on_board(qemu_board, told)
    parts = facts.report_parts("lab")
    assert (facts.name, facts.serial, facts.abi) == ("Benchfarm QEMU Board", "BFQEMU0001", "aarch64")
    assert parts["marks"] == ("emulated",)
    assert [range_text(one) for one in offered_ranges(facts)] == [
        "c0-1, up to 2 threads, at 600000, 1000000, 1400000 or 1800000 kHz",
        "c2-3, up to 2 threads, at 800000, 1300000, 1800000 or 2400000 kHz",
        *("c0-1, up to 2 threads, free", "c2-3, up to 2 threads, free", "c0-3, up to 4 threads, free"),
    ]
    assert best_proof(facts) is ClockProof.VERIFIED
    assert len(facts.sensors.coolings) == 2


@pytest.mark.parametrize(("cores", "table"), [((0, 1), SMALL_KHZ), ((2, 3), LARGE_KHZ[::3])])
def test_each_frequency_is_pinned_verified_and_put_back(
    qemu_board: QemuBoard, cores: tuple[int, ...], table: tuple[int, ...], tmp_path: Path
) -> None:
    found = settings_of(qemu_board)
    journal = Journal(tmp_path)

    async def each(port: SshPort, facts: BoardFacts) -> list[ClockEvidence]:
        return [await measured(port, facts, at(khz, *cores), journal) for khz in table]

    for khz, evidence in zip(table, on_board(qemu_board, each), strict=True):
        assert evidence.asked_khz == (khz,)
        assert evidence.residency is not None
        assert evidence.residency >= 0.99
        assert evidence.throttle_events == 0
        assert proof(evidence) is ClockProof.VERIFIED
    assert settings_of(qemu_board) == found
    assert journal.entries(BOARD) == {}


def test_its_kernel_refuses_what_it_does_not_have(qemu_board: QemuBoard, tmp_path: Path) -> None:
    found = settings_of(qemu_board)

    async def tried(port: SshPort, facts: BoardFacts) -> None:
        with pytest.raises(PortWriteRefused, match="Invalid argument"):
            await port.write(f"{POLICIES}/policy0/scaling_governor", "nosuch")
        with pytest.raises(TransientDeviceError, match="cannot be brought to c0"):
            await Clocks(facts).pin(port, at(1_234_000, 0), Journal(tmp_path), BOARD)
        with pytest.raises(TransientDeviceError, match="cannot be brought to c1-2"):
            await Clocks(facts).pin(port, at(600_000, 1, 2), Journal(tmp_path), BOARD)

    on_board(qemu_board, tried)
    assert settings_of(qemu_board) == found


def test_throttling_is_seen_and_a_hot_board_is_not_pinned(qemu_board: QemuBoard, tmp_path: Path) -> None:
    found = settings_of(qemu_board)
    journal = Journal(tmp_path)

    def heat() -> None:
        qemu_board.heat(80)
        qemu_board.ssh_run(f"until cat {COOLING} | grep -q [1-9]; do sleep 0.1; done")

    evidence = on_board(qemu_board, lambda port, facts: hot(port, facts, journal, heat))
    assert is_throttled(evidence)
    assert evidence.residency is not None
    assert evidence.residency < 0.99
    assert proof(evidence) is ClockProof.UNPINNED
    assert journal.entries(BOARD), "limits that heat has lowered are not those that were found"

    async def refused(port: SshPort, facts: BoardFacts) -> None:
        with pytest.raises(TransientDeviceError, match="slows itself down"):
            await Clocks(facts).pin(port, at(LARGE_KHZ[0], 2), Journal(tmp_path / "other"), BOARD)

    (tmp_path / "other").mkdir()
    on_board(qemu_board, refused)
    qemu_board.heat(IDLE_C)
    qemu_board.ssh_run(f"while cat {COOLING} | grep -q [1-9]; do sleep 0.1; done")
    on_board(qemu_board, lambda port, _: Clocks.restore(port, journal, BOARD))
    assert settings_of(qemu_board) == found
    assert journal.entries(BOARD) == {}


async def hot(port: SshPort, facts: BoardFacts, journal: Journal, heat: Callable[[], None]) -> ClockEvidence:
    """A launch that the board slows down, after which it is still hot."""
    point = at(LARGE_KHZ[-1], 2, 3)
    await Clocks(facts).pin(port, point, journal, BOARD)
    async with watched_clock(port, facts, point, "/tmp") as watch:
        await asyncio.to_thread(heat)
        evidence = await watch.end(LAUNCH_S)
    assert (await BoardSensors(port, facts).read((2,))).cooling_state
    with pytest.raises(TransientDeviceError, match="not put back on the board yet"):
        await Clocks.restore(port, journal, BOARD)
    return evidence


def test_a_core_that_goes_is_seen(qemu_board: QemuBoard, tmp_path: Path) -> None:
    point = at(LARGE_KHZ[1], 2, 3)
    gone = evidence_of(qemu_board, point, tmp_path, lambda: qemu_board.ssh_run(f"echo 0 > {CPUS}/cpu3/online"))
    assert gone.cores_lost
    assert is_throttled(gone)
    qemu_board.ssh_run(f"echo 1 > {CPUS}/cpu3/online")
    flapping = f"echo 0 > {CPUS}/cpu3/online; echo 1 > {CPUS}/cpu3/online"
    assert evidence_of(qemu_board, point, tmp_path, lambda: qemu_board.ssh_run(flapping)).cores_lost


def test_a_core_that_was_off_is_used_and_switched_off_again(qemu_board: QemuBoard, tmp_path: Path) -> None:
    qemu_board.ssh_run(f"echo 0 > {CPUS}/cpu3/online")
    evidence = evidence_of(qemu_board, at(LARGE_KHZ[0], 2, 3), tmp_path)
    assert proof(evidence) is ClockProof.VERIFIED
    assert qemu_board.read(f"{CPUS}/cpu3/online") == "0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_is_ended_leaves_nothing_pinned(
    qemu_board: QemuBoard, tmp_path: Path, number: signal.Signals
) -> None:
    found = settings_of(qemu_board)
    argv = command(target_of(qemu_board), tmp_path, at(SMALL_KHZ[1], 0))
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == PINNED.encode()
        assert qemu_board.read(f"{POLICIES}/policy0/scaling_cur_freq") == str(SMALL_KHZ[1])
        child.send_signal(number)
    if number is signal.SIGKILL:
        assert settings_of(qemu_board) != found
        on_board(qemu_board, lambda port, _: Clocks.restore(port, Journal(tmp_path), BOARD))
    assert settings_of(qemu_board) == found
    assert Journal(tmp_path).entries(BOARD) == {}


def test_a_lost_connection_leaves_what_the_next_one_puts_back(qemu_board: QemuBoard, tmp_path: Path) -> None:
    found = settings_of(qemu_board)
    journal = Journal(tmp_path)

    async def unplugged(port: SshPort, facts: BoardFacts) -> None:
        await Clocks(facts).pin(port, at(LARGE_KHZ[0], 2), journal, BOARD)
        qemu_board.ssh_relay.unplug()
        with pytest.raises(BoardUnreachable):
            await Clocks.restore(port, journal, BOARD)

    on_board(qemu_board, unplugged)
    assert journal.entries(BOARD)
    qemu_board.ssh_relay.plug()
    on_board(qemu_board, lambda port, _: Clocks.restore(port, journal, BOARD))
    assert settings_of(qemu_board) == found
    assert journal.entries(BOARD) == {}
