"""Boards of every kind that a port reaches, behind one call: `on_board(work)` runs `work(port, folder)`."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.adb_server import AdbServer
from benchfarm_agent.ports.host_port import HostPort
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.ports.shell_port import ShellPort
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_core.errors import Unavailable
from tests.agent.ports.local_shell import shells
from tests.agent.ports.ssh_server import ssh_server
from tests.peers.phones import Phone

KINDS = ("dash", "host", "ssh", "sshd", "phone")
ONLINE_S = 10.0
Work = Callable[[Port, str], Awaitable[Any]]
OnBoard = Callable[[Work], Any]
Running = Callable[[Coroutine[Any, Any, Any]], Any]


@contextlib.asynccontextmanager
async def adb_server(folder: Path, *addresses: str) -> AsyncIterator[AdbServer]:
    """The agent's adb server, with these devices in state `device`."""
    server = AdbServer(folder)
    await server.start()
    try:
        server.keep_connected(addresses)
        await states_become(server, dict.fromkeys(addresses, "device"))
        yield server
    finally:
        await server.close()


async def states_become(server: AdbServer, wanted: dict[str, str | None], *, within_s: float = ONLINE_S) -> float:
    """Waits until these serials are in these states (None: not listed); returns after how many seconds."""
    began_s = time.monotonic()
    states: dict[str, str] = {}
    while time.monotonic() - began_s < within_s:
        with contextlib.suppress(Unavailable):
            states = dict(await server.states())
            if all(states.get(serial) == state for serial, state in wanted.items()):
                return time.monotonic() - began_s
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {wanted}, but {states}")


@contextlib.asynccontextmanager
async def port_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Port]:
    """A port of one kind to a board that lives as long as the block."""
    async with contextlib.AsyncExitStack() as stack:
        if kind == "phone":
            phone: Phone = request.getfixturevalue("phone")
            server = await stack.enter_async_context(adb_server(request.getfixturevalue("adb_home"), phone.address))
            port: ShellPort = AdbPort(server, phone.address)
        elif kind == "sshd":
            peer = request.getfixturevalue("ssh_host").ssh
            port = SshPort(SshTarget(peer.host, peer.user, peer.key_file, peer.known_hosts_file, peer.port))
        elif kind == "ssh":
            ssh = await stack.enter_async_context(ssh_server(folder / "server"))
            ssh.be_known()
            port = SshPort(ssh.target)
        elif kind == "host":
            port = HostPort(folder)
        else:
            port = shells(folder)[kind]
        stack.push_async_callback(port.close)
        yield port


@pytest.fixture(scope="session")
def adb_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all servers, so that their key is made once."""
    return tmp_path_factory.mktemp("adb")


@pytest.fixture(params=KINDS)
def on_board(request: pytest.FixtureRequest, tmp_path: Path, running: Running) -> OnBoard:
    """Runs a coroutine function with a port and an empty folder of its board."""
    kind = request.param
    if fixture := {"phone": "phone", "sshd": "ssh_host"}.get(kind):
        request.getfixturevalue(fixture)
    elif kind not in ("ssh", "host") and kind not in shells(tmp_path / "looked"):
        pytest.skip(f"no {kind} on this host")

    async def led(work: Work) -> Any:
        async with port_of(kind, tmp_path, request) as port:
            ran = await port.run(["sh", "-c", 'd=${TMPDIR:-/tmp}/bf-test-$$; mkdir "$d" && echo "$d"'], timeout_s=10)
            assert ran.returncode == 0, ran
            folder = ran.stdout.decode().strip()
            try:
                return await work(port, folder)
            finally:
                await port.run(["rm", "-rf", folder], timeout_s=10)

    return lambda work: running(led(work))


async def is_gone(port: Port, pid_file: str, *, within_s: float = 3.0) -> bool:
    """Whether the process of which the board keeps the number in a file ends within a time."""
    pid = int((await port.read([pid_file]))[pid_file] or "0")
    assert pid > 1, f"nothing wrote {pid_file}"
    for _ in range(int(within_s / 0.1)):
        # a zombie is gone: it is named in its stat
        stat = (await port.read([f"/proc/{pid}/stat"]))[f"/proc/{pid}/stat"]
        if stat is None or stat.rpartition(")")[2].split()[0] in ("Z", "X"):
            return True
        await asyncio.sleep(0.1)
    return False
