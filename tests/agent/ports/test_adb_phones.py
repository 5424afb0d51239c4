"""Real adbd behind the agent's adb server: cables, hanging phones, full storage, a server that dies."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.ports import shell_port
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.adb_watch import AdbDevice
from benchfarm_agent.ports.interface import BoardUnreachable, PortTransferFailed, PortWriteRefused
from tests.agent.ports.conftest import Running, adb_server, is_gone, states_become
from tests.agent.ports.test_adb_server import watched
from tests.peers.phones import Phone

LIMITS: dict[str, Any] = {"line_bytes_max": 1000, "silence_s": 20.0, "lines_max": 50}
PID_FILE = "/data/local/tmp/pid"
SLEEPER = ["sh", "-c", f"echo $$ >{PID_FILE}; echo up; exec sleep 300"]


async def begun(port: AdbPort) -> "asyncio.Task[Any]":
    """A launch that has said its first line."""
    up = asyncio.Event()
    task = asyncio.ensure_future(port.stream(SLEEPER, stdin=b"x", on_line=lambda _: up.set(), **LIMITS))
    await asyncio.wait_for(up.wait(), 10)
    return task


def test_six_phones_are_there_within_three_seconds(running: Running, adb_home: Path, phones: list[Phone]) -> None:
    async def work() -> None:
        async with adb_server(adb_home) as server:
            server.keep_connected([phone.address for phone in phones])
            took_s = await states_become(server, {phone.address: "device" for phone in phones})
            assert took_s < 3
            ports = [AdbPort(server, phone.address) for phone in phones]
            said = await asyncio.gather(*(port.run(["getprop", "ro.serialno"], timeout_s=10) for port in ports))
            assert [ran.stdout.decode().strip() for ran in said] == [phone.serial for phone in phones]

    running(work())


def test_an_unplugged_phone_ends_its_launch_at_once_and_comes_back(
    running: Running, adb_home: Path, phone: Phone
) -> None:
    async def work() -> None:
        async with adb_server(adb_home, phone.address) as server, watched(server) as told:
            assert await told.get() == [AdbDevice(phone.address, "device")]
            port = AdbPort(server, phone.address)
            launch = await begun(port)
            began_s = time.monotonic()
            phone.relay.unplug()
            with pytest.raises(BoardUnreachable):
                await asyncio.wait_for(launch, 10)
            assert time.monotonic() - began_s < 3
            with pytest.raises(BoardUnreachable):
                await port.run(["true"], timeout_s=5)
            while any(device.is_ready for device in await asyncio.wait_for(told.get(), 5)):
                pass
            phone.relay.plug()
            began_s = time.monotonic()
            while not any(device.is_ready for device in await asyncio.wait_for(told.get(), 10)):
                pass
            assert time.monotonic() - began_s < 3
            assert await is_gone(port, PID_FILE)  # the phone noticed by itself
            assert (await port.run(["echo", "back"], timeout_s=5)).stdout == b"back\n"

    running(work())


def test_a_hanging_phone_costs_its_own_time_and_nobody_elses(
    running: Running, adb_home: Path, phones: list[Phone]
) -> None:
    async def work() -> None:
        hanging, other = phones[0], phones[1]
        async with adb_server(adb_home, hanging.address, other.address) as server:
            stuck, free = AdbPort(server, hanging.address), AdbPort(server, other.address)
            hanging.relay.hang()
            calls = [asyncio.ensure_future(stuck.run(["true"], timeout_s=2)) for _ in range(20)]
            began_s = time.monotonic()
            for _ in range(10):
                assert (await free.run(["echo", "x"], timeout_s=1)).stdout == b"x\n"
            assert time.monotonic() - began_s < 2
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, BoardUnreachable)
            assert time.monotonic() - began_s < 4
            hanging.relay.flow()
            assert (await stuck.run(["echo", "again"], timeout_s=10)).stdout == b"again\n"

    running(work())


def test_a_phone_that_falls_silent_in_a_launch_is_away_and_not_slow(
    running: Running, adb_home: Path, phone: Phone, monkeypatch
) -> None:
    monkeypatch.setattr(shell_port, "END_S", 1.0)

    async def work() -> None:
        async with adb_server(adb_home, phone.address) as server:
            port = AdbPort(server, phone.address)
            up = asyncio.Event()
            limits = LIMITS | {"silence_s": 1.0}
            launch = asyncio.ensure_future(port.stream(SLEEPER, stdin=b"x", on_line=lambda _: up.set(), **limits))
            await up.wait()
            phone.relay.hang()
            began_s = time.monotonic()
            with pytest.raises(BoardUnreachable, match="fell silent and does not answer"):
                await launch
            assert time.monotonic() - began_s < 4
            phone.relay.flow()
            assert await is_gone(port, PID_FILE)

    running(work())


def test_full_storage_is_told_in_the_phones_words(
    running: Running, adb_home: Path, phone: Phone, tmp_path: Path
) -> None:
    async def work() -> None:
        (tmp_path / "large").write_bytes(os.urandom(5_000_000))
        phone.fill_storage()
        async with adb_server(adb_home, phone.address) as server:
            port = AdbPort(server, phone.address)
            with pytest.raises(PortTransferFailed, match="No space left"):
                await port.push(tmp_path / "large", "/data/local/tmp/large", timeout_s=20)
            streamed = await port.stream(["cat"], stdin=b"y" * 1_000_000, on_line=print, **LIMITS)
            assert (streamed.returncode, streamed.cut) == (125, None)
            assert "No space left" in streamed.stderr_tail
            phone.free_storage()
            await port.push(tmp_path / "large", "/data/local/tmp/large", timeout_s=20)
            await port.pull("/data/local/tmp/large", tmp_path / "back", timeout_s=20)
            names = (await port.run(["ls", "-A", "/data/local/tmp"], timeout_s=5)).stdout.decode().split()
            assert [name for name in names if "benchfarm-" in name] == []
        assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()

    running(work())


def test_a_slow_link_is_slow_and_whole(running: Running, adb_home: Path, phone: Phone, tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "file").write_bytes(os.urandom(300_000))
        async with adb_server(adb_home, phone.address) as server:
            port = AdbPort(server, phone.address)
            phone.relay.slow(delay_s=0.005, bytes_per_s=400_000)
            await port.push(tmp_path / "file", "/data/local/tmp/file", timeout_s=20)
            with pytest.raises(BoardUnreachable):
                await port.pull("/data/local/tmp/file", tmp_path / "back", timeout_s=0.2)
            phone.relay.slow()
            await port.pull("/data/local/tmp/file", tmp_path / "back", timeout_s=20)
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()

    running(work())


def test_a_killed_server_loses_calls_but_no_phone(running: Running, adb_home: Path, phone: Phone) -> None:
    async def work() -> None:
        async with adb_server(adb_home, phone.address) as server, watched(server) as told:
            port = AdbPort(server, phone.address)
            launch = await begun(port)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(BoardUnreachable):
                await asyncio.wait_for(launch, 10)
            await states_become(server, {phone.address: "device"})
            assert await is_gone(port, PID_FILE)
            seen = [told.get_nowait() for _ in range(told.qsize())]
            assert [] in seen
            assert seen[-1] == [AdbDevice(phone.address, "device")]

    running(work())


def test_an_unrooted_phone_refuses_a_clock_in_its_own_words(
    running: Running, adb_home: Path, phones: list[Phone]
) -> None:
    async def work() -> None:
        unrooted = next(phone for phone in phones if not phone.model.is_rooted)
        async with adb_server(adb_home, unrooted.address) as server:
            port = AdbPort(server, unrooted.address)
            governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
            before = await port.read([governor])
            with pytest.raises(PortWriteRefused, match=r"(?i)permission denied"):
                await port.write(governor, "userspace")
            assert await port.read([governor]) == before

    running(work())
