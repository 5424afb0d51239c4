"""The ladder: what is done for a board that stays away, in which order, and for which board never."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import board_watch, recovery
from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.board_ways import reboot
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.boards.remote import Place
from benchfarm_agent.boards.remote_runner import MissingRunner
from benchfarm_agent.lab_file import LabFile, PowerHook
from benchfarm_agent.ports.interface import BoardUnreachable, HostKeyChanged, KeyRefused
from benchfarm_agent.recovery import LADDER, Absence, Recovery, Rung, next_rung
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.boards import BoardReport
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import ClockProof
from tests.agent.remote_boards import local_shell, remote_board
from tests.agent.scripted_farm import true_soon

RECONNECT, RESTART, REBOOT, POWER, _ = RecoveryStep
QUICK = tuple(Rung(step, 0.0, 0.0) for step in (RECONNECT, RESTART, REBOOT))


def report(serial: str) -> BoardReport:
    return BoardReport(
        kind="ssh",
        serial=serial,
        hardware_id="hw",
        board_model="m",
        model_name="M",
        generation="g",
        facts={},
        engines=(),
        operating_points=(),
        clock_proof=ClockProof.UNPINNED,
    )


class Way:
    """A way whose board is away, and what was done for it."""

    is_fixed = False

    def __init__(self, label: str, *, fails: tuple[RecoveryStep, ...] = (), fault: Exception | None = None) -> None:
        self.label = label
        self.fails = fails
        self.fault = fault or BoardUnreachable("nobody answers")
        self.done: list[RecoveryStep] = []

    steps = frozenset({RECONNECT, RESTART, REBOOT})

    async def recover(self, step: RecoveryStep) -> None:
        self.done.append(step)
        if step in self.fails:
            raise TransientDeviceError("nobody answers")

    async def open(self) -> Board:
        raise self.fault

    async def gone(self, board: Board) -> str:
        raise AssertionError(board)

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.01)


def climbed(running: Callable[[Any], Any], lab: LabFile, *ways: Way, known: bool = True) -> list[tuple[str, str, str]]:
    """What a ladder without pauses does for boards that stay away, as the farm is told."""
    told: list[tuple[str, str, str]] = []

    async def play() -> None:
        watch = BoardWatch(ways, recovery=Recovery(lab, QUICK))
        watch.on_recovery = lambda board, step, detail: told.append((board.serial, str(step), detail))
        if known:
            watch._reports = {way.label: report(way.label) for way in ways}
        async with watch.open():
            await asyncio.sleep(0.4)

    running(play())
    return told


def test_rungs_are_climbed_from_the_mildest_on_each_once(running: Callable[[Any], Any]) -> None:
    way = Way("a", fails=(RECONNECT,))
    told = climbed(running, LabFile(local=False), way)
    assert way.done == [RECONNECT, RESTART, REBOOT]
    assert told == [("a", "reconnect", "nobody answers"), ("a", "restart_adb", ""), ("a", "reboot", "")]


def test_a_board_that_the_lab_file_protects_is_left_alone(running: Callable[[Any], Any], tmp_path: Path) -> None:
    hook = PowerHook(board="b-1", cycle=("/bin/sh", "-c", f"echo >{tmp_path}/cut"), after_s=1.0)
    lab = LabFile(local=False, no_recovery=("b-*",), shared_host=("mine",), power=(hook,))
    protected, mine = Way("b-1"), Way("mine")
    climbed(running, lab, protected, mine)
    assert protected.done == []
    assert mine.done == [RECONNECT, RESTART]
    assert not (tmp_path / "cut").exists()


def test_a_board_that_was_never_there_is_not_rebooted(running: Callable[[Any], Any]) -> None:
    way = Way("a")
    assert climbed(running, LabFile(local=False), way, known=False) == []
    assert way.done == [RECONNECT, RESTART]


def test_a_power_hook_runs_when_its_board_stays_away(running: Callable[[Any], Any], tmp_path: Path) -> None:
    cycled = tmp_path / "cycled"
    hook = PowerHook(board="a", cycle=("/bin/sh", "-c", f"echo a >>{cycled}"), after_s=1.0, again_s=600.0)
    lab = LabFile(local=False, power=(hook,))
    told: list[tuple[str, str]] = []

    async def play() -> None:
        watch = BoardWatch([Way("a", fails=(RECONNECT, RESTART, REBOOT))], recovery=Recovery(lab, QUICK))
        watch._reports = {"a": report("a")}
        watch.on_recovery = lambda _, step, detail: told.append((str(step), detail))
        async with watch.open():
            await true_soon(lambda: len(told) == 4)
            await asyncio.sleep(0.2)

    running(play())
    assert cycled.read_text() == "a\n"
    assert told[-1] == ("power_cycle", "")


def test_a_hook_that_fails_says_so(running: Callable[[Any], Any]) -> None:
    hook = PowerHook(board="a", cycle=("/bin/sh", "-c", "exit 3"), after_s=1.0, again_s=600.0)
    told: list[str] = []

    async def play() -> None:
        watch = BoardWatch([Way("a")], recovery=Recovery(LabFile(local=False, power=(hook,)), ()))
        watch._reports = {"a": report("a")}
        watch.on_recovery = lambda _, step, detail: told.append(f"{step}: {detail}")
        async with watch.open():
            await true_soon(lambda: bool(told))

    running(play())
    assert told == ["power_cycle: the power hook failed: see the agent's log"]


def test_each_rung_has_its_time_its_pause_and_its_limit() -> None:
    absence = Absence(since_s=1000.0)
    reconnect, restart, switch = LADDER

    def due(away_s: float) -> Rung | None:
        return next_rung(LADDER, absence, 1000.0 + away_s)

    assert (due(9.9), due(10.0), due(100.0)) == (None, reconnect, reconnect)
    absence.last_s[RECONNECT] = 1010.0
    assert (due(29.9), due(30.0)) == (None, restart)
    absence.until_s = 1035.0
    assert (due(34.9), due(35.0)) == (None, restart)
    absence.last_s[RESTART] = 1035.0
    assert (due(59.9), due(60.0)) == (None, switch)
    absence.last_s[REBOOT] = 1060.0
    assert (due(100.0), due(3609.9), due(3610.0)) == (None, None, reconnect)


def hook_calls(running: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, state: str, hours: float) -> list[float]:
    """When the power hook of a board in one state runs, in seconds, as a clock of the test's own goes; it fails."""
    now_s, calls = [1000.0], []
    monkeypatch.setattr(recovery, "boottime_s", lambda: now_s[0])

    async def fails(_: PowerHook) -> bool:
        calls.append(now_s[0] - 1000.0)
        return False

    monkeypatch.setattr(recovery, "run_hook", fails)

    async def play() -> None:
        hook = PowerHook(board="a", cycle=("false",), after_s=60.0, again_s=600.0)
        watch = BoardWatch()
        watch.note("a", state)
        ladder = Recovery(LabFile(local=False, power=(hook,)))
        while now_s[0] < 1000.0 + hours * 3600:
            ladder._look(watch)
            for _ in range(5):
                await asyncio.sleep(0)
            now_s[0] += 30.0

    running(play())
    return calls


