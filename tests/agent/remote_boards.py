"""Remote boards without a remote machine: the real `RemoteBoard` over a shell of this host, with a stand-in runner."""

import os
from pathlib import Path
from typing import Any

from benchfarm_agent.boards.benchmark_kit import BenchmarkKit
from benchfarm_agent.boards.board_folder import BoardFolder
from benchfarm_agent.boards.linux_facts import BoardFacts
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.boards.remote_runner import Confinement, MissingRunner, RunnerKit
from benchfarm_agent.boards.sensors import GateLimits
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.state_dir import StateDir
from tests.agent.ports.local_shell import LocalShellPort

STAND_IN = Path(__file__).with_name("stand_in_runner.sh")
OWNER = "agent1"
BENCH = Place("ssh", "bench-1")
BUSY_HOST = GateLimits(foreign_threads=1000)  # tests run beside others


class StandInKit:
    """A shell script in the place of a runner, with these faults."""

    engines = ("onnxruntime", "ncnn")
    timing = ""

    def __init__(self, *faults: str) -> None:
        self._faults = faults
        self.pushes = 0
        self.limits_s: list[float] = []
        self.confinements: list[Confinement] = []

    async def ensure(self, port: Port, folder: BoardFolder) -> None:
        path = f"{folder.runner}/stand_in.sh"
        if (await port.read([path]))[path] is None:
            self.pushes += 1
            await folder.push(STAND_IN, path)

    def argv(self, folder: BoardFolder) -> list[str]:
        return ["sh", f"{folder.runner}/stand_in.sh", *self._faults]

    def launch_argv(self, folder: BoardFolder, limit_s: float) -> list[str]:
        self.limits_s.append(limit_s)
        return self.argv(folder)

    def limits(self, confinement: Confinement) -> dict[str, Any]:
        self.confinements.append(confinement)
        return {}


def local_shell(folder: Path) -> LocalShellPort:
    """This host as a board: its own shell, with a folder for what belongs to calls."""
    folder.mkdir(exist_ok=True)
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return LocalShellPort(["sh"], {"PATH": path, "TMPDIR": str(folder)})


def remote_board(
    port: Port,
    facts: BoardFacts,
    state: StateDir,
    root: str,
    kit: RunnerKit | MissingRunner,
    *,
    place: Place = BENCH,
    owner: str = OWNER,
    limits: GateLimits = BUSY_HOST,
    kind: type[RemoteBoard] = RemoteBoard,
    tool: BenchmarkKit | None = None,
) -> RemoteBoard:
    """A board behind a port, with the agent's folder at `root`."""
    folder = BoardFolder(port, root, owner=owner, is_shared=False)
    return kind(place, port, facts, folder, kit, Journal(state.journal), limits, tool=tool)
