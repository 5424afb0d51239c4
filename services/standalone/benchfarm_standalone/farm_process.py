"""``benchfarm up`` as a child process, for synchronous programs: tests, chaos and bench use the people's own farm."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from benchfarm_standalone.children import Service
from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.farm import NO_STARTER_POOL, STARTER_POOL
from benchfarm_standalone.home import Home
from benchfarm_standalone.postgres import socket_url
from benchfarm_standalone.settings import inherited
from benchfarm_standalone.socket_dir import postgres_socket_dir, socket_dir_path

READY_WITHIN_S = 120
STOPS_WITHIN_S = 60
POLL_S = 0.02
LONGEST_WORDS_BYTES = 65536


class FarmProcess:
    """A farm in a process of its own, as a context manager: inside the block it is ready. Its boards run no golden
    suite, and it takes in no starter pool, unless the environment says so.

    Args:
        home: folder with all that the farm keeps.
        port: of the API on loopback; 0 lets the kernel choose.
        local_board: run an agent that offers this machine as a board.
        env: more environment for the farm and every service in it.
        preface: words put before the command, such as ``("taskset", "-c", "0")``.

    Raises FarmError with what the farm said last when it does not come up. The farm stops when the thread that started
    it ends, however that happens.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int = 0,
        local_board: bool = True,
        env: Mapping[str, str] | None = None,
        preface: tuple[str, ...] = (),
    ) -> None:
        self.home = Home(home.absolute())
        boards = "local" if local_board else "none"
        program = (*preface, sys.executable, "-m", "benchfarm_standalone")
        self._argv = (*program, "--home", str(self.home.path), "--port", str(port), "--boards", boards)
        # A database of the caller's own is used when it is meant for this farm, not because it happens to be set.
        own = {name: value for name, value in inherited().items() if name != "DATABASE_URL"}
        # The suite that looks after boards would measure beside what the caller has measured.
        self._env = {"BENCHFARM_GOLDEN_EVERY_S": "0", STARTER_POOL: NO_STARTER_POOL, **own, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def supervisor_pid(self) -> int:
        """Process id of ``benchfarm up`` itself."""
        return int(self._running().pid)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return str(self.state()["url"])

    @property
    def admin_token(self) -> str:
        """The token of the farm's first administrator."""
        return self.home.admin_token_file.read_text().strip()

    @property
    def database_url(self) -> str:
        """The farm's Postgres, for tools that look at what it wrote down."""
        own = socket_url(postgres_socket_dir(socket_dir_path(self.home.path)))
        return self._env.get("DATABASE_URL", own)

    @property
    def log_file(self) -> Path:
        """What the supervisor says; each service has a file of its own beside it."""
        return self.home.log_dir / "supervisor.log"

    def state(self) -> dict[str, Any]:
        """What runs now: see ``Farm``. Raises FarmError when nothing does."""
        try:
            return cast(dict[str, Any], json.loads(self.home.state_file.read_text()))
        except OSError as error:
            raise FarmError(f"no farm runs in {self.home.path}") from error

    def pid(self, name: str) -> int:
        """Process id of ``postgres``, ``valkey``, ``api``, ``worker``, ``trainer`` or ``agent``."""
        pid = self.state()["services"].get(name, {}).get("pid")
        if pid is None:
            raise FarmError(f"no process called {name} runs in this farm")
        return int(pid)

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> int:
        """Send a signal to the named process and return its process id."""
        pid = self.pid(name)
        os.kill(pid, signal_number)
        return pid

    def wait_until_back(self, name: str, old_pid: int, limit_s: float = 60) -> int:
        """Wait until the named process is another one than ``old_pid`` and ready; returns its process id."""
        give_up_at_s = time.monotonic() + limit_s
        while time.monotonic() < give_up_at_s:
            self._raise_if_ended()
            service = self.state()["services"].get(name, {})
            if service.get("state") == "ready" and service.get("pid") not in (None, old_pid):
                return int(service["pid"])
            time.sleep(POLL_S)
        raise FarmError(f"{name} was not back within {limit_s:g} s")

    def start(self) -> None:
        """Bring the farm up."""
        self.home.make()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                Service("up", self._argv).launch_argv(),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._wait_until_told()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop the farm and return its exit status; safe to call again."""
        process = self._running()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal_number)
        try:
            return process.wait(STOPS_WITHIN_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise FarmError("the farm was not started")
        return self._process

    def _raise_if_ended(self) -> None:
        code = self._running().poll()
        if code is not None:
            raise FarmError(f"the farm ended with {code}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _wait_until_told(self) -> None:
        """Wait for the farm's first words on stdout, which it says when it is ready."""
        process = self._running()
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], READY_WITHIN_S)
        if not ready:
            self.stop(signal.SIGKILL)
            raise FarmError(f"the farm was not ready within {READY_WITHIN_S} s: {self._last_words()}")
        if not os.read(process.stdout.fileno(), LONGEST_WORDS_BYTES):
            raise FarmError(f"the farm ended with {self.stop()}: {self._last_words()}")