def test_a_power_hook_that_failed_runs_again_in_its_own_time(
    running: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hook_calls(running, monkeypatch, "away", 0.5) == [60.0, 660.0, 1260.0]


@pytest.mark.parametrize(
    ("state", "runs"),
    [("offline", True), ("gone", True), ("unauthorized", False), ("contested", False), ("refused", False)],
)
def test_power_is_switched_only_where_nobody_answers(
    running: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, state: str, runs: bool
) -> None:
    assert bool(hook_calls(running, monkeypatch, state, 0.1)) is runs


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (TransientDeviceError("no room"), []),
        (HostKeyChanged("another key"), []),
        (KeyRefused("no key"), []),
        (TimeoutError(), [RECONNECT, RESTART]),
    ],
)
def test_a_board_that_answers_is_left_alone_and_a_slow_one_is_not_rebooted(
    running: Callable[[Any], Any], fault: Exception, done: list[RecoveryStep]
) -> None:
    way = Way("a", fault=fault)
    climbed(running, LabFile(local=False), way)
    assert way.done == done


def test_the_adb_server_is_restarted_once_for_all_its_phones(running: Callable[[Any], Any]) -> None:
    ways = [Way(label) for label in "abc"]
    climbed(running, LabFile(local=False), *ways)
    assert [way.done.count(RESTART) for way in ways] == [1, 0, 0]
    assert [way.done.count(REBOOT) for way in ways] == [1, 1, 1]


