"""The lab's own commands for boards that stay away, such as one that switches a USB port off and on."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from benchfarm_agent.lab_file import PowerHook
from benchfarm_agent.processes import kill_group, start_child

logger = logging.getLogger(__name__)

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
