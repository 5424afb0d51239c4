"""Whether the engines that live in environments of their own are still whole, seen while the agent runs.

What is cheap is done often: to look which files there are. Only where some came or went the engine is asked again, as
at the agent's start: one that does not answer any more is withdrawn with the reason, and offered again once it does.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.engine_probe import probe_engine
from benchfarm_core.boards import EngineReport
from benchfarm_core.values import digest

logger = logging.getLogger(__name__)

LINKED_DEPTH: Final = 2
"""Packages of another interpreter are looked at so deep: it may have many that are not the engine's."""
_OWN_DEPTH: Final = 40


class EngineChecks:
    """The files of engines' own environments as they were when each engine was last asked."""

    def __init__(
        self, environments: EngineEnvironments, runner_argv: Callable[[str], Sequence[str]], scratch: Path
    ) -> None:
        self._environments = environments
        self._runner_argv = runner_argv
        self._scratch = scratch
        self._seen: dict[str, str] = {}

    async def note(self) -> None:
        """The engines are being asked now."""
        self._seen = await asyncio.to_thread(self._look)

    async def renewed(self, reports: Sequence[EngineReport]) -> tuple[EngineReport, ...]:
        """The reports, anew for engines whose files have changed since they were last asked."""
        found = await asyncio.to_thread(self._look)
        changed = {name for name, files in found.items() if self._seen.get(name) != files}
        self._seen = found
        return tuple([await self._asked(one) if one.name in changed else one for one in reports])

    async def _asked(self, before: EngineReport) -> EngineReport:
        now = await probe_engine(self._runner_argv(before.name), before.name, self._scratch)
        if before.available and not now.available:
            logger.warning("engine %s is withdrawn: %s", now.name, now.reason)
        elif now.available and not before.available:
            logger.info("engine %s is back", now.name)
        return now

    def _look(self) -> dict[str, str]:
        return {name: files_of(folder) for name, folder in self._environments.own_folders().items()}


def files_of(folder: Path) -> str:
    """What files an environment has, in short: their names and sizes; of linked packages the names of the upper ones.

    What Python itself writes beside modules does not count.
    """
    entries = sorted(_entries(folder, _OWN_DEPTH, sized=True))
    for linked in sorted(folder.glob("lib/python*/site-packages/*.pth")):
        try:
            lines = linked.read_text().splitlines()
        except (OSError, ValueError):
            continue
        for line in lines:
            entries += sorted(_entries(Path(line), LINKED_DEPTH, sized=False)) if line.startswith("/") else []
    return digest(entries)


def _entries(folder: Path, depth: int, *, sized: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = [one for one in found if one.name != "__pycache__"]
    except OSError:  # it went meanwhile: so its entries are gone
        return
    for one in entries:
        is_folder = one.is_dir(follow_symlinks=False)
        yield f"{one.path} {_size_bytes(one) if sized and not is_folder else ''}"
        if is_folder and depth > 1:
            yield from _entries(Path(one.path), depth - 1, sized=sized)


def _size_bytes(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return -1
