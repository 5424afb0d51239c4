"""The ladder on real peers: a board with a real kernel reboots, a real adb server is started again."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from benchfarm_agent import board_watch
from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.board_ways import AdbSource, RemoteLab
from benchfarm_agent.boards import linux_facts, remote
from benchfarm_agent.lab_file import LabFile, SshHost
from benchfarm_agent.ports.adb_server import AdbServer
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.recovery import LADDER, Recovery, Rung
from benchfarm_agent.settings import Settings
from benchfarm_agent.ssh_way import SshWay
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.boards import BOOT
from tests.peers.phones import Phone
from tests.peers.qemu_board import QemuBoard

LIMIT_S = 200.0
LOOK_S = 0.05
STAYS_S = 3.0


async def true_within(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  (peers set no event)
            await asyncio.sleep(LOOK_S)
    assert condition(), what


def played(work: Coroutine[Any, Any, None]) -> None:
    watch_children_without_threads()
    asyncio.run(work)


@pytest.fixture
def settings(state: StateDir) -> Settings:
    return Settings(url="http://127.0.0.1:1", state_dir=state.root)


@pytest.mark.timeout(400)
def test_a_board_that_cannot_measure_is_rebooted_and_begins_anew(
    settings: Settings, state: StateDir, qemu_board: QemuBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_watch, "GOING_S", 3.0)
    ssh = qemu_board.ssh
    host = SshHost(
        name="pi",
        host=ssh.host,
        port=ssh.port,
        user=ssh.user,
        key_file=ssh.key_file,
        known_hosts_file=ssh.known_hosts_file,
        runner="native",
    )
    lab_file = LabFile(local=False, ssh=(host,))
    told: list[tuple[str, str]] = []

    async def play() -> None:
        watch = BoardWatch([SshWay(RemoteLab(settings, state, lab_file), host)], recovery=Recovery(lab_file, LADDER))
        watch.on_recovery = lambda _, step, detail: told.append((str(step), detail))

        def boots() -> list[object]:
            return [one.report.facts[BOOT] for one in watch.present()]

        async with watch.open():
            await true_within(lambda: bool(boots()), "the board is there")
            (before,), (present,) = boots(), watch.present()
            for _ in range(3):
                watch.ailments.note_lease("pi", "pin_not_verified")
            watch.rest(present.board)
            assert not boots(), "it rests"
            await true_within(lambda: bool(boots()) and boots() != [before], "it is back with another boot")

    played(play())
    assert told == [("reboot", "")]


@pytest.mark.timeout(400)
def test_a_hanging_phone_has_the_adb_server_restarted_once_no_other_is_at_work(
    settings: Settings, state: StateDir, phones: list[Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(linux_facts, "FACTS_LIMIT_S", 5.0)  # of a phone that says nothing
    hanging, other = phones[:2]
    lab_file = LabFile(local=False, adb=(hanging.address, other.address))
    server = AdbServer(state.adb)
    ladder = (Rung(RecoveryStep.RESTART_ADB, 0.0, 5.0),)
    at_work = {"other": True}

    async def play() -> None:
        source = AdbSource(RemoteLab(settings, state, lab_file), server)
        watch = BoardWatch((), [source], recovery=Recovery(lab_file, ladder))
        watch.is_at_work = lambda board: at_work["other"] and watch.label_of(board) == other.address

        def is_ready(phone: Phone) -> bool:
            return any(watch.label_of(one.board) == phone.address for one in watch.present())

        async with watch.open():
            for phone in (hanging, other):
                await true_within(partial(is_ready, phone), "both phones are there")
            pid = server.pid
            hanging.relay.hang()
            await true_within(
                lambda: "away" in {one.state for one in watch.standings() if one.label == hanging.address},
                "the phone hangs",
            )
            await asyncio.sleep(STAYS_S)  # wait: that nothing is done is what is tested
            assert server.pid == pid
            assert is_ready(other)
            at_work["other"] = False
            await true_within(lambda: server.pid not in (pid, None), "another server")
            await true_within(partial(is_ready, other), "the other phone is back")

    played(play())
