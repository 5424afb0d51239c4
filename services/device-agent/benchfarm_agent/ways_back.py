"""Ways back: how a board was reached while it was changed, kept beside the journal of what was changed on it.

An agent that was killed finds its boards again by the lab's file, and puts them back when they are there. A board that
left the file meanwhile, or has another section in it now, is put back at the start over the way that led to it before.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Literal

from pydantic import ValidationError

from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.boards.remote import Place
from benchfarm_agent.boards.remote_runner import MissingRunner
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_file import LabFile
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.adb_server import AdbServer, find_adb
from benchfarm_agent.ports.adb_watch import watch
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.boards import BoardName
from benchfarm_core.errors import BenchfarmError, TransientDeviceError
from benchfarm_core.values import Value

logger = logging.getLogger(__name__)

PUT_BACK_S: Final = 20.0
"""How long the agent's start waits for a board that is not one of its lab's any more."""
LOCAL: Final = "local"
_NONE: Final = MissingRunner((), "the board is only put back")

BoardOf = Callable[[Place, Port, BoardFacts, str, MissingRunner], Board]


class WayBack(Value):
    """How a board was reached. label: a phone's serial or an SSH host's name; root: the agent's folder on the board.

    serial, hardware_id: what the farm knows the board by; empty where an older agent noted the way.
    """

    kind: Literal["adb", "ssh"]
    label: str
    root: str
    target: SshTarget | None = None
    serial: str = ""
    hardware_id: str = ""

    def is_listed(self, lab_file: LabFile) -> bool:
        """Whether the lab's file leads there still: then the board is put back as soon as it is there."""
        return bool(self.labels(lab_file))

    def labels(self, lab_file: LabFile) -> frozenset[str]:
        """The names of the lab's ways that lead there still."""
        if self.target is None:
            return frozenset({self.label} if lab_file.wants_adb(self.label) else ())
        there = (self.target.host, self.target.port, self.target.user)
        return frozenset(host.name for host in lab_file.ssh if (host.host, host.port, host.user) == there)

    @property
    def address(self) -> str:
        """For people."""
        return self.label if self.target is None else f"{self.label}, {self.target.user}@{self.target.address}"


async def put_back_unlisted(
    state: StateDir, lab_file: LabFile, settings: Settings, board_of: BoardOf
) -> dict[str, str]:
    """Puts back every board of the journal to which the lab's file does not lead; why that failed, by the journal's
    name of the board. To be done before boards are followed: one of them may be the same by another way."""
    journal = Journal(state.journal)
    left = {name: _way_back(name, journal) for name in journal.unsettled()}
    left = {name: back for name, back in left.items() if not _is_listed(name, back, lab_file)}
    phones = _Phones(state, [back.label for back in left.values() if back is not None and back.kind == "adb"])
    local = LocalBoard(state, journal, settings) if LOCAL in left else None
    try:
        whys = await asyncio.gather(
            *(_why_not(name, back, board_of, phones) for name, back in left.items() if name != LOCAL),
            *([] if local is None else [_why_not_local(local, journal)]),
        )
    finally:
        await phones.close()
    names = [*(name for name in left if name != LOCAL), *([] if local is None else [LOCAL])]
    return {name: why for name, why in zip(names, whys, strict=True) if why is not None}


def displaced(journal: Journal, lab_file: LabFile, label: str, name: str) -> dict[str, str]:
    """The addresses of boards that were changed when the way `label` led to them, where the board `name` answers now:
    by their names in the journal."""
    backs = {other: _way_back(other, journal) for other in journal.unsettled() if other != name}
    return {other: back.address for other, back in backs.items() if back is not None and label in back.labels(lab_file)}


def board_name(journal: Journal, name: str) -> BoardName | None:
    """What the farm knows a board by that is called so in the journal; None where that was not noted."""
    back = _way_back(name, journal)
    if back is None or not back.serial:
        return None
    return BoardName(kind=back.kind, serial=back.serial, hardware_id=back.hardware_id)


