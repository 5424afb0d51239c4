"""What every way to reach a board does for the agent. `tests/agent/ports/test_port_interface.py` holds each to it.

BoardUnreachable         the board is away, hangs or does not let the agent in
├─ KeyRefused            the board does not know the agent's key
├─ HostKeyUnknown        nobody has said yet that the board may be trusted
└─ HostKeyChanged        what answers is another machine than the one that was trusted
PortWriteRefused         the board is there and refused to take a value
PortTransferFailed       the board is there and a file could not be put on it or fetched from it
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from benchfarm_agent.boards.interface import Cut
from benchfarm_core.errors import TransientDeviceError

OUTPUT_BYTES_MAX: Final = 2**24
"""The most that one command may say; a board that says more is held to babble."""
STDERR_TAIL_BYTES: Final = 4096
LAUNCH_LIMIT_S: Final = 3600.0


class BoardUnreachable(TransientDeviceError):
    """The board is away, does not answer in time or does not let the agent in; a later call may find it back."""


class HostKeyUnknown(BoardUnreachable):
    """The board's host key is in no known-hosts file: an operator has to trust it first."""


class HostKeyChanged(BoardUnreachable):
    """The board shows another host key than the one it was trusted with."""


class KeyRefused(BoardUnreachable):
    """The board does not let the agent's key in."""


class PortWriteRefused(TransientDeviceError):
    """The board did not take a value; the detail has its own words."""


class PortTransferFailed(TransientDeviceError):
    """A file could not be put on the board or fetched from it; the detail has the board's words (`No space left`)."""


@dataclass(frozen=True)
class Ran:
    """How a command on a board ended. `returncode` as a shell tells it: 128 + n for signal n."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class Streamed:
    """How a launch on a board ended.

    `returncode` as a shell tells it (128 + n for signal n), None when the launch was cut. `cut`: why it was ended,
    None when it ended by itself. `stderr_tail` is for people. `ran_s`: from its start to its end by the board's own
    clock, None where the board did not tell.
    """

    returncode: int | None
    cut: Cut | None
    stderr_tail: str = ""
    ran_s: float | None = field(default=None, compare=False)


class Port(Protocol):
    """How the agent reaches one board. Calls may run side by side; none takes longer than its limit and a little.

    Every call raises BoardUnreachable when the board is away or does not answer in time; the port stays usable and
    connects again by itself. Cancelling a call ends it on the board too. Paths are absolute paths of the board.
    """

    @property
    def name(self) -> str:
        """Names the board's address in messages, such as a serial or `host:port`."""

    async def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Ran:
        """Runs one command to its end. A return code other than 0 is no error.

        The port quotes `argv`: no word of it is ever read by a shell. What runs longer than `timeout_s` is ended on
        the board and raises BoardUnreachable, and so does a command that says more than `OUTPUT_BYTES_MAX`.
        """

    async def read(self, paths: Sequence[str], *, timeout_s: float = 5.0) -> dict[str, str | None]:
        """Small text files, all in one round trip, stripped; None for one that is absent, unreadable or no text.

        A file of which reading does not end is None too, as are those after it.
        """

    async def write(self, path: str, text: str, *, timeout_s: float = 5.0) -> None:
        """Writes a small text into an existing file, in one piece, without a newline.

        Raises PortWriteRefused with the board's words; a file that does not exist is not made.
        """

    async def push(self, local: Path, remote: str, *, mode: int = 0o644, timeout_s: float) -> None:
        """Puts a file on the board, whole or not at all; its folder is made. Raises PortTransferFailed."""

    async def pull(self, remote: str, local: Path, *, timeout_s: float) -> None:
        """Fetches a file from the board, whole or not at all. Raises PortTransferFailed."""

    async def stream(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes,
        on_line: Callable[[bytes], None],
        line_bytes_max: int,
        silence_s: float,
        lines_max: int,
        limit_s: float = LAUNCH_LIMIT_S,
    ) -> Streamed:
        """A launch: hands over each line of its standard output (without the newline) as it comes.

        It is cut ("silent") after `silence_s` without a line or `limit_s` in all, and ("garbage") by a line above
        `line_bytes_max` or by more than `lines_max` lines. The launch is a process group of its own: whatever ends
        this call, nothing of the group is left on the board when it has returned. Where the connection is lost the
        board ends the group by itself, as soon as it notices and at the latest after `limit_s`.
        """

    async def close(self) -> None:
        """Ends the connection and every call in progress. Harmless to repeat."""