class OpenWay(Way):
    """A way to a board that is there: a shell of this host under a name of its own."""

    def __init__(self, label: str, make: Callable[[str], Board]) -> None:
        super().__init__(label)
        self._make = make
        self.opened: list[Board] = []

    async def open(self) -> Board:
        self.opened.append(self._make(self.label))
        return self.opened[-1]

    async def gone(self, board: Board) -> str:
        del board
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def open_way(running: Callable[[Any], Any], state: StateDir, tmp_path: Path) -> Callable[[str], OpenWay]:
    facts = running(read_board_facts(local_shell(tmp_path / "calls")))

    def make(label: str) -> Board:
        port, root, place = local_shell(tmp_path / "calls"), str(tmp_path / label), Place("ssh", label)
        return remote_board(port, facts, state, root, MissingRunner((), "none"), place=place)

    return lambda label: OpenWay(label, make)


def ailing(
    running: Callable[[Any], Any], way: OpenWay, leases: list[str | None], **file: Any
) -> tuple[list[tuple[str, str]], list[str]]:
    """What is done for a board after leases that ended so, and the states that it had."""
    told: list[tuple[str, str]] = []
    states: list[str] = []

    async def play() -> None:
        watch = BoardWatch([way], recovery=Recovery(LabFile(local=False, **file), QUICK))
        watch.on_recovery = lambda _, step, detail: told.append((str(step), detail))
        watch.on_note = lambda: states.extend(one.state for one in watch.standings()[:1])
        async with watch.open():
            await true_soon(lambda: bool(watch.present()))
            for why in leases:
                watch.ailments.note_lease(way.label, why)
                watch.rest(way.opened[0])
            is_resting = not watch.present()
            await true_soon(lambda: bool(told) or not is_resting)
            await true_soon(lambda: bool(watch.present()))

    running(play())
    return told, list(dict.fromkeys(states))


@pytest.mark.parametrize("leases", [["pin_not_verified"] * 3, ["disk_full", None, "disk_full", "runner_died"]])
def test_a_board_that_answers_and_cannot_measure_rests_and_is_rebooted(
    running: Callable[[Any], Any],
    open_way: Callable[[str], OpenWay],
    monkeypatch: pytest.MonkeyPatch,
    leases: list[str | None],
) -> None:
    monkeypatch.setattr(board_watch, "GOING_S", 0.05)
    way = open_way("a")
    told, states = ailing(running, way, leases)
    assert way.done == [REBOOT]
    assert told == [("reboot", "")]
    assert states == ["opening", "ready", "gone", "ailing"]
    assert len(way.opened) == 2, "it begins anew"


@pytest.mark.parametrize(
    ("leases", "file"),
    [
        (["pin_not_verified"] * 2, {}),
        (["pin_not_verified", "pin_not_verified", "", "pin_not_verified"], {}),
        (["pin_not_verified"] * 5, {"no_recovery": ("a",)}),
        (["pin_not_verified"] * 5, {"shared_host": ("a",)}),
    ],
    ids=["too few", "not in a row", "left alone", "this very host"],
)
def test_a_board_works_on_where_nothing_is_to_be_done(
    running: Callable[[Any], Any], open_way: Callable[[str], OpenWay], leases: list[str | None], file: dict[str, Any]
) -> None:
    way = open_way("a")
    assert ailing(running, way, leases, **file) == ([], ["opening", "ready"])
    assert (way.done, len(way.opened)) == ([], 1)


