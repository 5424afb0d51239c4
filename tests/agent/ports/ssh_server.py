"""A real SSH server within the test's own process (asyncssh's): commands run here, in a session of their own."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh

from benchfarm_agent.ports.ssh_target import SshTarget

COMMANDS_END_S = 5.0
"""How long commands of lost connections may take to end by themselves."""


class SshServer:
    """Listens on loopback. Its clients get in with `key`; it shows `host_key`."""

    def __init__(self, folder: Path, *, host_key_kind: str = "ssh-ed25519") -> None:
        self.folder = folder
        self.host_key = asyncssh.generate_private_key(host_key_kind)
        self.port = 0
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._commands: set[asyncio.Task[Any]] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._key.write_private_key(str(folder / "key"))
        (folder / "authorized").write_bytes(self._key.export_public_key())

    @property
    def target(self) -> SshTarget:
        return SshTarget("127.0.0.1", "somebody", self.folder / "key", self.folder / "known_hosts", self.port)

    def be_known(self) -> None:
        """Writes the known-hosts file that an operator would have."""
        public = self.host_key.export_public_key().decode()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    async def start(self) -> None:
        self._acceptor = await asyncssh.create_server(
            lambda: _Server(self._connections),
            "127.0.0.1",
            self.port,
            server_host_keys=[self.host_key],
            authorized_client_keys=str(self.folder / "authorized"),
            process_factory=self._serve,
            encoding=None,
        )
        self.port = self._acceptor.get_port()

    def cut(self) -> None:
        """Every connection is lost."""
        for connection in tuple(self._connections):
            connection.abort()

    async def stop(self) -> None:
        self.cut()
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
        if self._commands:  # their pipes belong to this event loop
            await asyncio.wait(tuple(self._commands), timeout=COMMANDS_END_S)

    async def _serve(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        assert process.command is not None
        command = asyncio.current_task()
        assert command is not None
        self._commands.add(command)
        command.add_done_callback(self._commands.discard)
        child = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            process.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TMPDIR": str(self.folder)},
            start_new_session=True,
        )
        feeding = asyncio.ensure_future(_pump(process.stdin, child.stdin))
        await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
        code = await child.wait()
        feeding.cancel()
        with contextlib.suppress(OSError):  # the client may be gone
            process.exit(code if code >= 0 else 128 - code)


async def _pump(source: Any, sink: Any) -> None:
    """Passes bytes on until either end is gone; the sink's end is told by closing it, where that can be done."""
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(2**16):
            sink.write(data)
            await sink.drain()
    if isinstance(sink, asyncio.StreamWriter):
        sink.close()
    else:
        while await source.read(2**16):  # what nobody hears any more
            pass


class _Server(asyncssh.SSHServer):
    def __init__(self, connections: "set[asyncssh.SSHServerConnection]") -> None:
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)


@contextlib.asynccontextmanager
async def ssh_server(folder: Path, *, host_key_kind: str = "ssh-ed25519") -> AsyncIterator[SshServer]:
    """A running server that nobody has trusted yet."""
    server = SshServer(folder, host_key_kind=host_key_kind)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
