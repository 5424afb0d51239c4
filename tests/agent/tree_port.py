"""A port to a board whose /sys, /proc and /etc are plain files in a folder; its shell and programs are this host's.

The commands run as a user without rights, so that a file that must not be written refuses it.
"""

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchfarm_agent.ports.board_scripts import new_name, reading, texts_of
from benchfarm_agent.ports.channel import Said
from benchfarm_agent.ports.host_port import HostChannel
from benchfarm_agent.ports.interface import Ran
from benchfarm_agent.ports.shell_port import ShellPort
from tests.agent.trees import Tree

NOBODY = 65534
_BOARD_PATH = re.compile(r"(?<![\w./*-])/(?:sys|proc|etc|var)/")


class TreePort(ShellPort):
    """Paths of the board are paths below `root` on their way there, and the board's again on their way back.

    Small commands run without the supervision that a real connection needs.
    """

    def __init__(self, root: Path) -> None:
        super().__init__("tree")
        self.root = root

    async def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Ran:
        process = await self._process([_BOARD_PATH.sub(lambda match: f"{self.root}{match[0]}", word) for word in argv])
        try:
            said = await asyncio.wait_for(process.communicate(stdin), timeout_s)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        stdout, stderr = (part.replace(str(self.root).encode(), b"") for part in said)
        return Ran(process.returncode or 0, stdout, stderr)

    async def read(self, paths: Sequence[str], *, timeout_s: float = 5.0) -> dict[str, str | None]:
        mark = new_name()
        ran = await self.run(reading(paths, mark), timeout_s=timeout_s + 10)
        texts = texts_of(ran.stdout, paths, mark)
        assert texts is not None
        return texts

    async def _open(self, command: str) -> HostChannel:
        mapped = _BOARD_PATH.sub(lambda match: f"{self.root}{match[0]}", command)
        return TreeChannel(await self._process(["sh", "-c", mapped]), str(self.root))

    async def _process(self, argv: Sequence[str]) -> asyncio.subprocess.Process:
        path = os.environ.get("PATH", "/usr/bin:/bin")
        rights: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        return await asyncio.create_subprocess_exec(
            "env",  # finds the board's own programs
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": f"{self.root}/bin:{path}", "TMPDIR": f"{self.root}/tmp", "TREE": str(self.root)},
            cwd="/",
            start_new_session=True,
            **rights,
        )

    def text(self, path: str) -> str:
        """What is in a file of the board."""
        return (self.root / path.removeprefix("/")).read_text().strip()

    def put(self, path: str, text: str) -> None:
        """Changes a file of the board, as its kernel might."""
        (self.root / path.removeprefix("/")).write_text(text)


class TreeChannel(HostChannel):
    """Takes the folder out of what is said."""

    def __init__(self, process: asyncio.subprocess.Process, root: str) -> None:
        super().__init__(process)
        self._root = root.encode()

    async def hear(self) -> Said | int:
        said = await super().hear()
        return said if isinstance(said, int) else Said(said.source, said.data.replace(self._root, b""))


@contextmanager
def laid_out(tree: Tree) -> Iterator[Path]:
    """The folder of a tree, owned by whom its commands run as; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tree-") as folder:
        root = Path(folder)
        for name in ("tmp", "bin"):
            (root / name).mkdir()
        for name, text in tree.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for name, target in tree.links.items():
            (root / name).symlink_to(target)
        for name, script in tree.programs.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (root / "bin" / name).chmod(0o755)
        _hand_over(root)
        yield root


def _hand_over(root: Path) -> None:
    root.chmod(0o755)
    if os.geteuid() == 0:
        for folder, _, names in os.walk(root):
            for name in ("", *names):
                os.chown(os.path.join(folder, name), NOBODY, NOBODY, follow_symlinks=False)
