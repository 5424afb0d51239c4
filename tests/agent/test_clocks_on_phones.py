"""Clocks of phones over a real adbd: one that obeys, one that lies, one that sticks, a locked one and others."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from benchfarm_agent.boards.clock_watch import watched_clock
from benchfarm_agent.boards.clocks import Clocks
from benchfarm_agent.boards.linux_facts import BoardFacts, best_proof, offered_ranges, read_board_facts
from benchfarm_agent.boards.sensors import BoardSensors
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_core.clock_proof import ClockEvidence, is_throttled, proof
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import ClockProof, OperatingPoint
from tests.agent.conftest import run
from tests.agent.ports.conftest import adb_server
from tests.peers.phones import Phone

BOARD = "phone"
LAUNCH_S = 1.3

_Answer = TypeVar("_Answer")


def on_phone(phone: Phone, folder: Path, work: Callable[[AdbPort, BoardFacts], Awaitable[_Answer]]) -> _Answer:
    """What the work gives, over the agent's own adb server."""

    async def connected() -> _Answer:
        async with adb_server(folder / "adb", phone.address) as server:
            port = AdbPort(server, phone.address)
            try:
                return await work(port, await read_board_facts(port))
            finally:
                await port.close()

    return run(connected())


def highest(facts: BoardFacts) -> OperatingPoint:
    """The highest clock of the last cluster."""
    cluster = facts.clusters[-1]
    return OperatingPoint(mode="pinned", cores=cluster.cores[-1:], threads=1, freq_khz=cluster.freq_khz[-1:])


def settings_of(phone: Phone) -> dict[str, str]:
    folders = sorted((phone.root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    names = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
    return {f"{folder.name}/{name}": (folder / name).read_text().strip() for folder in folders for name in names}


def evidence_of(
    phone: Phone, folder: Path, meanwhile: Callable[[], object] = int, launch_s: float = LAUNCH_S
) -> ClockEvidence:
    """What is seen of a launch on a phone that is pinned for it; afterwards it is as it was."""
    found = settings_of(phone)

    async def launched(port: AdbPort, facts: BoardFacts) -> ClockEvidence:
        point, journal = highest(facts), Journal(folder)
        await Clocks(facts).pin(port, point, journal, BOARD)
        async with watched_clock(port, facts, point, "/data/local/tmp") as watch:
            meanwhile()
            await port.run(["sleep", str(launch_s)], timeout_s=10)
            evidence = await watch.end(launch_s)
        await Clocks.restore(port, journal, BOARD)
        return evidence

    evidence = on_phone(phone, folder, launched)
    assert settings_of(phone) == found
    assert Journal(folder).entries(BOARD) == {}
    return evidence


def test_a_phone_is_pinned_and_verified(phone: Phone, tmp_path: Path) -> None:
    evidence = evidence_of(phone, tmp_path)
    assert proof(evidence) is ClockProof.VERIFIED
    assert evidence.throttle_events == 0


def test_a_phone_that_lies_about_its_clock_comes_out_unpinned(phone: Phone, tmp_path: Path) -> None:
    def drop() -> None:
        phone.clocks.stick(800_000)
        phone.lie(2_600_000)

    evidence = evidence_of(phone, tmp_path, drop)
    assert evidence.residency is not None
    assert evidence.residency < 0.5
    assert proof(evidence) is ClockProof.UNPINNED


def test_a_phone_whose_clock_sticks_is_refused(phone: Phone, tmp_path: Path) -> None:
    phone.clocks.stick(800_000)
    with pytest.raises(TransientDeviceError, match="runs at 800000"):
        evidence_of(phone, tmp_path)
    assert Journal(tmp_path).entries(BOARD) == {}


def test_a_phone_that_does_not_count_is_bounded(phones: list[Phone], tmp_path: Path) -> None:
    evidence = evidence_of(phones[2], tmp_path, launch_s=2.2)
    assert evidence.residency is None
    assert evidence.samples_off == 0
    assert proof(evidence) is ClockProof.BOUNDED


def test_a_phone_that_gets_hot_in_mid_launch_is_seen(phones: list[Phone], tmp_path: Path) -> None:
    found = settings_of(phones[3])

    async def launched(port: AdbPort, facts: BoardFacts) -> ClockEvidence:
        point, journal = highest(facts), Journal(tmp_path)
        await Clocks(facts).pin(port, point, journal, BOARD)
        async with watched_clock(port, facts, point, "/data/local/tmp") as watch:
            phones[3].heat(90)
            await port.run(["sleep", str(LAUNCH_S)], timeout_s=10)
            evidence = await watch.end(LAUNCH_S)
        assert (await BoardSensors(port, facts).read(point.cores)).temperature_c == 90
        await Clocks.restore(port, journal, BOARD)
        return evidence

    evidence = on_phone(phones[3], tmp_path, launched)
    assert is_throttled(evidence)
    assert settings_of(phones[3]) == found


def test_a_locked_phone_has_fixed_performance_alone(phones: list[Phone], tmp_path: Path) -> None:
    locked = phones[5]

    async def launched(port: AdbPort, facts: BoardFacts) -> tuple[set[str], ClockProof, str]:
        point = OperatingPoint(mode="fixed_performance", cores=facts.clusters[-1].cores, threads=1)
        await Clocks(facts).pin(port, point, Journal(tmp_path), BOARD)
        while_pinned = locked.read("data/fixed_performance")
        await Clocks.restore(port, Journal(tmp_path), BOARD)
        return {one.mode for one in offered_ranges(facts)}, best_proof(facts), while_pinned

    modes, best, while_pinned = on_phone(locked, tmp_path, launched)
    assert modes == {"fixed_performance", "free"}
    assert best is ClockProof.UNPINNED
    assert (while_pinned, locked.read("data/fixed_performance")) == ("true", "false")
