"""Ports to a board with another processor, a real kernel and small programs only, over adb and over dropbear's SSH."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.interface import Port, PortWriteRefused
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from tests.agent.ports.conftest import Running, adb_server, is_gone
from tests.peers.qemu_board import QemuBoard

CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq"
LIMITS: dict[str, Any] = {"line_bytes_max": 1000, "silence_s": 20.0, "lines_max": 50}


async def use(port: Port, tmp_path: Path) -> None:
    """What an agent does with a board, in short."""
    pid_file = "/tmp/pid"  # of the board
    files = [f"{CPUFREQ}/{name}" for name in ("scaling_governor", "scaling_available_frequencies", "absent")]
    texts = await port.read([*files, "/proc/cpuinfo"], timeout_s=20)
    assert texts[files[2]] is None
    assert "1800000" in (texts[files[1]] or "").split()
    with pytest.raises(PortWriteRefused, match="Invalid argument"):
        await port.write(files[0], "no-such-governor", timeout_s=20)
    await port.write(files[0], "powersave", timeout_s=20)
    assert (await port.read(files[:1], timeout_s=20))[files[0]] == "powersave"
    (tmp_path / "file").write_bytes(os.urandom(1_000_000))
    await port.push(tmp_path / "file", "/tmp/a/file", timeout_s=30)
    await port.pull("/tmp/a/file", tmp_path / "back", timeout_s=30)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    up = asyncio.Event()
    argv = ["sh", "-c", f"echo $$ >{pid_file}; echo up; sleep 300"]
    launch = asyncio.ensure_future(port.stream(argv, stdin=b"x", on_line=lambda _: up.set(), **LIMITS))
    await asyncio.wait_for(up.wait(), 20)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    assert await is_gone(port, pid_file)


def test_an_arm_board_is_used_over_adb_and_ssh(
    running: Running, adb_home: Path, qemu_board: QemuBoard, tmp_path: Path
) -> None:
    async def work() -> None:
        peer = qemu_board.ssh
        ssh = SshPort(SshTarget(peer.host, peer.user, peer.key_file, peer.known_hosts_file, peer.port))
        async with adb_server(adb_home, qemu_board.adb_address) as server:
            for port in (AdbPort(server, qemu_board.adb_address), ssh):
                await use(port, tmp_path)
        await ssh.close()

    running(work())
