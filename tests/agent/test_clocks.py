"""Clocks are pinned and put back, whatever the board refuses and whenever the agent dies."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchfarm_agent.boards.clocks import Clocks
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import OperatingPoint
from tests.agent.conftest import run
from tests.agent.tree_port import TreePort, laid_out
from tests.agent.trees import (
    BOOT_ID,
    CPU,
    LARGE_KHZ,
    PC,
    PHONE,
    PHONE_LARGE,
    PHONE_SMALL,
    PI,
    PI_KHZ,
    RASPBERRY_PI,
    SMALL_KHZ,
    VIRTUAL_MACHINE,
    Tree,
)

BOARD = "b"
SETTINGS = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
PI_STEPS = 4
"""What pinning a Raspberry Pi writes: governor, upper limit, lower limit, speed."""
Lay = Callable[..., "Pinned"]


class Killed(BaseException):
    """The agent's process is gone: nothing of it runs after this."""


class FailingPort(TreePort):
    """At its n-th write something happens to the agent or to the connection, before or after the board has it."""

    def __init__(self, root: Path, writes: int, death: BaseException, *, is_after: bool) -> None:
        super().__init__(root)
        self._left = writes
        self._death = death
        self._is_after = is_after

    async def write(self, path: str, text: str, *, timeout_s: float = 5.0) -> None:
        if self._left == 0 and not self._is_after:
            raise self._death
        await super().write(path, text, timeout_s=timeout_s)
        if self._left == 0:
            raise self._death
        self._left -= 1


