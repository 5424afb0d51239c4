"""The agent's own adb server: the real program, with nothing plugged in or with a phone that lets nobody in."""

import asyncio
import contextlib
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.adb_server import AdbServer, find_adb, parse_devices
from benchfarm_agent.ports.adb_watch import AdbDevice, watch
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_core.errors import InvalidRequest, Unavailable
from tests.agent.ports.conftest import Running, adb_server, states_become
from tests.peers.unauthorized import UnauthorizedPhone

USERS_PORT = 5037  # where a developer's own server listens


@contextlib.asynccontextmanager
async def watched(server: AdbServer) -> AsyncIterator[asyncio.Queue[list[AdbDevice]]]:
    """What `watch` tells, in a queue."""
    told: asyncio.Queue[list[AdbDevice]] = asyncio.Queue()

    async def tell() -> None:
        async for devices in watch(server):
            told.put_nowait(devices)

    task = asyncio.ensure_future(tell())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_it_has_a_port_a_home_and_an_environment_of_its_own(running: Running, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BENCHFARM_AGENT_TOKEN", "secret")
    monkeypatch.setenv("ADB_VENDOR_KEYS", str(tmp_path / "foreign"))

    async def work() -> None:
        async with adb_server(tmp_path / "adb") as server:
            assert server.port != USERS_PORT
            assert int(await server.ask("host:version"), 16) >= 41
            assert server.pid is not None
            environment = read_bytes(f"/proc/{server.pid}/environ")
            assert b"secret" not in environment
            assert b"foreign" not in environment
            assert listening_addresses(server.pid) <= {"127.0.0.1", "::1"}
            assert stat.S_IMODE(os.stat(tmp_path / "adb").st_mode) == 0o700
            assert (tmp_path / "adb" / ".android" / "adbkey").exists()
            pid = server.pid
        assert read_bytes(f"/proc/{pid}/environ") == b""
        with pytest.raises(Unavailable):
            await server.ask("host:version")
        await server.close()

    running(work())


def test_a_server_that_dies_comes_back_on_its_port(running: Running, adb_home: Path) -> None:
    async def work() -> None:
        async with adb_server(adb_home) as server:
            port, pid = server.port, server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            began_s = time.monotonic()
            await pid_changes(server, pid)
            assert server.port == port
            assert time.monotonic() - began_s < 3
            again = server.pid
            await server.restart()
            assert server.pid not in {again, None}
            assert int(await server.ask("host:version"), 16) >= 41

    running(work())


def test_a_program_that_is_no_adb_is_refused(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        server = AdbServer(tmp_path / "adb", adb=Path("/bin/false"))
        with pytest.raises(Unavailable, match="does not start"):
            await server.start()
        await server.close()

    running(work())


def test_without_adb_it_is_said_how_to_get_it(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "adbutils", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidRequest, match="install the package"):
        find_adb()
    (tmp_path / "adb").write_text("#!/bin/sh\n")
    (tmp_path / "adb").chmod(0o755)
    assert find_adb() == tmp_path / "adb"


def test_a_device_that_lets_nobody_in_is_told_with_what_to_do(
    running: Running, adb_home: Path, unauthorized_phone: UnauthorizedPhone
) -> None:
    async def work() -> None:
        async with adb_server(adb_home) as server, watched(server) as told:
            assert await told.get() == []
            server.keep_connected([unauthorized_phone.address])
            await states_become(server, {unauthorized_phone.address: "unauthorized"})
            while (devices := await asyncio.wait_for(told.get(), 5)) != [
                AdbDevice(unauthorized_phone.address, "unauthorized")
            ]:
                assert all(device.state in {"offline", "connecting", "authorizing"} for device in devices)
            assert not devices[0].is_ready
            with pytest.raises(BoardUnreachable, match=r"unauthorized.*allow USB debugging"):
                await AdbPort(server, unauthorized_phone.address).run(["true"], timeout_s=5)
            server.keep_connected([])
            while await asyncio.wait_for(told.get(), 5):
                pass

    running(work())


def test_a_serial_that_is_not_there_is_unreachable(running: Running, adb_home: Path) -> None:
    async def work() -> None:
        async with adb_server(adb_home) as server:
            port = AdbPort(server, "no;such`serial")
            for call in (port.run(["true"], timeout_s=5), port.read(["/a"]), port.write("/a", "b")):
                with pytest.raises(BoardUnreachable, match="not found"):
                    await call
        with pytest.raises(BoardUnreachable, match="no adb server"):
            await port.run(["true"], timeout_s=5)

    running(work())


def test_what_listens_need_not_be_an_adb_server(running: Running, adb_home: Path) -> None:
    async def work() -> None:
        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH\r\n")
            writer.close()

        async with await asyncio.start_server(babble, "127.0.0.1", 0) as listener:
            server = AdbServer(adb_home)
            server._port = listener.sockets[0].getsockname()[1]
            with pytest.raises(BoardUnreachable, match="no adb server"):
                await AdbPort(server, "x").run(["true"], timeout_s=5)
            with pytest.raises(Unavailable):
                await server.states()

    running(work())


def test_the_list_of_devices_is_read_whatever_a_state_explains() -> None:
    text = (
        "A1\tdevice\n127.0.0.1:5555\toffline\nB2\tno permissions (missing udev rules?); see [http://x]\n\nC\tdevice\n"
    )
    assert parse_devices(text + "A1\tdevice\n") == [
        ("A1", "device"),
        ("127.0.0.1:5555", "offline"),
        ("B2", "no permissions"),
        ("C", "device"),
        ("A1", "device"),
    ]


async def pid_changes(server: AdbServer, before: int) -> None:
    for _ in range(500):
        if server.pid not in {before, None}:
            await states_become(server, {}, within_s=5)
            return
        await asyncio.sleep(0.01)


def read_bytes(path: str) -> bytes:
    """A file's content, nothing where there is none."""
    return Path(path).read_bytes() if Path(path).exists() else b""


def listening_addresses(pid: int) -> set[str]:
    """On which addresses a process listens."""
    inodes = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    found = set()
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                is_loopback = fields[1].split(":")[0] == loopback
                found.add({"tcp": "127.0.0.1", "tcp6": "::1"}[table] if is_loopback else fields[1])
    return found
