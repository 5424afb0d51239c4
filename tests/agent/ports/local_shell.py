"""A port to a shell of this host: what runs on boards, in every shell that a board may have, without a board."""

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchfarm_agent.ports.host_port import HostChannel, HostPort

APPLETS = "sh setsid head sleep cat mkdir rm mv chmod wc printf kill yes sha256sum find ls id".split()


class LocalShellPort(HostPort):
    """The agent's port to its own machine with another shell and environment."""

    def __init__(self, shell: Sequence[str], env: Mapping[str, str]) -> None:
        super().__init__(Path(env["TMPDIR"]), program=shell, env=env)
        self._processes: list[asyncio.subprocess.Process] = []

    async def close(self) -> None:
        """The loop may end after this: every shell has ended."""
        await super().close()
        await asyncio.wait_for(asyncio.gather(*(process.wait() for process in self._processes)), timeout=10)

    async def _open(self, command: str) -> HostChannel:
        channel = await super()._open(command)
        self._processes.append(channel._process)
        return channel


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
