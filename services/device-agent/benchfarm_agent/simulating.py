"""`benchfarm agent simulate`: one agent with any number of simulated boards, which work for a real farm."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.boards.host_facts import machine_id
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.simulated import ScaledClock, SimulatedBoard, SimulatedClock, Unit
from benchfarm_agent.boards.simulated_profile import SimulatedProfile
from benchfarm_agent.leases import Lab
from benchfarm_agent.main import cancel_this_task, end_on_signals, open_farm, serve, settle_before_start
from benchfarm_agent.settings import Settings
from benchfarm_agent.simulated_artifacts import CANARY, SimulatedArtifacts
from benchfarm_agent.spool import Spool
from benchfarm_agent.standings import write_standings
from benchfarm_agent.state_dir import StateDir, open_state_dir
from benchfarm_core import log
from benchfarm_core.values import digest

BOARDS_MAX: Final = 1000
"""As many as one agent may register."""


class SimulatedWay:
    """The way to one simulated board, which is there but for the time after it was lost."""

    is_fixed = True

    def __init__(self, board: SimulatedBoard) -> None:
        self._board = board

    @property
    def label(self) -> str:
        return self._board.name

    async def open(self) -> Board:
        self._board.come_back()
        return self._board

    async def gone(self, board: Board) -> str:
        del board
        await self._board.away()
        return "it is lost, as its profile wants"

    async def close(self) -> None:
        """Nothing reaches it but this process."""


def simulated_boards(
    profile: SimulatedProfile, owner: str, count: int, seed: int, clock: SimulatedClock, settings: Settings
) -> Sequence[SimulatedBoard]:
    """The first `count` units of a model."""
    units = (Unit(owner, number, seed) for number in range(1, count + 1))
    return [SimulatedBoard(profile, unit, clock, max_temperature_c=settings.max_temperature_c) for unit in units]


def run_simulated(settings: Settings, profile: SimulatedProfile, *, boards: int, speed: float, seed: int) -> None:
    """Runs an agent of simulated boards until SIGTERM or SIGINT.

    Raises BenchfarmError for what only a person can mend.
    """
    log.configure("agent")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    state, lock = open_state_dir(settings.state_dir)
    try:
        with contextlib.suppress(asyncio.CancelledError):  # a signal during the start
            asyncio.run(_run(settings, state, profile, boards, speed, seed))
    finally:
        os.close(lock)


async def _run(
    settings: Settings, state: StateDir, profile: SimulatedProfile, boards: int, speed: float, seed: int
) -> None:
    end_on_signals(cancel_this_task())
    owner = digest([machine_id(), str(state.root)], length=12)
    ways = [SimulatedWay(one) for one in simulated_boards(profile, owner, boards, seed, ScaledClock(speed), settings)]
    watch = BoardWatch(ways)
    watch.on_note = partial(write_standings, state.standings, watch)
    async with open_farm(settings, state) as farm, watch.open():
        lab = Lab(settings, farm, SimulatedArtifacts(), Spool(state.spool), CANARY)
        await settle_before_start(lab)
        await serve(lab, watch)
