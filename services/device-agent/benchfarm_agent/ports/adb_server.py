"""The agent's own adb server: its port, its keys, its environment; never the one that a user of this host runs."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchfarm_agent.ports.adb_protocol import AdbRefused, AdbServerGone, ask_adb
from benchfarm_agent.processes import kill_group, start_child
from benchfarm_core.errors import InvalidRequest, Unavailable

ASK_S: Final = 5.0
START_S: Final = 10.0
PORTS_TRIED: Final = 5
BACK_OFF_S: Final = (0.1, 10.0)
"""The first and the longest pause before a server that died is started again."""
CALM_S: Final = 60.0
"""A server that lived so long dies of something new."""
CONNECT_EVERY_S: Final = 0.5
CONNECT_S: Final = 10.0
OFFLINE_MAX: Final = 10
"""Looks at a network device that stays offline before it is dropped and connected anew."""

USB_BUS: Final = Path("/dev/bus/usb")

logger = logging.getLogger(__name__)


class AdbServer:
    """One adb server. It keeps its keys in `folder`, which is its home and nobody else's to read.

    It is there from `start` to `close`; when it dies it comes back, on the same port, after a pause that grows. The
    kernel ends it when the agent's process ends.
    """

    def __init__(self, folder: Path, *, adb: Path | None = None) -> None:
        """adb: the program; by default that of adbutils, else the one on the PATH."""
        self._folder = folder
        self._adb = adb
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._listening: set[asyncio.Task[None]] = set()
        self._connecting: dict[str, asyncio.Task[None]] = {}

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1 alone."""
        return self._port

    @property
    def pid(self) -> int | None:
        """The process while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it and waits until it answers. Raises InvalidRequest where there is no adb, Unavailable, OSError."""
        self._adb = self._adb or find_adb()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        await self._launch()
        self._keeping = asyncio.ensure_future(self._keep())

    async def close(self) -> None:
        """Ends it. Harmless to repeat."""
        tasks = [*self._connecting.values(), *([self._keeping] if self._keeping else [])]
        self._connecting, self._keeping = {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end()

    async def restart(self) -> None:
        """Ends it and waits until the next one answers: all its devices go and come back. Raises Unavailable."""
        if self._process is not None:
            kill_group(self._process.pid)
            await self._process.wait()
        deadline = asyncio.get_running_loop().time() + START_S + BACK_OFF_S[1]
        while self.pid is None or not await self._answers():
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable("the adb server does not come back")
            await asyncio.sleep(0.05)

    async def ask(self, service: str, *, timeout_s: float = ASK_S) -> str:
        """The answer of one of the server's own services, such as `host:version`.

        Raises Unavailable when it does not answer or refuses.
        """
        try:
            return await ask_adb(self._port, service, timeout_s=timeout_s)
        except (AdbRefused, AdbServerGone, TimeoutError) as error:
            raise Unavailable(f"the adb server did not serve {service}: {error}") from error

    async def states(self) -> list[tuple[str, str]]:
        """Serial and state of each device, as the server lists them. Raises Unavailable."""
        return parse_devices(await self.ask("host:devices"))

    def keep_connected(self, addresses: Iterable[str]) -> None:
        """From now on these devices in the network (`host:port`, which is their serial too) and no others."""
        wanted = set(addresses)
        for address in set(self._connecting) - wanted:
            self._connecting.pop(address).cancel()
        for address in wanted - set(self._connecting):
            self._connecting[address] = asyncio.ensure_future(self._stay_connected(address))

    async def _stay_connected(self, address: str) -> None:
        offline = 0
        try:
            while True:
                with contextlib.suppress(Unavailable):
                    state = dict(await self.states()).get(address)
                    offline = offline + 1 if state == "offline" else 0
                    if offline > OFFLINE_MAX:
                        await self.ask(f"host:disconnect:{address}")
                    elif state is None:
                        await self.ask(f"host:connect:{address}", timeout_s=CONNECT_S)
                await asyncio.sleep(CONNECT_EVERY_S)
        finally:
            if self._keeping is not None:  # not wanted any more, while the server goes on
                with contextlib.suppress(Unavailable):
                    await self.ask(f"host:disconnect:{address}", timeout_s=1.0)

    async def _keep(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), BACK_OFF_S[0]
        while True:
            began_s = loop.time()
            if self._process is not None:
                await self._process.wait()
            if loop.time() - began_s > CALM_S:
                pause_s = BACK_OFF_S[0]
            logger.warning("the adb server is gone; starting it again in %.1f s", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACK_OFF_S[1])
            try:
                await self._launch()
            except (OSError, Unavailable) as error:
                logger.warning("the adb server does not start: %s", error)

    async def _launch(self) -> None:
        for _ in range(PORTS_TRIED):
            self._port = self._port or _free_port()
            if await self._begin():
                return
            self._port = 0
        raise Unavailable("the adb server does not start: no port, or a program that does not run on this host")

    async def _begin(self) -> bool:
        """Whether a server started now answers on its port."""
        assert self._adb is not None
        await self._end()
        argv = [str(self._adb), "-P", str(self._port), "nodaemon", "server"]
        process = await start_child(argv, env=_environment(self._folder), folder=self._folder)
        self._process = process
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            task = asyncio.ensure_future(_log(stream))
            self._listening.add(task)
            task.add_done_callback(self._listening.discard)
        deadline = asyncio.get_running_loop().time() + START_S
        while process.returncode is None and asyncio.get_running_loop().time() < deadline:
            if await self._answers():
                return True
            await asyncio.sleep(0.02)
        await self._end()
        return False

    async def _answers(self) -> bool:
        try:
            await ask_adb(self._port, "host:version", timeout_s=ASK_S)
        except (AdbRefused, AdbServerGone, TimeoutError):
            return False
        return True

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            kill_group(process.pid)
            await process.wait()


def find_adb() -> Path:
    """The adb program that came with adbutils, else the one on the PATH. Raises InvalidRequest."""
    spec = importlib.util.find_spec("adbutils")  # importing it would import what it needs for pictures
    if spec is not None and spec.origin is not None:
        shipped = Path(spec.origin).parent / "binaries" / "adb"
        if os.access(shipped, os.X_OK):
            return shipped
    if found := shutil.which("adb"):
        return Path(found)
    raise InvalidRequest("boards over adb need the program `adb`: install the package of that name", field="adb")


def parse_devices(text: str) -> list[tuple[str, str]]:
    """Serial and state of each line; a state's explanation (`no permissions (missing udev rules?)`) is left out."""
    lines = (line.partition("\t") for line in text.splitlines() if "\t" in line)
    return [(serial, state.partition("(")[0].partition(";")[0].strip()) for serial, _, state in lines]


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the agent's. Devices that announce themselves in the network, and emulators, are left alone."""
    # On a host without USB, libusb would hold each start up for 3 s; adb's older code waits for a bus in silence.
    usb = {} if USB_BUS.exists() else {"ADB_LIBUSB": "0"}
    return usb | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "ADB_MDNS": "0",
        "ADB_MDNS_AUTO_CONNECT": "0",
        "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _log(stream: asyncio.StreamReader) -> None:
    """What the server says about itself must be read, or it would stop."""
    while part := await stream.read(2**12):
        logger.debug("adb: %s", part.decode(errors="replace").strip())
