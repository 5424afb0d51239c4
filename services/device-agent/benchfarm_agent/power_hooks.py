"""Brings boards back that stay away: by the lab's own commands, such as one that switches a USB port off and on."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.lab_file import PowerHook
from benchfarm_agent.processes import kill_group, start_child

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USABLE: Final = frozenset({"ready", "opening"})


class PowerHooks:
    """Runs the hook of a board that has been away too long, each in its own time."""

    def __init__(self, hooks: Sequence[PowerHook]) -> None:
        self._hooks = tuple(hooks)

    async def follow(self, watch: BoardWatch) -> None:
        """Until cancelled."""
        await asyncio.gather(*(self._follow(watch, hook) for hook in self._hooks))

    async def _follow(self, watch: BoardWatch, hook: PowerHook) -> None:
        away_since_s = boottime_s()
        while True:
            states = {one.label: one.state for one in watch.standings()}
            if states.get(hook.board) in USABLE:
                away_since_s = boottime_s()
            elif boottime_s() - away_since_s >= hook.after_s:
                await run_hook(hook)
                await asyncio.sleep(max(0.0, hook.again_s - hook.after_s))
                away_since_s = boottime_s()
            await asyncio.sleep(LOOK_EVERY_S)


async def run_hook(hook: PowerHook) -> bool:
    """Runs a board's hook once; whether it went well. What it says goes to the log when it did not."""
    logger.warning("board %s stays away: its power hook runs", hook.board)
    try:
        process = await start_child(hook.cycle, env={"PATH": _PATH}, folder=Path("/"))
    except OSError as error:
        logger.error("the power hook of %s cannot be started: %s", hook.board, error.strerror)
        return False
    try:
        _, said = await asyncio.wait_for(process.communicate(b""), timeout=hook.timeout_s)
    except TimeoutError:
        logger.error("the power hook of %s did not end within %g s", hook.board, hook.timeout_s)
        return False
    finally:
        kill_group(process.pid)
        await process.wait()
    if process.returncode != 0:
        words = said.decode(errors="replace").strip()[-200:]
        logger.error("the power hook of %s ended with %s: %s", hook.board, process.returncode, words)
    return process.returncode == 0
