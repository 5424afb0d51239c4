"""One command that runs on a board, as both adb and SSH know it: bytes in, bytes out, a return code."""

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Said:
    """What a command wrote to one of its outputs."""

    source: Literal["stdout", "stderr"]
    data: bytes


class Channel(Protocol):
    """One command. Both directions may be used at once, each by one task."""

    async def send(self, data: bytes) -> None:
        """Gives bytes to its standard input; waits while the board is slow. Raises BoardUnreachable."""

    async def end_input(self) -> None:
        """Nothing more will be sent; what it says can still be heard. Harmless to repeat. Raises BoardUnreachable."""

    async def hear(self) -> Said | int:
        """What it says next, or its return code, which is the last thing. Raises BoardUnreachable when it is lost."""

    def close(self) -> None:
        """Ends the connection, and by that the command. Harmless to repeat."""
