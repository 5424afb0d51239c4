"""Boards that left the lab's file while they were changed are put back by the next start, or that is told clearly."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from benchfarm_agent.board_ways import NOT_PUT_BACK, AdbWay, RemoteLab, open_boards
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_file import LabFile, SshHost
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.settings import Settings
from benchfarm_agent.ssh_way import SshWay
from benchfarm_agent.standings import Standing
from benchfarm_agent.state_dir import StateDir
from benchfarm_agent.ways_back import WayBack
from benchfarm_core.platforms import OperatingPoint
from tests.agent.ports.conftest import adb_server
from tests.agent.ports.ssh_server import ssh_server
from tests.agent.scripted_farm import true_soon
from tests.peers.phone_files import DEFAULT_GOVERNOR
from tests.peers.phones import Phone
from tests.peers.qemu_board import POLICIES, QemuBoard

Run = Callable[[Coroutine[Any, Any, Any]], Any]
NOBODY = LabFile(local=False)
NOTE = {"clock:/sys/none/scaling_governor": "schedutil"}


@pytest.fixture
def settings(state: StateDir) -> Settings:
    return Settings(url="http://127.0.0.1:1", state_dir=state.root)


async def started(settings: Settings, state: StateDir, lab_file: LabFile) -> tuple[Standing, ...]:
    """What an agent with this file tells of boards that are not put back."""
    async with open_boards(settings, state, lab_file) as watch:
        return tuple(one for one in watch.standings() if one.state == NOT_PUT_BACK)


def host_of(board: QemuBoard, **changes: Any) -> SshHost:
    ssh = board.ssh
    known: dict[str, Any] = {"key_file": ssh.key_file, "known_hosts_file": ssh.known_hosts_file, "runner": "native"}
    return SshHost(**{"name": "pi", "host": ssh.host, "port": ssh.port, "user": ssh.user, **known, **changes})


def settings_of(board: QemuBoard) -> list[str]:
    names = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
    return board.read(" ".join(f"{POLICIES}/policy{number}/{name}" for number in (0, 2) for name in names)).split()


def left_pinned(running: Run, settings: Settings, state: StateDir, host: SshHost) -> str:
    """Pins a board and lets go of it, as `kill -9` does; its name in the journal."""

    async def pinned() -> str:
        way = SshWay(RemoteLab(settings, state, LabFile(local=False, ssh=(host,))), host)
        board = await way.open()
        await board.pin(OperatingPoint(mode="pinned", cores=(2,), threads=1, freq_khz=(1_300_000,)))
        await way.close()
        return board.name

    name: str = running(pinned())
    assert Journal(state.journal).unsettled() == (name,)
    return name


def test_a_board_that_left_the_file_is_put_back(
    running: Run, settings: Settings, state: StateDir, qemu_board: QemuBoard
) -> None:
    found = settings_of(qemu_board)
    left_pinned(running, settings, state, host_of(qemu_board))
    assert settings_of(qemu_board) != found
    assert running(started(settings, state, NOBODY)) == ()
    assert settings_of(qemu_board) == found
    assert Journal(state.journal).is_settled()


def test_a_board_whose_section_changed_is_put_back_over_the_old_way(
    running: Run, settings: Settings, state: StateDir, qemu_board: QemuBoard
) -> None:
    found = settings_of(qemu_board)
    left_pinned(running, settings, state, host_of(qemu_board))
    moved = LabFile(local=False, ssh=(host_of(qemu_board, user="somebody"),))
    assert running(started(settings, state, moved)) == ()
    assert settings_of(qemu_board) == found


def test_another_board_in_its_place_is_left_alone_and_that_is_told(
    running: Run, settings: Settings, state: StateDir, qemu_board: QemuBoard
) -> None:
    name, journal = left_pinned(running, settings, state, host_of(qemu_board)), Journal(state.journal)
    pinned = settings_of(qemu_board)
    for suffix in (".json", ".way"):
        (state.journal / f"{name}{suffix}").rename(state.journal / f"ssh-other{suffix}")
    (told,) = running(started(settings, state, NOBODY))
    assert (told.label, "another board answers" in told.detail) == ("ssh-other", True)
    assert settings_of(qemu_board) == pinned
    assert journal.unsettled() == ("ssh-other",)


def test_a_board_whose_address_another_one_has_is_told_until_it_is_back(
    running: Run, settings: Settings, state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.ssh_way.ROOTS_ROOT", str(tmp_path / "root"))
    journal = Journal(state.journal)

    heard: list[tuple[str, str, str]] = []

    async def looked(lab_file: LabFile, *, missed: str = "") -> tuple[str, list[Standing], set[str]]:
        """The name of the board that answers, what is told of boards that are changed, and which are displaced."""
        async with open_boards(settings, state, lab_file) as watch:
            watch.on_recovery = lambda board, step, detail: heard.append((board.serial, str(step), detail))
            if missed:
                watch.displaced.add(missed)
                watch.note(missed, NOT_PUT_BACK)
            await true_soon(lambda: bool(watch.present()))
            (one,) = watch.present()
            told = [standing for standing in watch.standings() if standing.state == NOT_PUT_BACK]
            assert heard == [], "nobody can be told yet"
            watch.tell_untold()
            return one.board.name, told, set(watch.displaced)

    async def play() -> None:
        async with ssh_server(tmp_path / "server") as ssh:
            ssh.be_known()
            to = ssh.target
            keys: dict[str, Any] = {"key_file": to.key_file, "known_hosts_file": to.known_hosts_file}
            host = SshHost(name="pi", host=to.host, port=to.port, user=to.user, runner="native", **keys)
            lab_file = LabFile(local=False, ssh=(host,))
            back = WayBack(kind="ssh", label="pi-before", root="/tmp/x", target=to, serial="S-9", hardware_id="hw")
            journal.note_way("ssh-other", back.model_dump_json())
            journal.remember_all("ssh-other", NOTE)
            name, (told,), displaced = await looked(lab_file)
            assert (told.label, displaced) == ("ssh-other", {"ssh-other"})
            assert f"another board answers at pi-before, {to.user}@{to.address} now" in told.detail
            assert "give it its address back" in told.advice
            assert str(state.journal / "ssh-other.json") in told.advice
            assert heard == [("S-9", "put_back", f"another board answers at {back.address} now")]
            heard.clear()
            journal.forget_all("ssh-other", NOTE)
            journal.note_way(name, back.model_copy(update={"serial": "S-1"}).model_dump_json())
            assert (await looked(lab_file, missed=name))[1:] == ([], set())
            assert heard == [("S-1", "put_back", "")]

    running(play())


def test_a_changed_board_behind_another_host_key_is_told_until_an_operator_has_said_what_it_is(
    running: Run, settings: Settings, state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.ssh_way.ROOTS_ROOT", str(tmp_path / "root"))
    journal = Journal(state.journal)
    heard: list[tuple[str, str, str]] = []

    async def play() -> None:
        async with ssh_server(tmp_path / "server") as ssh:
            to = ssh.target
            ssh.be_known()
            known_hosts = to.known_hosts_file.read_text()
            other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
            to.known_hosts_file.write_text(f"[{to.host}]:{to.port} {other}")
            keys: dict[str, Any] = {"key_file": to.key_file, "known_hosts_file": to.known_hosts_file}
            host = SshHost(name="pi", host=to.host, port=to.port, user=to.user, runner="native", **keys)
            back = WayBack(kind="ssh", label="pi", root="/tmp/x", target=to, serial="S-9", hardware_id="hw")
            journal.note_way("ssh-changed", back.model_dump_json())
            journal.remember_all("ssh-changed", NOTE)
            async with open_boards(settings, state, LabFile(local=False, ssh=(host,))) as watch:
                watch.on_recovery = lambda board, step, detail: heard.append((board.serial, str(step), detail))
                await true_soon(lambda: "ssh-changed" in watch.displaced)
                assert (watch.present(), heard) == ((), []), "nobody can be told yet"
                watch.tell_untold()
                (told,) = [one for one in watch.standings() if one.state == NOT_PUT_BACK]
                assert told.detail.startswith("the host key at pi, ")
                for what in ("boards trust pi --replace", "its address back", "boards release", "ssh-changed.json"):
                    assert what in told.advice
                assert heard == [("S-9", "put_back", told.detail)]
                to.known_hosts_file.write_text(known_hosts)  # as `trust --replace` does
                await true_soon(lambda: bool(watch.present()))
                assert watch.displaced == {"ssh-changed"}, "the key is right, and another board answers"
                (told,) = [one for one in watch.standings() if one.state == NOT_PUT_BACK]
                assert "another board answers" in told.detail
                assert len(heard) == 1, "the farm has it out of use already"

    running(play())


def test_a_phone_that_is_not_wanted_any_more_is_put_back(
    running: Run, settings: Settings, state: StateDir, phone: Phone
) -> None:
    def governors() -> set[str]:
        return {phone.read(f"{cluster.policy}/scaling_governor") for cluster in phone.model.clusters}

    async def pinned() -> None:
        async with adb_server(state.adb, phone.address) as server:
            way = AdbWay(RemoteLab(settings, state, LabFile(adb=True)), server, phone.address)
            board = await way.open()
            report = await board.describe()
            await board.pin(next(point for point in report.operating_points if point.mode == "pinned"))
            await way.close()

    running(pinned())
    assert governors() != {DEFAULT_GOVERNOR}
    assert running(started(settings, state, NOBODY)) == ()
    assert governors() == {DEFAULT_GOVERNOR}
    assert Journal(state.journal).is_settled()


def test_what_cannot_be_put_back_says_why_and_what_to_do(
    running: Run, settings: Settings, state: StateDir, tmp_path: Path
) -> None:
    journal = Journal(state.journal)
    target = SshTarget("127.0.0.1", "farm", tmp_path / "key", tmp_path / "known_hosts", 1)
    journal.note_way("ssh-away", WayBack(kind="ssh", label="pi", root="/tmp/x", target=target).model_dump_json())
    for name in ("ssh-away", "ssh-unknown"):
        journal.remember_all(name, NOTE)
    journal.note_way("ssh-unknown", "garbage")
    away, unknown = running(started(settings, state, NOBODY))
    assert (away.label, unknown.label) == ("ssh-away", "ssh-unknown")
    assert "pi, farm@127.0.0.1:1" in away.detail
    assert "nothing says how it was reached" in unknown.detail
    for one in (away, unknown):
        assert str(state.journal / f"{one.label}.json") in one.advice
    assert journal.unsettled() == ("ssh-away", "ssh-unknown"), "the next start tries again"


def test_this_host_is_put_back_where_it_is_no_board_any_more(running: Run, settings: Settings, state: StateDir) -> None:
    Journal(state.journal).remember("local", "runner", "999999999:1")
    assert running(started(settings, state, NOBODY)) == ()
    assert Journal(state.journal).is_settled()


def test_a_board_that_is_listed_waits_for_its_own_way() -> None:
    target = SshTarget("10.0.0.5", "farm", Path("/k"), Path("/h"))
    back = WayBack(kind="ssh", label="pi5", root="/r", target=target)
    assert WayBack.model_validate_json(back.model_dump_json()) == back
    host = SshHost(name="renamed", host="10.0.0.5", user="farm", key_file=Path("/other"))
    assert back.is_listed(LabFile(ssh=(host,)))
    for change in ({"host": "10.0.0.6"}, {"port": 2222}, {"user": "root"}):
        assert not back.is_listed(LabFile(ssh=(host.model_copy(update=change),)))
    phone = WayBack(kind="adb", label="R58M1", root="/r")
    assert all(phone.is_listed(LabFile(adb=adb)) for adb in (True, ("R58*",)))
    assert not any(phone.is_listed(LabFile(adb=adb)) for adb in (False, ("R59*",)))


def test_a_way_is_noted_once_and_kept(state: StateDir) -> None:
    journal = Journal(state.journal)
    assert journal.way("a") == ""
    journal.note_way("a", json.dumps({"to": 1}))
    journal.remember("a", "x", "1")
    journal.forget("a", "x")
    assert journal.way("a") == '{"to": 1}'
    assert journal.is_settled()
