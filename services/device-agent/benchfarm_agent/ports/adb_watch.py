"""Which devices an adb server sees, told whenever it changes: how boards are found when they are plugged in."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from benchfarm_agent.ports.adb_protocol import AdbRefused, AdbServerGone, adb_socket
from benchfarm_agent.ports.adb_server import ASK_S, AdbServer, parse_devices

AGAIN_S: Final = 0.1


@dataclass(frozen=True)
class AdbDevice:
    """A device as the server lists it; only in state `device` can it be used.

    Others are `unauthorized`, `authorizing`, `offline`, `no permissions`, `recovery`, `bootloader`. A serial that
    is there twice is there twice: two phones of one cheap model.
    """

    serial: str
    state: str

    @property
    def is_ready(self) -> bool:
        return self.state == "device"


async def watch(server: AdbServer) -> AsyncIterator[list[AdbDevice]]:
    """All devices, at first and after each change, without end.

    When the server dies its devices are gone, and they come back with it.
    """
    last: list[AdbDevice] | None = None
    while True:
        try:
            async with adb_socket(server.port) as socket:
                async with asyncio.timeout(ASK_S):
                    await socket.request("host:track-devices")
                while True:
                    text = (await socket.block()).decode(errors="replace")
                    devices = [AdbDevice(serial, state) for serial, state in parse_devices(text)]
                    if devices != last:
                        last = devices
                        yield devices
        except (AdbRefused, AdbServerGone, TimeoutError):
            if last:
                last = []
                yield []
        await asyncio.sleep(AGAIN_S)