def test_a_reboot_that_was_tried_is_not_tried_again_for_an_hour(
    running: Callable[[Any], Any], open_way: Callable[[str], OpenWay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_watch, "GOING_S", 0.05)
    way = open_way("a")
    way.fails = (REBOOT,)

    async def play() -> None:
        watch = BoardWatch([way], recovery=Recovery(LabFile(local=False), LADDER))
        async with watch.open():
            await true_soon(lambda: bool(watch.present()))
            watch.ailments.doubt("a", "drift")
            watch.rest(way.opened[0])
            await true_soon(lambda: len(way.opened) == 2 and bool(watch.present()))
            watch.ailments.doubt("a", "drift")
            assert watch.ailments.why("a") is None, "nothing would be done for it"

    running(play())
    assert way.done == [REBOOT]


def test_a_board_that_was_away_is_not_rebooted_for_what_was_doubted_before(
    running: Callable[[Any], Any], open_way: Callable[[str], OpenWay]
) -> None:
    """It may have started anew by itself: whether it drifted the farm says again."""
    way = open_way("a")

    async def play() -> None:
        watch = BoardWatch([way], recovery=Recovery(LabFile(local=False), LADDER))
        async with watch.open():
            await true_soon(lambda: bool(watch.present()))
            watch.ailments.doubt("a", "drift")
            assert watch.ailments.why("a") == "drift"
            watch.remove("a", "unplugged")
            watch.ailments.doubt("a", "drift")  # by an answer that was on its way
            watch.add(way)
            await true_soon(lambda: bool(watch.present()))
            assert watch.ailments.why("a") is None

    running(play())
    assert way.done == []


def test_the_adb_server_is_left_alone_while_another_phone_is_at_work(
    running: Callable[[Any], Any], open_way: Callable[[str], OpenWay]
) -> None:
    """A restart would take that phone's lease; a phone that is merely there comes back within a moment."""
    for is_at_work in (True, False):
        away, there = Way("away"), open_way("there")

        async def play(away: Way = away, there: Way = there, is_at_work: bool = is_at_work) -> None:
            watch = BoardWatch([there], recovery=Recovery(LabFile(local=False), QUICK))
            watch.is_at_work = lambda _: is_at_work
            async with watch.open():
                await there_over_adb(watch)
                watch.add(away)
                await asyncio.sleep(0.4)

        running(play())
        assert (RESTART in away.done) is not is_at_work


async def there_over_adb(watch: BoardWatch) -> Board:
    """The one board that is there, as if it were a phone."""
    await true_soon(lambda: bool(watch.present()))
    (one,) = watch.present()
    watch._present["there"] = replace(one, report=one.report.model_copy(update={"kind": "adb"}))
    return one.board


def test_no_phone_takes_an_offer_while_the_adb_server_is_restarted(
    running: Callable[[Any], Any], open_way: Callable[[str], OpenWay]
) -> None:
    held: list[bool] = []

    class Restarting(Way):
        async def recover(self, step: RecoveryStep) -> None:
            await super().recover(step)
            if step == RESTART:
                held.append(watch.is_held_back(phone))

    ladder = (Rung(RESTART, 0.0, 0.0),)
    away, there = Restarting("away"), open_way("there")
    watch = BoardWatch([there], recovery=Recovery(LabFile(local=False), ladder))
    phone: Board

    async def play() -> None:
        nonlocal phone
        async with watch.open():
            phone = await there_over_adb(watch)
            states: list[bool] = []
            watch.on_change = lambda: states.append(watch.is_held_back(phone))
            watch.add(away)
            await true_soon(lambda: states == [True, False])

    running(play())
    assert held == [True]


def test_what_is_done_for_a_board_ends_before_boards_are_put_back(
    running: Callable[[Any], Any], open_way: Callable[[str], OpenWay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reboot that goes through meanwhile would take the clocks that are being set."""
    happened: list[str] = []

    class Endless(Way):
        async def recover(self, step: RecoveryStep) -> None:
            await super().recover(step)
            try:
                await asyncio.Event().wait()
            finally:
                happened.append(f"{step} ended")

    async def put_back(board: Board) -> None:
        happened.append("put back")
        await board.restore()

    monkeypatch.setattr(board_watch, "put_back", put_back)
    away, there = Endless("away"), open_way("there")

    async def play() -> None:
        watch = BoardWatch([away, there], recovery=Recovery(LabFile(local=False), QUICK))
        async with watch.open():
            await true_soon(lambda: bool(watch.present() and away.done))

    running(play())
    assert happened == ["reconnect ended", "put back"]


def test_a_board_reboots_by_the_first_command_that_it_takes(running: Callable[[Any], Any], tmp_path: Path) -> None:
    port = local_shell(tmp_path / "calls")
    done = tmp_path / "done"
    running(reboot(port, (("false",), ("touch", str(done)), ("touch", str(tmp_path / "more")))))
    assert done.exists()
    assert not (tmp_path / "more").exists()
    with pytest.raises(TransientDeviceError, match="does not reboot: ls: "):
        running(reboot(port, (("false",), ("ls", str(tmp_path / "nothing")))))
