"""The way to a Linux board over SSH."""

from functools import partial
from typing import Final

from benchfarm_agent.board_watch import RENEWED
from benchfarm_agent.board_ways import RemoteLab, reboot
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.boards.remote_runner import PYTHON_FOLDER, MissingRunner
from benchfarm_agent.lab_file import SshHost
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.runner_kits import (
    Kit,
    gone_or_anew,
    gone_or_mended,
    native_kit,
    python_kit,
    target_of_abi,
)
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.errors import TransientDeviceError

ROOTS_ROOT: Final = "/var/lib/benchfarm-runner"
"""Where another user can reach it: root's own folder is closed to the runner, which is not root."""
ASK_S: Final = 10.0
NOT_YET: Final = "its runner is being put there: once it is, the board is asked what this engine can do"
_HAS_NONE: Final = f"""
for one in "$1"/{PYTHON_FOLDER}????????????????; do [ -d "$one" ] && exit 0; done
echo none
"""
_HOME: Final = 'printf %s "${XDG_CACHE_HOME:-$HOME/.cache}/benchfarm"'


def target_of(host: SshHost) -> SshTarget:
    """Where a host of the lab's file is."""
    return SshTarget(host.host, host.user, host.key_file, host.known_hosts_file, host.port)


class SshWay:
    """One host of the lab's file; it is tried again and again while it is away.

    Making a Python runner and putting it there takes minutes over a slow line. A board that has none is listed before,
    without engines, and tells of them once it can. What was broken off on its way there is begun anew in the same way.
    """

    is_fixed = False

    def __init__(self, lab: RemoteLab, host: SshHost) -> None:
        self._lab = lab
        self._host = host
        self._port = SshPort(target_of(host))
        self._not_yet = NOT_YET

    @property
    def label(self) -> str:
        return self._host.name

    async def open(self) -> Board:
        facts = await read_board_facts(self._port)
        place = Place("ssh", self.label, self._lab.lab_file.marks(self.label), self._host.note)
        root = await self._root(facts)
        self._find = partial(self._find_kit, facts)
        self._folder = self._lab.folder(self._port, root, facts)
        self._is_bringing = await self._is_new(facts, root)
        self._kit = MissingRunner(self._host.engines, self._not_yet) if self._is_bringing else await self._find()
        return self._lab.board(place, self._port, facts, root, self._kit, target_of(self._host))

    async def gone(self, board: Board) -> str:
        assert isinstance(board, RemoteBoard)
        if not self._is_bringing:
            return await gone_or_mended(board.away(), self._find, self._kit)
        # looks whether the board is there would wait behind the runner on a slow line: its transfer sees by itself
        return await gone_or_anew(board.away(), self._make()) or await self._put(board)

    @property
    def steps(self) -> frozenset[RecoveryStep]:
        return frozenset({RecoveryStep.REBOOT})  # it connects anew by itself

    async def recover(self, step: RecoveryStep) -> None:
        del step
        await reboot(self._port, (("reboot",), ("sudo", "-n", "reboot")))

    async def close(self) -> None:
        await self._port.close()

    async def _is_new(self, facts: BoardFacts, root: str) -> bool:
        """Whether the board has no runner, and nothing else of it measures meanwhile."""
        has_tool = (
            self._lab.lab_file.find_benchmark_model(self.label, target_of_abi(facts.abi) or facts.abi) is not None
        )
        if self._host.runner != "python" or has_tool:
            return False
        ran = await self._port.run(["sh", "-c", _HAS_NONE, "sh", f"{root}/runner"], timeout_s=ASK_S)
        return ran.stdout.strip() == b"none"

    async def _make(self) -> str:
        """Has the runner made; nothing is said of it yet."""
        self._kit = await self._find()
        return ""

    async def _put(self, board: RemoteBoard) -> str:
        """Puts the runner on the board, which tells then what that can do, or why it cannot be had there.

        Why the board is taken up anew where that was broken off.
        """
        kit = self._kit
        try:
            if not isinstance(kit, MissingRunner):
                await kit.ensure(self._port, self._folder)
        except BoardUnreachable as error:
            self._not_yet = f"its runner is put there once more, since that was broken off: {error.detail}"
            return f"its runner could not be put there: {error.detail}"[:300]
        except (TransientDeviceError, OSError) as error:
            kit = MissingRunner(self._host.engines, str(error))
        self._is_bringing, self._not_yet = False, NOT_YET
        board.equip(kit)
        return RENEWED

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