def advice(state: StateDir, name: str) -> str:
    """What an operator does about a board that is not put back."""
    return f"name it in boards.toml again and start the agent while it is there; or {_by_hand(state, name)}"


def advice_displaced(state: StateDir, name: str) -> str:
    """The same where another board has its address."""
    return f"give it its address back, and it is put back at once; or {_by_hand(state, name)}"


def advice_doubtful(state: StateDir, name: str, label: str) -> str:
    """The same where another host key is shown at its address, by the way of this label."""
    trust = f"benchfarm agent boards trust {label} --replace"
    same = f"compare the key with the board's own; if it is this board, set up anew: {trust}, and it is put back"
    return f"{same}; if another board is there: {advice_displaced(state, name)}"


def _by_hand(state: StateDir, name: str) -> str:
    remove = f"remove {state.journal / name}.json"
    return f"restart the board, which forgets its clocks, {remove}, and release it: benchfarm boards release"


def _is_listed(name: str, back: WayBack | None, lab_file: LabFile) -> bool:
    if name == LOCAL:
        return lab_file.local
    return back is not None and back.is_listed(lab_file)


def _way_back(name: str, journal: Journal) -> WayBack | None:
    try:
        return WayBack.model_validate_json(journal.way(name))
    except ValidationError:
        return None


async def _why_not_local(board: LocalBoard, journal: Journal) -> str | None:
    """The same for this host, which is always there."""
    try:
        await board.restore()
    except TransientDeviceError as error:
        return error.detail
    except OSError as error:  # of its journal
        return str(error)
    return "its clocks cannot be set any more" if journal.entries(board.name) else None


async def _why_not(name: str, back: WayBack | None, board_of: BoardOf, phones: "_Phones") -> str | None:
    """Puts one board back; why that does not go, None when it is as it was found."""
    if back is None:
        return "nothing says how it was reached"
    try:
        async with asyncio.timeout(PUT_BACK_S), _port_to(back, phones) as port:
            await _put_back(name, back, port, board_of)
    except TimeoutError:
        return f"{back.address} did not answer within {PUT_BACK_S:g} s"
    except (BenchfarmError, OSError) as error:
        return f"{back.address}: {error}"[:300]
    logger.info("a board that is not in boards.toml any more was put back", extra={"board": back.address})
    return None


async def _put_back(name: str, back: WayBack, port: Port, board_of: BoardOf) -> None:
    """Raises TransientDeviceError, also where another board answers now: that one was never changed."""
    board = board_of(Place(back.kind, back.label), port, await read_board_facts(port), back.root, _NONE)
    if board.name != name:
        raise TransientDeviceError("another board answers there now")
    await board.restore()


@contextlib.asynccontextmanager
async def _port_to(back: WayBack, phones: "_Phones") -> AsyncIterator[Port]:
    if back.target is None:
        port: Port = await phones.port(back.label)
    else:
        from benchfarm_agent.ports.ssh_port import SshPort  # brings a library that only labs with such boards need

        port = SshPort(back.target)
    try:
        yield port
    finally:
        await port.close()


class _Phones:
    """Phones that are put back, by one adb server, which starts with the first that is asked for."""

    def __init__(self, state: StateDir, serials: Sequence[str]) -> None:
        self._folder = state.adb
        self._addresses = [serial for serial in serials if ":" in serial]
        self._server: AdbServer | None = None
        self._turn = asyncio.Lock()

    async def port(self, serial: str) -> Port:
        """A phone, once the adb server lets the agent in. Raises InvalidRequest where there is no adb, Unavailable."""
        async with self._turn:
            if self._server is None:
                server = AdbServer(self._folder, adb=find_adb())
                await server.start()
                server.keep_connected(self._addresses)
                self._server = server
        async for devices in watch(self._server):
            if any(one.serial == serial and one.is_ready for one in devices):
                break
        return AdbPort(self._server, serial)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
