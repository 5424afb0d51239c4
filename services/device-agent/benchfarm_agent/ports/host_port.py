"""The port to the agent's own machine: what boards are told over adb and SSH, its own shell is told directly."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from benchfarm_agent.ports.channel import Said
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.ports.shell_port import ShellPort
from benchfarm_agent.processes import start_child
from benchfarm_engines.launch import launch_environment

READ_BYTES: Final = 2**16
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


class HostPort(ShellPort):
    """Commands of this machine, as the agent's own user and with none of its environment; for small things alone."""

    def __init__(
        self, scratch: Path, *, program: Sequence[str] = ("sh",), env: Mapping[str, str] | None = None
    ) -> None:
        """scratch: a folder for what belongs to calls. program: the shell. env: another whole environment."""
        super().__init__("this host")
        self._scratch = scratch
        self._shell = tuple(program)
        self._env = launch_environment(str(scratch)) | {"PATH": PATH} if env is None else env

    async def _open(self, command: str) -> "HostChannel":
        try:
            process = await start_child([*self._shell, "-c", command], env=self._env, folder=self._scratch)
        except OSError as error:
            raise BoardUnreachable(f"this host starts no shell: {error.strerror}") from error
        return HostChannel(process)


class HostChannel:
    """One shell. Its pipes' end is what the end of a connection is elsewhere: what it supervises ends by that."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin = process.stdin
        self._heard: asyncio.Queue[Said | int | None] = asyncio.Queue()
        self._listening = asyncio.ensure_future(self._listen(process.stdout, process.stderr))

    async def send(self, data: bytes) -> None:
        try:
            self._stdin.write(data)
            await self._stdin.drain()
        except OSError as error:
            raise BoardUnreachable("the shell has ended") from error

    async def end_input(self) -> None:
        self._stdin.close()

    async def hear(self) -> Said | int:
        said = await self._heard.get()
        if said is None:
            raise BoardUnreachable("the shell was given up")
        return said

    def close(self) -> None:
        self._stdin.close()
        self._listening.cancel()
        for pipe in _outputs(self._process):
            pipe.close()
        self._heard.put_nowait(None)

    async def _pump(self, stream: asyncio.StreamReader, source: Literal["stdout", "stderr"]) -> None:
        while data := await stream.read(READ_BYTES):
            self._heard.put_nowait(Said(source, data))

    async def _listen(self, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        await asyncio.gather(self._pump(stdout, "stdout"), self._pump(stderr, "stderr"))
        returncode = await self._process.wait()
        self._heard.put_nowait(returncode if returncode >= 0 else 128 - returncode)


def _outputs(process: asyncio.subprocess.Process) -> list[asyncio.BaseTransport]:
    """Both outputs. asyncio has no call that ends them, and who goes on writing would wait for a reader for good."""
    transport: asyncio.SubprocessTransport = process._transport  # type: ignore[attr-defined]  # noqa: SLF001
    pipes = (transport.get_pipe_transport(number) for number in (1, 2))
    return [pipe for pipe in pipes if pipe is not None]