class HangingPort(TreePort):
    """Its third write never comes back."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._writes = 0
        self.hangs = asyncio.Event()

    async def write(self, path: str, text: str, *, timeout_s: float = 5.0) -> None:
        self._writes += 1
        await super().write(path, text, timeout_s=timeout_s)
        if self._writes == 3:
            self.hangs.set()
            await asyncio.Event().wait()


class OrderedPort(TreePort):
    """Fails as old kernels do when the lower limit of a clock would be above the upper one."""

    async def write(self, path: str, text: str, *, timeout_s: float = 5.0) -> None:
        await super().write(path, text, timeout_s=timeout_s)
        folder = path.rpartition("/")[0]
        low, high = (int(self.text(f"{folder}/scaling_{name}_freq")) for name in ("min", "max"))
        assert low <= high


class Pinned:
    """A board laid out as files, its clocks, and a journal on disk."""

    def __init__(self, root: Path, journals: Path) -> None:
        self.port = TreePort(root)
        self.journal = Journal(journals)
        self.clocks = Clocks(run(read_board_facts(self.port)))
        self.settings = [
            path
            for path in sorted(root.rglob("*"))
            if path.name in (*SETTINGS, "online", "fixed", "up_threshold", "sampling_rate")
        ]
        self.found = self.now()

    def now(self) -> dict[str, str]:
        return {str(path): path.read_text().strip() for path in self.settings}

    def pin(self, point: OperatingPoint, port: TreePort | None = None) -> None:
        run(self.clocks.pin(port or self.port, point, self.journal, BOARD))

    def restore(self, port: TreePort | None = None) -> None:
        run(Clocks.restore(port or self.port, self.journal, BOARD))

    def noted(self) -> dict[str, str]:
        return self.journal.entries(BOARD)


@pytest.fixture
def lay(tmp_path: Path) -> Iterator[Lay]:
    """Lays a board out."""
    with ExitStack() as stack:
        yield lambda tree: Pinned(stack.enter_context(laid_out(tree)), tmp_path)


@pytest.fixture
def pi(lay: Lay) -> Pinned:
    return lay(RASPBERRY_PI)


def at(khz: int, *cores: int) -> OperatingPoint:
    return OperatingPoint(mode="pinned", cores=cores or (3,), threads=1, freq_khz=(khz,))


@pytest.mark.parametrize("khz", PI_KHZ)
def test_a_clock_is_pinned_and_put_back(pi: Pinned, khz: int) -> None:
    pi.pin(at(khz))
    shown = {name: pi.port.text(f"{PI}/{name}") for name in (*SETTINGS, "scaling_setspeed")}
    assert shown == {**dict.fromkeys(shown, str(khz)), "scaling_governor": "userspace"}
    assert f"clock:/{PI}/scaling_governor" in pi.noted()
    pi.restore()
    assert pi.now() == pi.found
    assert pi.noted() == {}
    pi.restore()
    assert pi.now() == pi.found


def test_one_point_after_another_puts_back_what_was_there_before_both(pi: Pinned) -> None:
    pi.pin(at(PI_KHZ[0]))
    pi.pin(at(PI_KHZ[2]))
    assert pi.port.text(f"{PI}/scaling_min_freq") == str(PI_KHZ[2])
    pi.restore()
    assert pi.now() == pi.found


def test_a_cluster_is_pinned_and_the_other_left_alone(lay: Lay) -> None:
    phone = lay(PHONE)
    phone.pin(at(LARGE_KHZ[1], 4, 5))
    assert phone.port.text(f"{PHONE_LARGE}/scaling_max_freq") == str(LARGE_KHZ[1])
    assert phone.port.text(f"{PHONE_LARGE}/scaling_governor") == "performance", "it has no userspace governor"
    assert all(PHONE_SMALL not in name for name in phone.noted())
    phone.restore()
    assert phone.now() == phone.found


def test_every_clock_of_a_pc_is_pinned_that_the_point_uses(lay: Lay) -> None:
    pc = lay(PC)
    pc.pin(at(2_400_000, 0, 1))
    limits = [pc.port.text(f"{CPU}/cpufreq/policy{core}/scaling_max_freq") for core in range(4)]
    assert limits == ["2400000", "2400000", "4200000", "4200000"]
    pc.restore()
    assert pc.now() == pc.found


@pytest.mark.parametrize(
    "point",
    [
        at(1_234_567),
        at(PI_KHZ[0], 3, 4),
        OperatingPoint(mode="pinned", cores=(3,), threads=1, freq_khz=(PI_KHZ[0], PI_KHZ[0])),
        OperatingPoint(mode="pinned", cores=(3,), threads=1, freq_khz=(PI_KHZ[0],), governor="userspace"),
        OperatingPoint(mode="fixed_performance", cores=(3,), threads=1),
        OperatingPoint(mode="free", cores=(7,), threads=1),
    ],
)
def test_a_point_that_the_board_does_not_have_is_refused(pi: Pinned, point: OperatingPoint) -> None:
    with pytest.raises(TransientDeviceError, match="cannot be brought to c"):
        pi.pin(point)
    assert pi.now() == pi.found


def test_a_point_over_two_clusters_is_refused(lay: Lay) -> None:
    with pytest.raises(TransientDeviceError, match="cannot be brought to"):
        lay(PHONE).pin(at(LARGE_KHZ[1], 3, 4))


def test_where_nothing_can_be_set_a_free_clock_is_all(lay: Lay) -> None:
    machine = lay(VIRTUAL_MACHINE)
    machine.pin(OperatingPoint(mode="free", cores=(0, 1), threads=2))
    assert machine.noted() == {}
    with pytest.raises(TransientDeviceError):
        machine.pin(at(PI_KHZ[0], 1))


def test_a_governor_that_may_not_be_written_is_held_by_its_limits(lay: Lay) -> None:
    tree = RASPBERRY_PI.with_files({f"{PI}/scaling_cur_freq": None})
    board = lay(Tree(tree.files, {f"{PI}/scaling_cur_freq": "scaling_max_freq"}, tree.programs))
    (board.port.root / PI / "scaling_governor").chmod(0o444)
    board.pin(at(PI_KHZ[1]))
    assert board.port.text(f"{PI}/scaling_governor") == "ondemand"
    assert board.port.text(f"{PI}/scaling_min_freq") == board.port.text(f"{PI}/scaling_max_freq") == str(PI_KHZ[1])
    board.restore()
    assert board.now() == board.found


@pytest.mark.parametrize("name", ["scaling_max_freq", "scaling_min_freq", "scaling_setspeed"])
def test_what_the_board_refuses_is_told_and_everything_put_back(pi: Pinned, name: str) -> None:
    (pi.port.root / PI / name).chmod(0o444)
    with pytest.raises(TransientDeviceError, match=rf"refuses 1000000 for /{PI}/{name}: .*denied"):
        pi.pin(at(PI_KHZ[1]))
    assert pi.now() == pi.found
    assert pi.noted() == {}


def test_a_setting_that_cannot_be_read_is_not_touched(pi: Pinned) -> None:
    (pi.port.root / PI / "scaling_min_freq").chmod(0o200)
    with pytest.raises(TransientDeviceError, match="cannot be read, so it could not be put back"):
        pi.pin(at(PI_KHZ[1]))
    assert pi.now() == pi.found


def test_a_clock_that_stays_where_it_is_is_not_pinned(lay: Lay) -> None:
    board = lay(RASPBERRY_PI.with_files({f"{PI}/scaling_cur_freq": str(PI_KHZ[0])}))
    with pytest.raises(TransientDeviceError, match=r"does not stay at 1500000 kHz: policy0 runs at 600000"):
        board.pin(at(PI_KHZ[2]))
    assert board.now() == board.found


def test_a_clock_that_follows_late_is_waited_for(lay: Lay) -> None:
    board = lay(RASPBERRY_PI.with_files({f"{PI}/scaling_cur_freq": str(PI_KHZ[0])}))
    folder = board.port.root / PI
    lag = f"until [ $(cat {folder}/scaling_setspeed) = {PI_KHZ[2]} ]; do sleep 0.02; done; sleep 0.15; "
    with subprocess.Popen(["sh", "-c", f"{lag} echo {PI_KHZ[2]} > {folder}/scaling_cur_freq"]):
        board.pin(at(PI_KHZ[2]))
    assert board.port.text(f"{PI}/scaling_setspeed") == str(PI_KHZ[2])


def test_a_vendors_daemon_that_fights_back_is_named(lay: Lay) -> None:
    limits = {"sys/module/msm_performance/parameters/cpu_max_freq": "4:4294967295"}
    phone = lay(PHONE.with_files(limits))
    path = phone.port.root / PHONE_LARGE / "scaling_max_freq"
    fight = f"while sleep 0.01; do printf {LARGE_KHZ[-1]} 1<> {path}; done"  # never empty, as files of a kernel are
    with subprocess.Popen(["sh", "-c", fight]) as daemon:
        try:
            with pytest.raises(TransientDeviceError, match=r"scaling_max_freq is 2802000, not .*msm_performance"):
                phone.pin(at(LARGE_KHZ[0], 7))
        finally:
            daemon.kill()
    phone.restore()
    assert phone.now() == phone.found


def test_a_board_that_slows_itself_down_is_not_touched(lay: Lay) -> None:
    board = lay(RASPBERRY_PI.with_files({"sys/class/thermal/cooling_device0/cur_state": "2"}))
    with pytest.raises(TransientDeviceError, match="slows itself down: cooling_device0"):
        board.pin(at(PI_KHZ[2]))
    assert board.now() == board.found
    assert board.noted() == {}


@pytest.mark.parametrize(("low", "high", "khz"), [(0, 0, 2), (2, 2, 0), (0, 2, 1), (1, 1, 1)])
def test_the_lower_limit_is_never_above_the_upper(lay: Lay, low: int, high: int, khz: int) -> None:
    limits = {f"{PI}/scaling_min_freq": str(PI_KHZ[low]), f"{PI}/scaling_max_freq": str(PI_KHZ[high])}
    board = lay(RASPBERRY_PI.with_files(limits))
    port = OrderedPort(board.port.root)
    board.pin(at(PI_KHZ[khz]), port)
    board.restore(port)
    assert board.now() == board.found


def test_a_speed_that_somebody_had_set_is_put_back(lay: Lay) -> None:
    speed = {f"{PI}/scaling_governor": "userspace", f"{PI}/scaling_setspeed": str(PI_KHZ[0])}
    board = lay(RASPBERRY_PI.with_files(speed))
    board.pin(at(PI_KHZ[2]))
    board.restore()
    assert board.port.text(f"{PI}/scaling_setspeed") == str(PI_KHZ[0])
    assert board.now() == board.found


def test_what_a_governor_forgets_when_it_goes_is_put_back(pi: Pinned) -> None:
    pi.pin(at(PI_KHZ[2]))
    pi.port.put(f"{CPU}/cpufreq/ondemand/up_threshold", "80")  # a kernel's default, when the governor begins anew
    pi.restore()
    assert pi.now() == pi.found


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("writes", range(PI_STEPS))
def test_an_agent_killed_at_any_write_of_a_pin_leaves_what_the_next_one_puts_back(
    pi: Pinned, writes: int, is_after: bool
) -> None:
    with pytest.raises(Killed):
        pi.pin(at(PI_KHZ[1]), FailingPort(pi.port.root, writes, Killed(), is_after=is_after))
    assert pi.noted()
    pi.restore()
    assert pi.now() == pi.found
    assert pi.noted() == {}


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("writes", range(PI_STEPS - 1))
def test_an_agent_killed_at_any_write_of_a_restore_leaves_what_the_next_one_puts_back(
    pi: Pinned, writes: int, is_after: bool
) -> None:
    pi.pin(at(PI_KHZ[1]))
    with pytest.raises(Killed):
        pi.restore(FailingPort(pi.port.root, writes, Killed(), is_after=is_after))
    assert pi.noted()
    pi.restore()
    assert pi.now() == pi.found
    assert pi.noted() == {}


@pytest.mark.parametrize("writes", range(PI_STEPS))
def test_a_connection_lost_at_any_write_leaves_it_to_the_journal(pi: Pinned, writes: int) -> None:
    lost = FailingPort(pi.port.root, writes, BoardUnreachable("unplugged"), is_after=True)
    with pytest.raises(BoardUnreachable):
        pi.pin(at(PI_KHZ[1]), lost)
    assert pi.noted()
    pi.restore()
    assert pi.now() == pi.found


def test_a_pin_that_is_cancelled_is_put_back(pi: Pinned) -> None:
    port = HangingPort(pi.port.root)

    async def cancelled() -> None:
        task = asyncio.create_task(pi.clocks.pin(port, at(PI_KHZ[1]), pi.journal, BOARD))
        await port.hangs.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert pi.now() == pi.found
    assert pi.noted() == {}


def test_what_the_board_does_not_take_back_is_told_and_stays_in_the_journal(pi: Pinned) -> None:
    pi.pin(at(PI_KHZ[1]))
    low = pi.port.root / PI / "scaling_min_freq"
    low.chmod(0o444)
    with pytest.raises(TransientDeviceError, match=rf"/{PI}/scaling_min_freq is 1000000, was 600000 \(.*denied"):
        pi.restore()
    assert [name for name in pi.noted() if name != "clock:boot"] == [f"clock:/{PI}/scaling_min_freq"]
    with pytest.raises(TransientDeviceError, match="not put back"):
        pi.pin(at(PI_KHZ[2]))
    low.chmod(0o644)
    pi.restore()
    assert pi.now() == pi.found
    assert pi.noted() == {}


def test_a_board_that_has_rebooted_has_nothing_to_put_back(pi: Pinned) -> None:
    pi.pin(at(PI_KHZ[1]))
    pi.port.put(BOOT_ID, "another\n")
    pi.port.put(f"{PI}/scaling_governor", "schedutil")
    pi.restore()
    assert pi.port.text(f"{PI}/scaling_governor") == "schedutil"
    assert pi.noted() == {}


def test_other_notes_in_the_journal_are_left_alone(pi: Pinned) -> None:
    pi.journal.remember(BOARD, "runner", "12:34")
    pi.pin(at(PI_KHZ[1]))
    pi.restore()
    assert pi.noted() == {"runner": "12:34"}


def test_a_core_that_is_off_is_switched_on_and_off_again(lay: Lay) -> None:
    tree = PHONE.with_files({f"{CPU}/online": None, f"{CPU}/cpu1/online": "0"})
    listed = {**tree.links, f"{CPU}/online": "cpu1/online"}  # "0" lists core 0, "1" core 1
    phone = lay(Tree(tree.files, listed, tree.programs))
    phone.pin(at(SMALL_KHZ[0], 1))
    assert phone.port.text(f"{CPU}/cpu1/online") == "1"
    phone.restore()
    assert phone.now() == phone.found


def test_a_core_that_stays_off_is_told(lay: Lay) -> None:
    phone = lay(PHONE.with_files({f"{CPU}/online": "0-6", f"{CPU}/cpu7/online": "0"}))
    with pytest.raises(TransientDeviceError, match="core 7 stays offline"):
        phone.pin(at(LARGE_KHZ[0], 7))
    assert phone.now() == phone.found
    bolted = lay(PHONE.with_files({f"{CPU}/online": "0-6", f"{CPU}/cpu7/online": None}))
    with pytest.raises(TransientDeviceError, match="core 7 is offline and cannot be switched on"):
        bolted.pin(OperatingPoint(mode="free", cores=(7,), threads=1))


def test_fixed_performance_is_switched_on_and_off(lay: Lay) -> None:
    phone = lay(PHONE)
    point = OperatingPoint(mode="fixed_performance", cores=(4, 5, 6, 7), threads=4)
    phone.pin(point)
    assert phone.port.text("dumps/fixed") == "true"
    phone.restore()
    assert phone.port.text("dumps/fixed") == "false"
    assert phone.noted() == {}
    (phone.port.root / "dumps" / "fixed").chmod(0o444)
    with pytest.raises(TransientDeviceError, match="no fixed performance after all: Failed to set"):
        phone.pin(point)
    assert phone.noted() == {}, "what did not switch it on need not switch it off"
