"""An adb server of the tests' own: another port and another home than a developer's."""

import os
import shutil
import socket
import subprocess

import adbutils

from tests.peers.scratch import scratch_dir
from tests.peers.waiting import wait_until

CALL_S = 10.0


class PrivateAdb:
    """A running adb server, in the foreground of a process that ends with the thread that made it."""

    def __init__(self) -> None:
        self.home = scratch_dir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.home),
            # else it takes the emulators that a developer runs on this machine
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
        }
        argv = [adbutils.adb_path(), "-L", f"tcp:localhost:{self.port}", "server", "nodaemon"]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.client = adbutils.AdbClient(host="127.0.0.1", port=self.port, socket_timeout=CALL_S)

        # adbutils starts a server at the usual port when it meets none at this one, so never let it be the first
        try:
            wait_until(self._is_up, "the private adb server", CALL_S)
        except TimeoutError:
            self.end()
            raise

    def _is_up(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def connect(self, address: str) -> None:
        """Connects by address. Raises TimeoutError when that does not succeed soon."""
        wait_until(lambda: self._connects(address), lambda: f"{address}: {self.states()}", CALL_S)

    def _connects(self, address: str) -> bool:
        self.client.connect(address, timeout=CALL_S)
        return self.states().get(address) == "device"

    def states(self) -> dict[str, str]:
        """Serial to state of everything that the server knows."""
        return {device.serial: device.state for device in self.client.list()}

    def device(self, serial: str) -> adbutils.AdbDevice:
        return self.client.device(serial)

    def shell(self, serial: str, command: str, limit_s: float = CALL_S) -> adbutils.ShellReturn:
        """Runs shell text; its exit code, stdout and stderr apart."""
        return self.client.device(serial).shell2(command, v2=True, timeout=limit_s)

    def forget(self) -> None:
        """Disconnects everything that was connected by address."""
        self.client.disconnect("")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)
