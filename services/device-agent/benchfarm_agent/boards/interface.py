"""What every kind of board does for the agent. `tests/agent/test_board_interface.py` holds each kind to it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from benchfarm_core.boards import BoardReport
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.platforms import OperatingPoint

LINE_BYTES_MAX: Final = 2**20
"""The longest line of a runner that is taken: far above what the largest protocol can produce."""

Cut = Literal["silent", "garbage", "stopped"]


@dataclass(frozen=True)
class LaunchOrder:
    """One launch: the runner's request without the parts that only the board knows.

    `request` is the launch request of the runner contract less `limits`; its paths lie on the agent's machine, a
    board elsewhere copies them and writes its own. `readable` are all those files. A launch that says nothing for
    `silence_s`, or more than `lines_max` lines, is cut. `strict`: it opens a stranger's file, and rather fails
    with `engine_unavailable` than run with the board's files or the network open to it.
    """

    request: dict[str, Any]
    readable: tuple[Path, ...]
    silence_s: float
    lines_max: int
    strict: bool = False


@dataclass(frozen=True)
class LaunchExit:
    """How a launch ended.

    `returncode` as of a Python child: negative for a signal. `cut`: why the board ended it, None when it ended by
    itself. `wall_ms` from process start to exit, `began_unix_s` and `ended_unix_s` the same moments on the wall
    clock. `stderr_tail` is for people. `clock`: what was seen of the board's clock meanwhile, None where nothing was.
    """

    returncode: int
    cut: Cut | None
    out_of_memory: bool
    wall_ms: float
    began_unix_s: float
    ended_unix_s: float
    stderr_tail: str = ""
    clock: ClockEvidence | None = None


@dataclass(frozen=True)
class Conditions:
    """What the board's sensors say now; None where it has no such sensor. Evidence, never part of a key."""

    load_1m: float | None = None
    freq_khz: tuple[int, ...] = ()
    governor: str | None = None
    temperature_c: float | None = None
    throttle_count: int | None = None


class Board(Protocol):
    """One physical device or host that runs launches, one at a time."""

    @property
    def name(self) -> str:
        """Names the board in logs and in the journal; stable over restarts, fit for a file name."""

    @property
    def on_this_host(self) -> bool:
        """Whether work of the agent itself would disturb a launch."""

    @property
    def gate_wait_s(self) -> float | None:
        """How long a lease waits at the gate before it is given back; None: as long as the agent's setting says."""

    async def describe(self) -> BoardReport:
        """What the board is, which engines it has and where it can measure. Reads, changes nothing."""

    async def gate(self, point: OperatingPoint) -> str | None:
        """Why measuring would be in vain now (heat, load, battery), or None. Takes well below 0.1 s when quiet."""

    async def prepare(self, lease_token: str) -> None:
        """Takes the board for a lease and makes sure that its runner is the one that was put there.

        Undone by `restore`. Raises TransientDeviceError when somebody else holds the board or it is out of reach.
        """

    async def pin(self, point: OperatingPoint) -> None:
        """Brings the board to an operating point and verifies it by reading back.

        What it changes is in the journal first. Raises TransientDeviceError when the board does not obey; then
        nothing stays changed.
        """

    async def restore(self) -> None:
        """Puts back whatever the journal says was changed, ends what was left running. Harmless to repeat."""

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        """Runs one fresh runner to its end and hands over each line (without its newline) as it comes.

        Whatever the runner does, this returns: crashes, silence, floods and lines above `LINE_BYTES_MAX` end in a
        `LaunchExit`. Cancelling it ends the runner first. Nothing of the runner is left when it has returned.
        Raises OSError when the runner cannot be started, TransientDeviceError when the board is out of reach.
        """

    async def stop(self) -> None:
        """Ends the launch in progress, which then returns with cut "stopped". Harmless without one."""

    async def evidence(self, point: OperatingPoint) -> Conditions:
        """The board's sensors, for the cores of an operating point."""
