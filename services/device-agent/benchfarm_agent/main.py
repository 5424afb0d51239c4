"""The agent's process: everything is wired here, and here it starts and ends."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Final

from benchfarm_agent.artifacts import ArtifactCache
from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.board_ways import open_boards
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.conversions import Conversions
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.file_cache import FileCache
from benchfarm_agent.identity import identify
from benchfarm_agent.lab_file import read_lab_file
from benchfarm_agent.leases import AFTER_RESTART, HANDED_IN_LATE, Lab, settle_leftover
from benchfarm_agent.offers import OfferDesk
from benchfarm_agent.pauses import Pauses
from benchfarm_agent.prepared import Canary
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.references import ReferenceChild
from benchfarm_agent.settings import Settings
from benchfarm_agent.spool import Spool
from benchfarm_agent.state_dir import StateDir, open_state_dir
from benchfarm_core import log
from benchfarm_core.agent_protocol import ReleaseRequest
from benchfarm_core.errors import BenchfarmError, Unavailable

logger = logging.getLogger(__name__)

START_PATIENCE_S: Final = 2.0
LEFTOVERS_EVERY_S: Final = 30.0
CHECK_EVERY_S: Final = 15.0
CHECK_AT_LATEST_S: Final = 600.0


def run(settings: Settings) -> None:
    """Runs an agent until SIGTERM or SIGINT. Raises BenchfarmError for what only a person can mend."""
    log.configure("agent")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    watch_children_without_threads()
    state, lock = open_state_dir(settings.state_dir)
    try:
        with contextlib.suppress(asyncio.CancelledError):  # a signal during the start
            asyncio.run(_run(settings, state))
    finally:
        os.close(lock)


async def _run(settings: Settings, state: StateDir) -> None:
    end_on_signals(cancel_this_task())
    lab_file = read_lab_file(settings.boards, max_temperature_c=settings.max_temperature_c)
    async with (
        open_farm(settings, state) as farm,
        open_boards(settings, state, lab_file) as watch,
        open_lab(settings, state, farm) as lab,
    ):
        await settle_before_start(lab)
        await serve(lab, watch)


async def serve(lab: Lab, watch: BoardWatch) -> None:
    """Works for the farm until a signal asks for the end."""
    desk = OfferDesk(lab, watch)
    await desk.begin()
    end_on_signals(desk.drain)
    work = (_settle_now_and_then(lab, desk), _tell_when_ready(lab, desk), check_engines(lab, watch))
    beside = [asyncio.create_task(one) for one in work]
    try:
        await desk.run()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    await desk.leave()
    logger.info("drained")


async def _tell_when_ready(lab: Lab, desk: OfferDesk) -> None:
    await desk.settled.wait()
    if lab.settings.ready_file is not None:
        lab.settings.ready_file.touch()


async def check_engines(lab: Lab, watch: BoardWatch, *, every_s: float = CHECK_EVERY_S) -> None:
    """Withdraws engines of this host that were damaged, and offers them again once they are whole. Never ends.

    Asking an engine takes up to a minute, for which launches wait: it is done while no lease is at work. Where one
    always is, it is done all the same after `CHECK_AT_LATEST_S`.
    """
    checked_s = boottime_s()
    while True:
        await asyncio.sleep(every_s)
        if lab.at_work and boottime_s() - checked_s < CHECK_AT_LATEST_S:
            continue
        checked_s = boottime_s()
        try:
            await _check_engines(lab, watch)
        except Exception:  # boundary: a check that fails must not be the last
            logger.exception("the engines could not be looked at")


async def _check_engines(lab: Lab, watch: BoardWatch) -> None:
    for present in watch.present():
        if isinstance(present.board, LocalBoard):
            async with lab.quiet.working():
                report = await present.board.renewed(present.report)
            watch.renew(present.board, report)


def end_on_signals(end: Callable[[], object]) -> None:
    """Calls `end` on SIGTERM and SIGINT, instead of what was called before."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)


def cancel_this_task() -> Callable[[], object]:
    """Ends the running task from a signal handler."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancel


@contextlib.asynccontextmanager
async def open_farm(settings: Settings, state: StateDir) -> AsyncIterator[FarmClient]:
    """A connection to the farm as the agent that lives in this state folder; enrols it first where it must."""
    farm = FarmClient(settings.url)
    try:
        identity = await identify(farm, state.identity, settings)
        farm.use_token(identity.token)
        yield farm
    finally:
        await farm.close()


@contextlib.asynccontextmanager
async def open_lab(settings: Settings, state: StateDir, farm: FarmClient) -> AsyncIterator[Lab]:
    """The parts that leases share, warm: the first job must not wait for imports."""
    files = FileCache(state.cache, limit_bytes=settings.cache_limit_bytes)
    files.open()
    references = ReferenceChild(state.cache)
    conversions = Conversions(state.cache, EngineEnvironments(state.engines))
    artifacts = ArtifactCache(files, farm, references, conversions, file_limit_bytes=settings.max_file_bytes)
    try:
        yield Lab(settings, farm, artifacts, Spool(state.spool), await warm_canary(artifacts, references))
    finally:
        await references.close()
        await conversions.close()


async def warm_canary(artifacts: ArtifactCache, references: ReferenceChild) -> Canary:
    """The MobileNet canary's file; computing its reference once leaves the child and its engine warm."""
    canary = await asyncio.to_thread(artifacts.own_canary)
    await references.compute(canary.artifact, canary.inputs)
    return canary


async def settle_before_start(lab: Lab) -> None:
    """Hands over what an earlier process left behind, for as long as that takes.

    Registering ends that process's leases at the farm: whatever it measured and has not handed over by then is lost,
    and what it was running pays. So an agent waits for its farm here.
    """
    pauses = Pauses()
    while not await settle_leftovers(lab, AFTER_RESTART, patience_s=START_PATIENCE_S):  # noqa: ASYNC110  (a farm that is back sets no event)
        await asyncio.sleep(pauses.next_s())


async def settle_leftovers(
    lab: Lab, release: ReleaseRequest, *, patience_s: float, besides: frozenset[str] = frozenset()
) -> bool:
    """Hands over what leases left behind; False when the farm was away: then some of it waits for the next time."""
    for left in lab.spool.leftovers():
        if left.lease_token in besides:
            continue
        try:
            await settle_leftover(lab.farm, left, release, patience_s=patience_s)
        except Unavailable as error:
            logger.warning("leftovers stay in the spool: %s", error.detail)
            return False
        except BenchfarmError as error:
            logger.error("the farm refuses leftovers: %s", error.detail, extra={"spool": left.lease_token[:8]})
    return True


async def _settle_now_and_then(lab: Lab, desk: OfferDesk) -> None:
    while True:
        await asyncio.sleep(LEFTOVERS_EVERY_S)
        await settle_leftovers(lab, HANDED_IN_LATE, patience_s=0.0, besides=desk.lease_tokens())
