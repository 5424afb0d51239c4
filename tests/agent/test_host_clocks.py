"""This host's own clock: offered, set, proven and put back where the kernel has clocks; else nothing of it exists."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.interface import LaunchOrder
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.journal import Journal
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import ClockProof, OperatingPoint
from tests.agent.conftest import LEASE_TOKEN, stand_in
from tests.agent.tree_port import TreePort, laid_out
from tests.agent.trees import CPU, PI, PI_KHZ, RASPBERRY_PI

CORES = sorted(os.sched_getaffinity(0))
TEXT = " ".join(map(str, CORES))
TREE = RASPBERRY_PI.with_files(
    {
        f"{PI}/related_cpus": TEXT,
        f"{PI}/affected_cpus": TEXT,
        f"{CPU}/online": ",".join(map(str, CORES)),
        **{
            f"{CPU}/cpu{core}/topology/{name}": str(core) if name == "core_id" else "0"
            for core in CORES
            for name in ("core_id", "physical_package_id")
        },
    }
)
POINT = OperatingPoint(mode="pinned", cores=(CORES[-1],), threads=1, freq_khz=(PI_KHZ[1],))
ORDER = LaunchOrder(
    {"engine": "e", "precision": "fp32", "threads": 1, "cores": [0], "visits": [{"visit": 1}]}, (), 20.0, 100
)
Make = Callable[[], LocalBoard]


@pytest.fixture
def port() -> Iterator[TreePort]:
    with ExitStack() as stack:
        yield TreePort(stack.enter_context(laid_out(TREE)))


@pytest.fixture
def make(state: StateDir, port: TreePort) -> Make:
    """This host's board as a process of the agent finds it: the same journal, clocks that are files."""

    def board() -> LocalBoard:
        settings = Settings(
            url="http://127.0.0.1:1", state_dir=state.root, runner_argv=stand_in(), gate_foreign_threads=1000
        )
        return LocalBoard(state, Journal(state.journal), settings, port)

    return board


def shown(port: TreePort) -> list[str]:
    return [port.text(f"/{PI}/{name}") for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq")]


FREE = ["ondemand", str(PI_KHZ[0]), str(PI_KHZ[-1])]


def test_its_steps_are_offered_beside_the_free_clock(make: Make, running: Any) -> None:
    report = running(make().describe())
    pinned = [one for one in report.ranges if one.mode == "pinned"]
    assert [one.freq_khz for one in pinned] == [PI_KHZ]
    assert set(pinned[0].cores) <= set(CORES)
    assert report.clock_proof == ClockProof.VERIFIED
    assert {point.mode for point in report.operating_points} == {"free"}, "what is registered does not change"


def test_cores_that_the_agent_may_not_use_are_not_offered(state: StateDir, running: Any) -> None:
    more = f"{TEXT} {max(CORES) + 1}"
    elsewhere = TREE.with_files({f"{PI}/related_cpus": more, f"{PI}/affected_cpus": more})
    elsewhere = elsewhere.with_files({f"{CPU}/online": more.replace(" ", ",")})
    elsewhere = elsewhere.with_files({f"{CPU}/cpu{max(CORES) + 1}/topology/core_id": "77"})
    with laid_out(elsewhere) as root:
        settings = Settings(url="http://127.0.0.1:1", state_dir=state.root, runner_argv=stand_in())
        report = running(LocalBoard(state, Journal(state.journal), settings, TreePort(root)).describe())
    assert (report.ranges, report.clock_proof) == ((), ClockProof.UNPINNED)


def test_a_lease_at_a_step_is_watched_and_put_back(make: Make, port: TreePort, running: Any) -> None:
    board = make()

    async def lease() -> Any:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        await board.pin(POINT)
        assert await board.gate(POINT) is None
        held = shown(port)
        try:
            return held, await board.launch(ORDER, lambda _: None)
        finally:
            await board.restore()

    held, ended = running(lease())
    assert held == ["userspace", str(PI_KHZ[1]), str(PI_KHZ[1])]
    assert ended.returncode == 0
    assert ended.clock is not None
    assert ended.clock.asked_khz == (PI_KHZ[1],)
    assert shown(port) == FREE


def test_a_free_lease_touches_no_clock(make: Make, port: TreePort, running: Any) -> None:
    board = make()
    free = OperatingPoint(mode="free", cores=POINT.cores, threads=1)

    async def lease() -> Any:
        await board.pin(free)
        return await board.launch(ORDER, lambda _: None)

    ended = running(lease())
    assert (ended.returncode, ended.clock) == (0, None)
    assert shown(port) == FREE


def test_the_next_start_puts_back_what_a_killed_agent_left(make: Make, port: TreePort, running: Any) -> None:
    running(make().pin(POINT))
    assert shown(port) != FREE
    running(make().restore())  # the agent was killed before
    assert shown(port) == FREE


def test_what_is_not_put_back_keeps_the_gate_shut(make: Make, state: StateDir, running: Any) -> None:
    Journal(state.journal).remember("local", "clock:/sys/no-such-setting", "1")
    assert "no-such-setting" in running(make().gate(POINT))
    Journal(state.journal).forget("local", "clock:/sys/no-such-setting")
    assert running(make().gate(POINT)) is None


@pytest.mark.parametrize("changes", [{"freq_khz": (123_456,)}, {"cores": (4000,)}])
def test_a_point_that_this_host_does_not_have_is_refused(
    make: Make, port: TreePort, running: Any, changes: dict[str, Any]
) -> None:
    with pytest.raises(TransientDeviceError, match="cannot be brought to"):
        running(make().pin(POINT.model_copy(update=changes)))
    assert shown(port) == FREE


@pytest.mark.skipif(any(Path("/sys/devices/system/cpu/cpufreq").glob("policy*")), reason="this host has clocks")
def test_without_clocks_there_is_nothing_but_the_free_one(local_board: Callable[..., LocalBoard], running: Any) -> None:
    report = running(local_board().describe())
    assert (report.ranges, report.clock_proof) == ((), ClockProof.UNPINNED)
    with pytest.raises(TransientDeviceError, match="cannot be brought to"):
        running(local_board().pin(POINT))
