"""Keeps work of the agent apart from launches on its own host, which it would disturb. First come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quiet:
    """Either any number of workers at once, or one launch alone."""

    def __init__(self) -> None:
        self._working = 0
        self._launching = 0
        self._line: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """For what makes this host busy. Waits while a launch runs on it, or waits for its turn."""
        await self._enter(alone=False)
        try:
            yield
        finally:
            self._leave(alone=False)

    @asynccontextmanager
    async def launching(self) -> AsyncIterator[None]:
        """For one launch on this host. Waits until nobody works who came before."""
        await self._enter(alone=True)
        try:
            yield
        finally:
            self._leave(alone=True)

    async def _enter(self, *, alone: bool) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((alone, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.remove((alone, turn))
                self._admit()
            else:  # its turn came in the same moment
                self._leave(alone=alone)
            raise

    def _leave(self, *, alone: bool) -> None:
        if alone:
            self._launching -= 1
        else:
            self._working -= 1
        self._admit()

    def _admit(self) -> None:
        """Lets in who is first in line, and those behind for whom there is room too."""
        while self._line:
            alone, turn = self._line[0]
            if self._launching or (alone and self._working):
                return
            self._line.popleft()
            if alone:
                self._launching += 1
            else:
                self._working += 1
            turn.set_result(None)
