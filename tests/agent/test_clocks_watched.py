"""What is seen of a clock over a launch, and that a board which lies proves nothing."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from benchfarm_agent.boards.clock_watch import ClockWatch, residency, residency_of_launch, watched_clock
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_core.clock_proof import ClockEvidence, is_throttled, proof
from benchfarm_core.platforms import ClockProof, OperatingPoint
from tests.agent.conftest import run
from tests.agent.tree_port import TreePort, laid_out
from tests.agent.trees import CPU, PC, PHONE, PI, PI_KHZ, RASPBERRY_PI, Tree

Lay = Callable[[Tree], TreePort]
PINNED = OperatingPoint(mode="pinned", cores=(2, 3), threads=2, freq_khz=(PI_KHZ[1],))
FREE = OperatingPoint(mode="free", cores=(2, 3), threads=2)
COOLING = "sys/class/thermal/cooling_device0"
FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.fixture
def lay() -> Iterator[Lay]:
    """Lays a board out."""
    with ExitStack() as stack:
        yield lambda tree: TreePort(stack.enter_context(laid_out(tree)))


@asynccontextmanager
async def watching(port: TreePort, point: OperatingPoint) -> AsyncIterator[ClockWatch]:
    facts = await read_board_facts(port)
    async with watched_clock(port, facts, point, f"{port.root}/tmp") as watch:
        yield watch


def seen(
    port: TreePort, change: Callable[[], None], point: OperatingPoint = PINNED, launch_s: float = 2.0
) -> ClockEvidence:
    """The evidence of a launch during which the board changes."""

    async def watched() -> ClockEvidence:
        async with watching(port, point) as watch:
            change()
            return await watch.end(launch_s)

    return run(watched())


def after(port: TreePort, **ticks: int) -> Callable[[], None]:
    """Two seconds later, with these ticks more at f600, f1000 and f1500 MHz."""

    def change() -> None:
        spent = {khz: ticks.get(f"f{khz // 1000}", 0) for khz in PI_KHZ}
        port.put("proc/uptime", "1002.00 3900.00")
        port.put(f"{PI}/stats/time_in_state", "\n".join(f"{khz} {1000 + count}" for khz, count in spent.items()))

    return change


def test_a_clock_that_stayed_is_verified(lay: Lay) -> None:
    port = lay(RASPBERRY_PI)
    evidence = seen(port, after(port, f1000=200))
    assert (evidence.residency, evidence.watched_s) == (1.0, 2.0)
    assert evidence.asked_khz == (PI_KHZ[1],)
    assert evidence.throttle_events == 0
    assert proof(evidence) is ClockProof.VERIFIED


def test_a_launch_shorter_than_its_watch_is_judged_by_itself(lay: Lay) -> None:
    port = lay(RASPBERRY_PI)
    evidence = seen(port, after(port, f1000=200), launch_s=0.99)
    assert (evidence.residency, evidence.watched_s) == (1.0, 0.99)
    assert proof(evidence) is ClockProof.UNPINNED, "the watch of two seconds does not lengthen it"
    port = lay(RASPBERRY_PI)
    evidence = seen(port, after(port, f600=1, f1000=199), launch_s=1.0)
    assert evidence.residency == pytest.approx(0.99), "half a percent of the watch, a whole one of the launch"
    port = lay(RASPBERRY_PI)
    evidence = seen(port, after(port, f600=2, f1000=198), launch_s=1.0)
    assert proof(evidence) is ClockProof.UNPINNED


def test_a_launch_is_never_longer_than_its_watch(lay: Lay) -> None:
    port = lay(RASPBERRY_PI)
    assert seen(port, after(port, f1000=200), launch_s=60.0).watched_s == 2.0


def test_a_board_that_lies_about_its_clock_proves_nothing(lay: Lay) -> None:
    port = lay(RASPBERRY_PI.with_files({f"{PI}/scaling_cur_freq": str(PI_KHZ[1])}))
    evidence = seen(port, after(port, f600=150, f1000=50))
    assert evidence.residency == 0.25
    assert proof(evidence) is ClockProof.UNPINNED


@pytest.mark.parametrize("ticks", [{}, {"f1000": 20}, {"f1000": 200, "f600": -5}])
def test_a_count_that_stands_still_or_goes_back_proves_nothing(lay: Lay, ticks: dict[str, int]) -> None:
    port = lay(RASPBERRY_PI)
    evidence = seen(port, after(port, **ticks))
    assert evidence.residency is None
    assert proof(evidence) is ClockProof.UNPINNED


@pytest.mark.parametrize(
    ("path", "text", "events"),
    [
        (f"{COOLING}/cur_state", "1", 1),
        (f"{COOLING}/stats/total_trans", "12", 2),
        (f"{PI}/scaling_max_freq", "600000", 1),
        (FIRMWARE, "e0006", 3),  # capped and throttled now; the third has been since the launch began
        (FIRMWARE, "20000", 1),
        (f"{CPU}/cpu3/thermal_throttle/core_throttle_count", "9", 2),
    ],
)
def test_a_board_that_slows_itself_down_is_seen(lay: Lay, path: str, text: str, events: int) -> None:
    counters = {f"{COOLING}/stats/total_trans": "10", f"{CPU}/cpu3/thermal_throttle/core_throttle_count": "7"}
    port = lay(RASPBERRY_PI.with_files(counters))
    stayed = after(port, f1000=200)

    def change() -> None:
        stayed()
        port.put(path, text)

    evidence = seen(port, change)
    assert evidence.throttle_events == events
    assert is_throttled(evidence)
    assert proof(evidence) is ClockProof.UNPINNED


def test_what_had_happened_before_is_no_event(lay: Lay) -> None:
    port = lay(RASPBERRY_PI.with_files({FIRMWARE: "50000"}))
    assert seen(port, after(port, f1000=200)).throttle_events == 0


def test_a_core_that_goes_offline_is_seen(lay: Lay) -> None:
    port = lay(RASPBERRY_PI)
    gone = seen(port, lambda: port.put(f"{CPU}/online", "0-2"))
    assert gone.cores_lost
    assert is_throttled(gone)
    other = lay(RASPBERRY_PI)
    assert not seen(other, lambda: other.put(f"{CPU}/online", "2-3")).cores_lost, "a core that nobody measures on"


def test_a_core_that_went_and_came_back_is_seen(lay: Lay) -> None:
    port = lay(RASPBERRY_PI)
    folder = port.root / CPU / "cpu3" / "topology"

    def change() -> None:
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
        shutil.rmtree(folder)
        kept.rename(folder)

    assert seen(port, change).cores_lost


def test_a_clock_group_that_is_gone_proves_nothing(lay: Lay) -> None:
    port = lay(RASPBERRY_PI)
    evidence = seen(port, lambda: shutil.rmtree(port.root / PI))
    assert evidence.residency is None
    assert proof(evidence) is ClockProof.UNPINNED


def test_a_free_clock_is_watched_for_heat_alone(lay: Lay) -> None:
    port = lay(PC)
    counter = f"{CPU}/cpu3/thermal_throttle/core_throttle_count"
    evidence = seen(port, lambda: port.put(counter, "8"), FREE)
    assert (evidence.asked_khz, evidence.residency, evidence.samples) == ((), None, 0)
    assert evidence.throttle_events == 1


def test_a_phone_without_root_says_itself_that_it_is_hot(lay: Lay) -> None:
    programs = {**PHONE.programs, "id": "echo 2000"}
    unreadable = PHONE.with_files({"sys/class/thermal/cooling_device3/cur_state": None})
    port = lay(Tree(unreadable.files, unreadable.links, programs))
    port.put("dumps/text", "Thermal Status: 0\n")
    assert seen(port, lambda: None, FREE).throttle_events == 0
    assert seen(port, lambda: port.put("dumps/text", "Thermal Status: 2\n"), FREE).throttle_events == 1


UNCOUNTED = RASPBERRY_PI.with_files({f"{PI}/stats/time_in_state": None, f"{PI}/scaling_cur_freq": str(PI_KHZ[1])})


def sampled(port: TreePort, change: Callable[[], None], *, for_s: float) -> ClockEvidence:
    """The evidence of a launch that takes that long, with the change in its middle."""

    async def watched() -> ClockEvidence:
        async with watching(port, PINNED) as watch:
            await asyncio.sleep(for_s / 2)
            change()
            await asyncio.sleep(for_s / 2)
            return await watch.end(for_s)

    return run(watched())


def test_where_nothing_is_counted_the_clock_is_looked_at(lay: Lay) -> None:
    port = lay(UNCOUNTED)
    evidence = sampled(port, lambda: None, for_s=2.0)
    assert 20 <= evidence.samples <= 45
    assert evidence.samples_off == 0
    assert evidence.residency is None
    assert proof(evidence) is ClockProof.BOUNDED
    assert list((port.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("text", ["600000", "garbage", "", "1020000"])
def test_a_clock_that_was_looked_at_and_was_another_proves_nothing(lay: Lay, text: str) -> None:
    port = lay(UNCOUNTED)
    evidence = sampled(port, lambda: port.put(f"{PI}/scaling_cur_freq", text), for_s=0.6)
    assert 0 < evidence.samples_off < evidence.samples
    assert proof(evidence) is ClockProof.UNPINNED


def test_no_more_samples_count_than_the_launch_had_time_for(lay: Lay) -> None:
    port = lay(UNCOUNTED)

    async def watched() -> ClockEvidence:
        async with watching(port, PINNED) as watch:
            await asyncio.sleep(1.0)  # wait: the watch's own length is what is tested
            return await watch.end(0.5)

    evidence = run(watched())
    assert evidence.samples == 10
    assert proof(evidence) is ClockProof.UNPINNED


def test_nothing_watches_on_when_the_launch_breaks_off(lay: Lay) -> None:
    port = lay(UNCOUNTED)

    async def broken_off() -> None:
        async with watching(port, PINNED):
            raise ConnectionError

    with pytest.raises(ConnectionError):
        run(broken_off())
    limit_s = time.monotonic() + 10
    while str(port.root).encode() in _command_lines():
        assert time.monotonic() < limit_s, "the loop on the board goes on"
        time.sleep(0.02)


def _command_lines() -> bytes:
    lines = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines += path.read_bytes()
        except OSError:  # it has ended
            continue
    return lines


def test_residency_is_of_what_was_counted() -> None:
    before = {600_000: 100, 1_000_000: 0}
    assert residency(before, {600_000: 101, 1_000_000: 99}, 1_000_000, 1.0) == 0.99
    assert residency(before, {600_000: 101, 1_000_000: 99}, 1_400_000, 1.0) == 0.0
    assert residency(before, {600_000: 100, 1_000_000: 100, 1_400_000: 0}, 1_000_000, 1.0) == 1.0
    assert residency(before, before, 1_000_000, 0.0) is None
    assert residency(before, {1_000_000: 100}, 1_000_000, 1.0) is None
    assert residency({}, {1_000_000: 100}, 1_000_000, 1.0) == 1.0


def test_residency_of_a_launch_charges_it_with_all_that_was_off() -> None:
    assert residency_of_launch(1.0, 3.0, 1.0) == 1.0
    assert residency_of_launch(0.9, 2.0, 1.0) == pytest.approx(0.8)
    assert residency_of_launch(0.5, 4.0, 1.0) == 0.0
    assert residency_of_launch(1.0, 1.0, 0.0) is None
