"""The clocks of the agent's own machine, where it has some: set and watched as those of any Linux board."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from benchfarm_agent.boards.clock_watch import ClockWatch, watched_clock
from benchfarm_agent.boards.clocks import CLOCK_NOTE, Clocks
from benchfarm_agent.boards.linux_facts import BoardFacts, best_proof, offered_ranges, read_board_facts
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.host_port import HostPort
from benchfarm_agent.ports.interface import Port
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.operating_ranges import OperatingRange, accepts
from benchfarm_core.platforms import ClockProof, OperatingPoint

_CLOCKS: Final = Path("/sys/devices/system/cpu/cpufreq")


class HostClocks:
    """Without clocks that the agent may set there are no ranges, and nothing is ever read, set or put back."""

    def __init__(self, port: Port | None, journal: Journal, board: str, cores: Iterable[int]) -> None:
        """port: None for a host without clocks. board: its name in the journal. cores: those that the agent may use."""
        self._port = port
        self._journal = journal
        self._board = board
        self._cores = frozenset(cores)
        self._facts: BoardFacts | None = None
        self._ranges: tuple[OperatingRange, ...] = ()
        self._point: OperatingPoint | None = None

    async def ranges(self) -> tuple[OperatingRange, ...]:
        """What this host can be set to, looked at once; nothing where no clock can be set."""
        if self._port is not None and self._facts is None:
            self._facts = await read_board_facts(self._port)
            offered = [one for one in offered_ranges(self._facts) if self._cores.issuperset(one.cores)]
            is_settable = any(one.mode == "pinned" for one in offered)
            self._ranges = tuple(offered) if is_settable else ()
        return self._ranges

    @property
    def proof(self) -> ClockProof:
        """The best proof of a pinned clock here."""
        return best_proof(self._facts) if self._facts is not None and self._ranges else ClockProof.UNPINNED

    async def pin(self, point: OperatingPoint) -> None:
        """Raises TransientDeviceError for a point that this host does not have or does not stay at."""
        if self._port is None or not accepts(await self.ranges(), point) or self._facts is None:
            raise TransientDeviceError(f"this host cannot be brought to {point.key}")
        await Clocks(self._facts).pin(self._port, point, self._journal, self._board)
        self._point = point

    async def restore(self) -> None:
        """Puts back what the journal says was set. Harmless to repeat. Raises TransientDeviceError."""
        self._point = None
        if self._port is not None:
            await Clocks.restore(self._port, self._journal, self._board)

    async def why_not_put_back(self) -> str | None:
        """Puts back what an earlier process left; why that fails, None when all is as it was found."""
        noted = any(name.startswith(CLOCK_NOTE) for name in self._journal.entries(self._board))
        if self._point is not None or not noted:
            return None
        try:
            await self.restore()
        except TransientDeviceError as error:
            return error.detail
        return None

    @contextlib.asynccontextmanager
    async def watched(self, folder: Path) -> AsyncIterator[ClockWatch | None]:
        """What watches the clock of the point that the host was brought to; None where it was brought to none."""
        if self._port is None or self._facts is None or self._point is None:
            yield None
        else:
            async with watched_clock(self._port, self._facts, self._point, str(folder)) as watch:
                yield watch


def host_port(scratch: Path) -> Port | None:
    """The way to this host's clocks, where its kernel has them."""
    return HostPort(scratch) if any(_CLOCKS.glob("policy*")) else None
