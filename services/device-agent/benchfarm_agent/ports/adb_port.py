"""Phones and other boards with adbd, reached through the agent's own adb server."""

from typing import Final

from benchfarm_agent.ports.adb_protocol import AdbChannel, AdbRefused, AdbServerGone, open_adb_socket
from benchfarm_agent.ports.adb_server import AdbServer
from benchfarm_agent.ports.channel import Channel
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.ports.shell_port import ShellPort

_WHAT_TO_DO: Final = {
    "unauthorized": "it does not know this lab's key yet: unlock it and allow USB debugging",
    "authorizing": "it has not answered whether it knows this lab's key",
    "offline": "it is plugged in but does not answer: plug it in again or restart it",
    "no permissions": "this user may not open it: add a udev rule for its maker, or run the agent as another user",
}


class AdbPort(ShellPort):
    """One device of an adb server, by its serial. Its shell must speak the shell protocol (Android 7 or later)."""

    def __init__(self, server: AdbServer, serial: str) -> None:
        super().__init__(serial)
        self._server = server

    async def _open(self, command: str) -> Channel:
        try:
            socket = await open_adb_socket(self._server.port)
        except AdbServerGone as error:
            raise BoardUnreachable(f"{self.name} cannot be reached: {error}") from error
        try:
            await socket.request(f"host:transport:{self.name}")
            await socket.request(f"shell,v2,raw:{command}")
        except (AdbRefused, AdbServerGone) as error:
            socket.close()
            raise BoardUnreachable(f"{self.name} cannot be reached: {_reason(str(error))}") from error
        except BaseException:  # boundary: cancelled or not, the connection ends with the attempt
            socket.close()
            raise
        return AdbChannel(socket, self.name)


def _reason(words: str) -> str:
    """The server's reason as one line, with what to do about it."""
    advice = [what for state, what in _WHAT_TO_DO.items() if state in words]
    first = "".join(letter if letter.isprintable() else " " for letter in words.strip().partition("\n")[0])
    return "; ".join([first[:200], *advice[:1]])
