"""The way to a Linux board over SSH."""

from functools import partial
from typing import Final

from benchfarm_agent.board_ways import RemoteLab, reboot
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.lab_file import SshHost
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.runner_kits import Kit, gone_or_mended, native_kit, python_kit
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.errors import TransientDeviceError

ROOTS_ROOT: Final = "/var/lib/benchfarm-runner"
"""Where another user can reach it: root's own folder is closed to the runner, which is not root."""
ASK_S: Final = 10.0
_HOME: Final = 'printf %s "${XDG_CACHE_HOME:-$HOME/.cache}/benchfarm"'


def target_of(host: SshHost) -> SshTarget:
    """Where a host of the lab's file is."""
    return SshTarget(host.host, host.user, host.key_file, host.known_hosts_file, host.port)


class SshWay:
    """One host of the lab's file; it is tried again and again while it is away."""

    is_fixed = False

    def __init__(self, lab: RemoteLab, host: SshHost) -> None:
        self._lab = lab
        self._host = host
        self._port = SshPort(target_of(host))

    @property
    def label(self) -> str:
        return self._host.name

    async def open(self) -> Board:
        facts = await read_board_facts(self._port)
        place = Place("ssh", self.label, self._lab.lab_file.marks(self.label), self._host.note)
        self._find = partial(self._find_kit, facts)
        self._kit = await self._find()
        return self._lab.board(place, self._port, facts, await self._root(facts), self._kit, target_of(self._host))

    async def gone(self, board: Board) -> str:
        assert isinstance(board, RemoteBoard)
        return await gone_or_mended(board.away(), self._find, self._kit)

    @property
    def steps(self) -> frozenset[RecoveryStep]:
        return frozenset({RecoveryStep.REBOOT})  # it connects anew by itself

    async def recover(self, step: RecoveryStep) -> None:
        del step
        await reboot(self._port, (("reboot",), ("sudo", "-n", "reboot")))

    async def close(self) -> None:
        await self._port.close()

    async def _find_kit(self, facts: BoardFacts) -> Kit:
        if self._host.runner == "python":
            return await python_kit(self._lab.state, self._port, self._host.engines)
        return await native_kit(self._lab.state, facts.abi)

    async def _root(self, facts: BoardFacts) -> str:
        if facts.is_root:
            return ROOTS_ROOT
        ran = await self._port.run(["sh", "-c", _HOME], timeout_s=ASK_S)
        root = ran.stdout.decode(errors="replace")
        if ran.returncode != 0 or not root.startswith("/"):
            raise TransientDeviceError(f"{self._port.name} has no home for {self._host.user}: give the user one")
        return root
