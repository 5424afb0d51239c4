"""Boards of every kind that a port reaches, behind one call: `on_board(work)` runs `work(port, folder)`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.ports.interface import Port
from benchfarm_agent.ports.ssh_port import SshPort
from tests.agent.ports.local_shell import shells
from tests.agent.ports.ssh_server import ssh_server

KINDS = ("dash", "busybox", "ssh")
Work = Callable[[Port, str], Awaitable[Any]]
OnBoard = Callable[[Work], Any]


@contextlib.asynccontextmanager
async def port_of(kind: str, folder: Path) -> AsyncIterator[Port]:
    """A port of one kind to a board that lives as long as the block."""
    if kind == "ssh":
        async with ssh_server(folder / "server") as server:
            server.be_known()
            port = SshPort(server.target)
            try:
                yield port
            finally:
                await port.close()
    else:
        found = shells(folder)
        if kind not in found:
            pytest.skip(f"no {kind} on this host")
        yield found[kind]
        await found[kind].close()


@pytest.fixture(params=KINDS)
def on_board(
    request: pytest.FixtureRequest, tmp_path: Path, running: Callable[[Coroutine[Any, Any, Any]], Any]
) -> OnBoard:
    """Runs a coroutine function with a port and an empty folder of its board."""

    async def led(work: Work) -> Any:
        async with port_of(request.param, tmp_path) as port:
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
