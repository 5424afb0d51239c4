"""Launches on the agent's host and its other work take turns; neither starves the other."""

import asyncio
from collections.abc import Callable
from typing import Any

from benchfarm_agent.quiet import Quiet

Run = Callable[[Any], Any]


class Turns:
    """Who was let in, in order; each stays until it is let go."""

    def __init__(self) -> None:
        self.quiet = Quiet()
        self.inside: list[str] = []
        self._go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str) -> None:
        self._go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name))
        await settle()

    async def go(self, name: str) -> None:
        self._go[name].set()
        await settle()

    async def _stay(self, name: str) -> None:
        async with self.quiet.launching() if name.startswith("launch") else self.quiet.working():
            self.inside.append(name)
            await self._go[name].wait()
            self.inside.remove(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_workers_share_and_a_launch_is_alone(running: Run) -> None:
    async def play() -> None:
        turns = Turns()
        for name in ("work-1", "work-2", "launch-1", "work-3"):
            await turns.come(name)
        assert turns.inside == ["work-1", "work-2"]
        await turns.go("work-1")
        await turns.go("work-2")
        assert turns.inside == ["launch-1"]
        await turns.go("launch-1")
        assert turns.inside == ["work-3"]

    running(play())


def test_one_launch_after_the_other_lets_workers_in_between(running: Run) -> None:
    async def play() -> None:
        turns = Turns()
        for name in ("launch-1", "work-1", "launch-2"):
            await turns.come(name)
        await turns.go("launch-1")
        assert turns.inside == ["work-1"]
        await turns.go("work-1")
        assert turns.inside == ["launch-2"]

    running(play())


def test_who_gives_up_waiting_holds_up_nobody(running: Run) -> None:
    async def play() -> None:
        turns = Turns()
        for name in ("work-1", "launch-1", "work-2"):
            await turns.come(name)
        assert turns.inside == ["work-1"]
        turns.tasks["launch-1"].cancel()
        await settle()
        assert turns.inside == ["work-1", "work-2"]
        turns.tasks["work-1"].cancel()
        await turns.go("work-2")
        await turns.come("launch-2")
        assert turns.inside[-1:] == ["launch-2"]

    running(play())
