"""A port to a shell of this host: what runs on boards, in every shell that a board may have, without a board."""

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchfarm_agent.ports.channel import Said
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.ports.shell_port import ShellPort

APPLETS = "sh setsid head sleep cat mkdir rm mv chmod wc printf kill yes sha256sum find ls id".split()


class LocalShellPort(ShellPort):
    """Runs each command as sshd and adbd do: a shell in a session of its own."""

    def __init__(self, shell: Sequence[str], env: Mapping[str, str]) -> None:
        super().__init__(shell[0])
        self._shell = shell
        self._env = env
        self._processes: list[asyncio.subprocess.Process] = []

    async def close(self) -> None:
        """The loop may end after this: every shell has ended."""
        await super().close()
        await asyncio.wait_for(asyncio.gather(*(process.wait() for process in self._processes)), timeout=10)

    async def _open(self, command: str) -> "LocalChannel":
        process = await asyncio.create_subprocess_exec(
            *self._shell,
            "-c",
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(self._env),
            start_new_session=True,
        )
        self._processes.append(process)
        return LocalChannel(process)


class LocalChannel:
    """What `close` does is what the end of a connection does: the pipes close, nothing is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin = process.stdin
        self._heard: asyncio.Queue[Said | int | None] = asyncio.Queue()
        self._pumps = [
            asyncio.ensure_future(self._pump(process.stdout, "stdout")),
            asyncio.ensure_future(self._pump(process.stderr, "stderr")),
        ]
        self._ending = asyncio.ensure_future(self._wait())

    async def send(self, data: bytes) -> None:
        try:
            self._stdin.write(data)
            await self._stdin.drain()
        except OSError as error:
            raise BoardUnreachable("went away") from error

    async def end_input(self) -> None:
        self._stdin.close()

    async def hear(self) -> Said | int:
        said = await self._heard.get()
        if said is None:
            raise BoardUnreachable("went away")
        return said

    def close(self) -> None:
        self._stdin.close()
        for pump in self._pumps:
            pump.cancel()
        for number in (1, 2):
            if (pipe := self._process._transport.get_pipe_transport(number)) is not None:  # type: ignore[attr-defined]
                pipe.close()
        self._heard.put_nowait(None)

    async def _pump(self, stream: asyncio.StreamReader, source) -> None:
        while data := await stream.read(2**16):
            self._heard.put_nowait(Said(source, data))

    async def _wait(self) -> None:
        await asyncio.gather(*self._pumps, return_exceptions=True)
        returncode = await self._process.wait()
        self._heard.put_nowait(returncode if returncode >= 0 else 128 - returncode)


def shells(folder: Path) -> dict[str, LocalShellPort]:
    """Every shell of this host that is like one of a board's; with busybox and toybox go their own small programs."""
    folder.mkdir(exist_ok=True)
    found = {}
    path = os.environ.get("PATH", "/usr/bin:/bin")
    for name in ("dash", "bash", "mksh"):
        if program := shutil.which(name):
            found[name] = LocalShellPort([program], {"PATH": path, "TMPDIR": str(folder)})
    for name, shell in (("busybox", None), ("toybox", "mksh")):
        program, shell_program = shutil.which(name), shutil.which(shell) if shell else None
        if program and (shell is None or shell_program):
            applets = _applets(folder / name, program, shell_program)
            argv = [shell_program or str(applets / "sh")]
            found[name] = LocalShellPort(argv, {"PATH": str(applets), "TMPDIR": str(folder)})
    return found


def _applets(folder: Path, program: str, shell: str | None) -> Path:
    if not folder.exists():
        folder.mkdir()
        for name in APPLETS:
            (folder / name).symlink_to(shell if name == "sh" and shell else program)
    return folder
