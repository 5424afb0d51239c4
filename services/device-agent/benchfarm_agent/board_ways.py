"""The ways to a lab's boards: this host, phones as they are plugged in, SSH hosts."""

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from benchfarm_agent.board_watch import BoardWatch, FixedWay, Source, Way
from benchfarm_agent.boards.benchmark_kit import BenchmarkKit
from benchfarm_agent.boards.board_folder import BoardFolder
from benchfarm_agent.boards.host_facts import machine_id
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.local import LOCAL, LocalBoard
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.boards.remote_runner import MissingRunner, RunnerKit
from benchfarm_agent.boards.sensors import BoardGate
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_file import LabFile
from benchfarm_agent.lab_gate import gate_limits
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.adb_server import AdbServer, find_adb
from benchfarm_agent.ports.adb_watch import AdbDevice, watch
from benchfarm_agent.ports.interface import HostKeyChanged, Port
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.recovery import Recovery
from benchfarm_agent.runner_kits import gone_or_mended, native_kit, target_of_abi
from benchfarm_agent.settings import Settings
from benchfarm_agent.standings import write_standings
from benchfarm_agent.state_dir import StateDir
from benchfarm_agent.ways_back import (
    WayBack,
    advice,
    advice_displaced,
    advice_doubtful,
    board_name,
    displaced,
    put_back_unlisted,
)
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.errors import BenchfarmError, TransientDeviceError
from benchfarm_core.values import digest

logger = logging.getLogger(__name__)

REBOOT_S: Final = 10.0
NOT_PUT_BACK: Final = "not put back"
"""The standing of a board that is changed still, and to which nothing in the lab's file leads any more."""
ANDROID_ROOT: Final = "/data/local/tmp/benchfarm"
_ADVICE: Final = {
    "unauthorized": "unlock it and allow USB debugging for this lab's key",
    "authorizing": "wait, or unlock it and allow USB debugging",
    "offline": "plug it in again, or restart it",
    "no permissions": "add a udev rule for its maker, or run the agent as another user",
    "recovery": "start it normally",
    "bootloader": "start it normally",
}


@dataclass(frozen=True)
class RemoteLab:
    """What every remote board is made with."""

    settings: Settings
    state: StateDir
    lab_file: LabFile
    gates: dict[str, BoardGate] = field(default_factory=dict)
    """By the boards' names: what is known of their heat outlives their absences."""

    @property
    def owner(self) -> str:
        """This agent's name in the locks on boards."""
        return digest([machine_id(), str(self.state.root)], length=12)

    def board(
        self,
        place: Place,
        port: Port,
        facts: BoardFacts,
        root: str,
        kit: RunnerKit | MissingRunner,
        target: SshTarget | None = None,
    ) -> Board:
        """The board behind a port, with the agent's folder at `root`. target: where an SSH host is."""
        folder = self.folder(port, root, facts)
        gate = self.lab_file.gate_of(place.label)
        limits = gate_limits(self.settings, len(facts.cores), place.marks, gate)
        tool = self._tool(place.label, facts.abi)
        serial, hardware_id = facts.identity(place.label)
        back = WayBack(
            kind=place.kind, label=place.label, root=root, target=target, serial=serial, hardware_id=hardware_id
        )
        journal = Journal(self.state.journal)
        return RemoteBoard(
            place,
            port,
            facts,
            folder,
            kit,
            journal,
            limits,
            tool=tool,
            way_back=back.model_dump_json(),
            gates=self.gates,
        )

    def folder(self, port: Port, root: str, facts: BoardFacts) -> BoardFolder:
        """The agent's folder on a board."""
        return BoardFolder(port, root, owner=self.owner, is_shared=facts.is_root)

    def _tool(self, label: str, abi: str) -> BenchmarkKit | None:
        binary = self.lab_file.find_benchmark_model(label, target_of_abi(abi) or abi)
        try:
            return None if binary is None else BenchmarkKit(binary)
        except OSError as error:
            logger.warning("%s cannot be read any more: %s", binary, error.strerror)
            return None


class AdbWay:
    """One phone, by its serial at the adb server."""

    is_fixed = False

    def __init__(self, lab: RemoteLab, server: AdbServer, serial: str) -> None:
        self._lab = lab
        self._server = server
        self._port = AdbPort(server, serial)
        self.label = serial

    async def open(self) -> Board:
        facts = await read_board_facts(self._port)
        place = Place("adb", self.label, self._lab.lab_file.marks(self.label))
        self._find = partial(native_kit, self._lab.state, facts.abi)
        self._kit = await self._find()
        return self._lab.board(place, self._port, facts, ANDROID_ROOT, self._kit)

    async def gone(self, board: Board) -> str:
        assert isinstance(board, RemoteBoard)
        return await gone_or_mended(board.away(), self._find, self._kit)

    @property
    def steps(self) -> frozenset[RecoveryStep]:
        return frozenset({RecoveryStep.RECONNECT, RecoveryStep.RESTART_ADB, RecoveryStep.REBOOT})

    async def recover(self, step: RecoveryStep) -> None:
        if step == RecoveryStep.RECONNECT:
            await self._server.ask(f"host-serial:{self.label}:reconnect")
        elif step == RecoveryStep.RESTART_ADB:
            await self._server.restart()
        else:
            await reboot(self._port, (("reboot",), ("svc", "power", "reboot")))

    async def close(self) -> None:
        await self._port.close()


