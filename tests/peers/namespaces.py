"""A process tree in namespaces of its own, and sockets made inside them."""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.peers.need import require_program, require_root
from tests.peers.waiting import wait_until

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
START_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    """Runs a shell script as process 1 of new mount, pid, net, uts and ipc namespaces, until `end`.

    The network is a loopback of its own and nothing else. The kernel ends the whole tree when the *thread* that
    started it ends, so also after SIGKILL of the session: start it from a thread that stays. Mounts end with the tree.
    Raises PeerMissing without root.
    """

    def __init__(self, script: str, *arguments: str, stdin: bytes, log_file: Path) -> None:
        require_root()
        dies_with_us = [require_program("setpriv"), "--pdeathsig", "KILL", "--"]
        unshare = [require_program("unshare"), *"--mount --pid --net --uts --ipc --fork --kill-child".split()]
        with log_file.open("ab") as log, _readable(stdin) as given:
            self._process = subprocess.Popen(
                [*dies_with_us, *unshare, "sh", "-c", script, "sh", *arguments],
                stdin=given,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.log_file = log_file
        self.init_pid, self._net = -1, -1
        try:
            self.init_pid = self._find_init()
            self._net = os.open(f"/proc/{self.init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._inside(_loopback_up).close()
        except BaseException:  # boundary: whatever happens, nothing stays running
            self.end()
            raise

    @property
    def root(self) -> Path:
        """Process 1's view of the file system, from here."""
        return Path(f"/proc/{self.init_pid}/root")

    def connect(self, port: int, limit_s: float = 3.0) -> socket.socket:
        """A connection to 127.0.0.1:port inside. Raises OSError."""
        return self._inside(lambda: socket.create_connection(("127.0.0.1", port), limit_s))

    def _inside(self, make: Callable[[], socket.socket]) -> socket.socket:
        """What `make` makes in the network inside: a socket stays in the namespace that it was made in."""
        made: list[socket.socket | OSError] = []

        def work() -> None:
            try:
                if _libc.setns(self._net, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=work, daemon=True)  # setns holds for a thread, so one that ends
        thread.start()
        thread.join()
        (found,) = made
        if isinstance(found, OSError):
            raise found
        return found

    def processes(self) -> list[int]:
        """Everything that runs inside but process 1, as this host numbers it."""
        pid_namespace = os.readlink(f"/proc/{self.init_pid}/ns/pid")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns" / "pid") == pid_namespace:
                    found.append(int(process.name))
        return [pid for pid in found if pid != self.init_pid]

    def kill(self, keep: frozenset[int] = frozenset()) -> None:
        """SIGKILL to everything inside but process 1, which sees its children end, and what is to be kept."""
        for pid in self.processes():
            if pid not in keep:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP to everything inside but process 1: what dies after it tidies nothing up, as without power."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def children_of_init(self, name: str) -> frozenset[int]:
        """Processes of this name that process 1 started, or inherited."""
        children = Path(f"/proc/{self.init_pid}/task/{self.init_pid}/children").read_text().split()
        return frozenset(int(pid) for pid in children if _name_of(pid) == name)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]

    def end(self) -> None:
        """Kills the tree and returns when all of it is gone; harmless when it has ended."""
        if self._net >= 0:
            os.close(self._net)
            self._net = -1
        if self.init_pid > 0 and self.is_running():
            os.kill(self.init_pid, signal.SIGKILL)  # the kernel ends all others inside before this one is reaped
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(START_S)
        self._process.kill()
        self._process.wait()

    def _find_init(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_until(lambda: bool(children.read_text()), lambda: f"namespaces: {self.said()}", START_S)
        return int(children.read_text())


def _loopback_up() -> socket.socket:
    """A socket of a network whose loopback it has switched on."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(made, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    return made


def _readable(content: bytes) -> IO[bytes]:
    """A file in memory alone, ready to be read."""
    file = os.fdopen(os.memfd_create("stdin"), "w+b")
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
