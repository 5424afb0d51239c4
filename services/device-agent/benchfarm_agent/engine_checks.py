"""Whether the engines that live in environments of their own are still whole, seen while the agent runs.

What is cheap is done often: to look which of the upper files there are. Where some came or went the engine is asked
again, as at the agent's start: one that does not answer any more is withdrawn with the reason. It is asked again after
growing pauses, for what ails it need not be its files, and offered again once it answers.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchfarm_agent.clock import boottime_s
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.engine_probe import probe_engine
from benchfarm_core.boards import EngineReport
from benchfarm_core.values import digest

logger = logging.getLogger(__name__)

LINKED_DEPTH: Final = 2
"""Packages of another interpreter are looked at so deep: it may have many that are not the engine's."""
OWN_DEPTH: Final = 6
"""Of an engine's own environment: its packages, what lies in them, and in their folders."""
ASK_AGAIN_S: Final = (30.0, 3600.0)
"""The first and the longest pause before an engine that does not answer is asked again; each is twice the last."""


@dataclass(frozen=True)
class _Silent:
    """An engine that did not answer: with which files, and when it is asked again."""

    files: str
    again_s: float
    pause_s: float


class EngineChecks:
    """The files of engines' own environments as they were when each engine last answered."""

    def __init__(
        self, environments: EngineEnvironments, runner_argv: Callable[[str], Sequence[str]], scratch: Path
    ) -> None:
        self._environments = environments
        self._runner_argv = runner_argv
        self._scratch = scratch
        self._seen: dict[str, str] = {}
        self._silent: dict[str, _Silent] = {}

    async def note(self) -> None:
        """The engines are being asked now."""
        self._seen = await asyncio.to_thread(self._look)
        self._silent = {}

    async def renewed(self, reports: Sequence[EngineReport]) -> tuple[EngineReport, ...]:
        """The reports, anew for engines whose files have changed since they answered, and now and then for those that
        did not answer."""
        found = await asyncio.to_thread(self._look)
        return tuple([await self._asked(one, found[one.name]) if self._is_due(one, found) else one for one in reports])

    def _is_due(self, report: EngineReport, found: Mapping[str, str]) -> bool:
        files = found.get(report.name)
        if files is None:
            return False
        silent = self._silent.get(report.name)
        if silent is not None:
            return files != silent.files or boottime_s() >= silent.again_s
        return files != self._seen.get(report.name) or not report.available

    async def _asked(self, before: EngineReport, files: str) -> EngineReport:
        now = await probe_engine(self._runner_argv(before.name), before.name, self._scratch)
        if now.available:
            self._seen[now.name] = files
            self._silent.pop(now.name, None)
        else:
            self._silent[now.name] = _later(self._silent.get(now.name), files)
        if before.available and not now.available:
            logger.warning("engine %s is withdrawn: %s", now.name, now.reason)
        elif now.available and not before.available:
            logger.info("engine %s is back", now.name)
        return now

    def _look(self) -> dict[str, str]:
        return {name: files_of(folder) for name, folder in self._environments.own_folders().items()}


def _later(silent: _Silent | None, files: str) -> _Silent:
    """When an engine is asked next that has not answered now; with other files the pauses begin anew."""
    first_s, longest_s = ASK_AGAIN_S
    repeated = silent is not None and silent.files == files
    pause_s = min(2 * silent.pause_s, longest_s) if silent is not None and repeated else first_s
    return _Silent(files, boottime_s() + pause_s, pause_s)


def files_of(folder: Path) -> str:
    """What upper files an environment has, in short: their names and sizes; of linked packages the names alone.

    What Python itself writes beside modules does not count.
    """
    entries = sorted(_entries(folder, OWN_DEPTH, sized=True))
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