async def reboot(port: Port, commands: Sequence[Sequence[str]]) -> None:
    """Reboots a board by the first command that it takes. Raises TransientDeviceError with the last one's words."""
    said = ""
    for argv in commands:
        ran = await port.run(argv, timeout_s=REBOOT_S)
        if ran.returncode == 0:
            return
        said = ran.stderr.decode(errors="replace").strip()[-200:] or f"{argv[0]} ended with {ran.returncode}"
    raise TransientDeviceError(f"{port.name} does not reboot: {said}")


class AdbSource:
    """Phones as they are plugged in and pulled out; those in the network by their addresses."""

    def __init__(self, lab: RemoteLab, server: AdbServer) -> None:
        self._lab = lab
        self._server = server
        self._shown: set[str] = set()

    async def follow(self, watch_: BoardWatch) -> None:
        ours: set[str] = set()
        try:
            await self._server.start()
            self._server.keep_connected(self._lab.lab_file.adb_addresses)
            async for devices in watch(self._server):
                ours = self.take_over(watch_, devices, ours)
        finally:
            for serial in ours:
                watch_.remove(serial, "the adb server is not watched any more")
            await self._server.close()

    def take_over(self, watch_: BoardWatch, devices: list[AdbDevice], before: set[str]) -> set[str]:
        """The serials that are followed now."""
        wanted = [one for one in devices if self._lab.lab_file.wants_adb(one.serial)]
        counts = Counter(one.serial for one in wanted)
        ready = {one.serial for one in wanted if one.is_ready and counts[one.serial] == 1}
        for serial in self._shown - counts.keys() - before:
            watch_.note(serial, "gone", "it is unplugged")
        self._shown = set(counts)
        for serial in before - ready:
            state = next((one.state for one in wanted if one.serial == serial), "unplugged")
            watch_.remove(serial, f"it is {state}")
        for one in wanted:
            if counts[one.serial] > 1:
                watch_.note(one.serial, "contested", "several phones have this serial", "unplug all of them but one")
            elif not one.is_ready:
                watch_.note(
                    one.serial, one.state, "the adb server does not let the agent in", _ADVICE.get(one.state, "")
                )
        for serial in ready - before:
            watch_.add(AdbWay(self._lab, self._server, serial))
        return ready


@contextlib.asynccontextmanager
async def open_boards(settings: Settings, state: StateDir, lab_file: LabFile) -> AsyncIterator[BoardWatch]:
    """Every board of the lab, watched while the context is open. Raises InvalidRequest where there is no adb."""
    lab = RemoteLab(settings, state, lab_file)
    ways: list[Way] = []
    if lab_file.ssh:
        from benchfarm_agent.ssh_way import SshWay  # brings a library that only labs with such boards need

        ways += [SshWay(lab, host) for host in lab_file.ssh]
    if lab_file.local:
        gate = lab_file.gate_of(LOCAL)
        ways.append(FixedWay(LocalBoard(state, Journal(state.journal), settings, gate=gate)))
    sources: list[Source] = []
    if lab_file.adb:
        sources.append(AdbSource(lab, AdbServer(state.adb, adb=find_adb())))
    recovery = Recovery(lab_file) if lab_file.power or lab_file.adb or lab_file.ssh else None
    watch_ = BoardWatch(ways, sources, recovery=recovery)
    watch_.on_note = partial(write_standings, state.standings, watch_)
    for name, why in (await put_back_unlisted(state, lab_file, settings, lab.board)).items():
        watch_.note(name, NOT_PUT_BACK, f"boards.toml does not lead to it any more: {why}", advice(state, name))
        _tell_put_back(watch_, state, name, why)
    watch_.on_put_back = partial(_tell_displaced, watch_, state, lab_file)
    watch_.on_fault = partial(_tell_doubtful, watch_, state, lab_file)
    async with watch_.open():
        yield watch_


def _tell_displaced(watch_: BoardWatch, state: StateDir, lab_file: LabFile, label: str, board: Board) -> None:
    """A board is there: it is missed no more, and those are that were changed when its way led to them."""
    if board.name in watch_.displaced:
        watch_.displaced.discard(board.name)
        watch_.unnote(board.name)
        _tell_put_back(watch_, state, board.name, "")
    for name, address in displaced(Journal(state.journal), lab_file, label, board.name).items():
        why = f"another board answers at {address} now"
        if name not in watch_.displaced:
            _tell_put_back(watch_, state, name, why)
        watch_.displaced.add(name)
        watch_.note(name, NOT_PUT_BACK, why, advice_displaced(state, name))


def _tell_doubtful(watch_: BoardWatch, state: StateDir, lab_file: LabFile, label: str, fault: BenchfarmError) -> None:
    """Nobody knows whether the board that was changed is behind another host key: a person has to say. Until then the
    farm uses it nowhere, and it keeps no agent from leaving, for the next start would find nothing else."""
    if not isinstance(fault, HostKeyChanged):
        return
    for name, address in displaced(Journal(state.journal), lab_file, label, "").items():
        if name in watch_.displaced:
            continue
        why = f"the host key at {address} is another one now: nobody knows whether the same board answers there"
        _tell_put_back(watch_, state, name, why)
        watch_.displaced.add(name)
        watch_.note(name, NOT_PUT_BACK, why, advice_doubtful(state, name, label))


def _tell_put_back(watch_: BoardWatch, state: StateDir, name: str, why_not: str) -> None:
    """The farm is to know of a board, by its name in the journal, that it is not put back, or was after all."""
    known_by = board_name(Journal(state.journal), name)
    if known_by is not None:
        watch_.tell_put_back(known_by, why_not)
