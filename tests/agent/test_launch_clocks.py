"""What was seen of a clock goes along with a launch, and a launch that was throttled is replaced."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchfarm_agent.boards.interface import LaunchExit, LaunchOrder
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.clock_proof import ClockEvidence
from tests.agent.conftest import canary_in, prepared

Run = Callable[[Any], Any]
STEADY = ClockEvidence(asked_khz=(1_800_000,), residency=1.0, watched_s=2.0, throttle_events=0)


class Clocked(LocalBoard):
    """Tells of its clock what a test has written down, launch by launch."""

    told: list[ClockEvidence]

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        return replace(await super().launch(order, on_line), clock=self.told.pop(0))


def launched(
    running: Run, local_board: Callable[..., LocalBoard], grant: LeaseGrant, state: StateDir, *faults: str, told: Any
) -> LeaseLaunches:
    board = local_board(*faults, kind=Clocked)
    assert isinstance(board, Clocked)
    board.told = list(told)
    launches = LeaseLaunches(board, grant, prepared(grant, state.cache), canary_in(state.cache), lambda _: None)
    running(launches.run())
    return launches


def test_a_throttled_launch_is_replaced(
    running: Run, local_board: Callable[..., LocalBoard], grant: Callable[..., LeaseGrant], state: StateDir
) -> None:
    hot = STEADY.model_copy(update={"throttle_events": 1})
    launches = launched(running, local_board, grant(2), state, told=[STEADY, hot, STEADY, STEADY])
    assert [one.clock for one in launches.evidence] == [STEADY, hot, STEADY, STEADY]
    assert [result.outcome for result in launches.results()] == ["ok", "ok"]


def test_a_launch_of_several_processes_has_the_worst_of_their_clocks(
    running: Run, local_board: Callable[..., LocalBoard], grant: Callable[..., LeaseGrant], state: StateDir
) -> None:
    low = STEADY.model_copy(update={"residency": 0.5, "throttle_events": None})
    told = [low, STEADY, STEADY, STEADY, STEADY, STEADY, STEADY]
    launches = launched(running, local_board, grant(3), state, "exit@2", told=told)
    first = launches.evidence[0].clock
    assert first is not None
    assert (first.residency, first.watched_s, first.throttle_events) == (0.5, 4.0, 0)


def test_nothing_is_claimed_where_a_process_was_not_watched(
    running: Run, local_board: Callable[..., LocalBoard], grant: Callable[..., LeaseGrant], state: StateDir
) -> None:
    told: list[ClockEvidence | None] = [None, STEADY, STEADY, STEADY, STEADY, STEADY, STEADY]
    launches = launched(running, local_board, grant(3), state, "exit@2", told=told)
    assert launches.evidence[0].clock is None
