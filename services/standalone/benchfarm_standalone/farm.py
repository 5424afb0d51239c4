"""A whole farm on this machine, from nothing to ready and back: for ``benchfarm up``, and inside other programs."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchfarm_standalone.children import Service
from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.home import Home, HomeLock, no_home
from benchfarm_standalone.postgres import EmbeddedPostgres, embedded_postgres
from benchfarm_standalone.processes import cores_for_services
from benchfarm_standalone.programs_dir import programs_dir_path, remove_programs_dir
from benchfarm_standalone.settings import inherited
from benchfarm_standalone.socket_dir import postgres_socket_dir, private_socket_dir
from benchfarm_standalone.supervisor import RestartRule, Supervisor
from benchfarm_standalone.tree import Tree
from benchfarm_standalone.valkey import EmbeddedValkey, embedded_valkey

log = logging.getLogger("benchfarm.standalone")

DEFAULT_PORT = 8650
CALLS_WAITING = 2048
STARTER_POOL, NO_STARTER_POOL = "BENCHFARM_STARTER_POOL", "none"
DATABASE_SCHEMES = ("postgresql", "postgresql+psycopg2", "postgres")


class Farm:
    """The process tree of one home, as an asynchronous context manager: inside the block it is ready.

    Args:
        home: folder with all that the farm keeps; made when missing.
        port: of the API on loopback; 0 lets the kernel choose.
        local_board: run an agent that offers this machine as a board.
        database_url: a Postgres of one's own (18 or later) instead of the embedded one.
        env: more environment for every service.
        rule: when the dead are brought back; DESIGN's five deaths in 60 s by default.
        owns_orphans: see ``Supervisor``; only for a process that runs nothing but the farm.

    ``farm.json`` in the home always tells what runs: ``{url, pid, admin_token_file, services: {name: {pid, state,
    restarts}}}``. All methods raise FarmError.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int = DEFAULT_PORT,
        local_board: bool = True,
        database_url: str | None = None,
        env: Mapping[str, str] | None = None,
        rule: RestartRule | None = None,
        owns_orphans: bool = False,
    ) -> None:
        self.home = Home(home.expanduser().absolute())
        self._wanted_port = port
        self._local_board = local_board
        self._database_url = database_url
        self._env = dict(env or {})
        self._lock = HomeLock(self.home)
        self._listener: socket.socket | None = None
        self._socket_dir: Path | None = None
        self._tree: Tree | None = None
        self._supervisor = Supervisor(
            self.home.log_dir, rule=rule, owns_orphans=owns_orphans, on_change=self._write_state
        )

    @property
    def url(self) -> str:
        """Where the API answers."""
        return self._running_tree().url

    @property
    def admin_token(self) -> str:
        """The token of the farm's first administrator."""
        return self.home.admin_token_file.read_text().strip()

    @property
    def donors(self) -> list[str]:
        """Keys of the platforms that the starter pool lends; none where there is no such pool."""
        try:
            told = json.loads(self.home.starter_pool_file.read_text())
        except (OSError, ValueError):
            return []
        return [str(one) for one in told.get("donors", [])] if isinstance(told, dict) else []

    def pid(self, name: str) -> int:
        """Process id of ``postgres``, ``valkey``, ``api``, ``worker``, ``trainer`` or ``agent``."""
        child = self._supervisor.children.get(name)
        if child is None or child.pid is None:
            raise FarmError(f"no process called {name} runs in this farm")
        return child.pid

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> int:
        """Send a signal to the named process and return its process id."""
        pid = self.pid(name)
        os.kill(pid, signal_number)
        return pid

    async def start(self) -> None:
        """Bring everything up, or raise and leave nothing running."""
        try:
            await self._start()
        except BaseException:  # boundary: whatever ends the start, cancelled or failed, leaves nothing running
            await self.stop()
            raise

    async def wait(self) -> None:
        """Return when the farm was stopped; raise when it gave up. Giving up leaves the stopping to the caller."""
        await self._supervisor.wait()

    async def stop(self) -> None:
        """Stop everything in reverse order. Safe to call again."""
        await self._supervisor.stop()
        if self._listener is not None:
            self._listener.close()
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            remove_programs_dir(self.home.path)
        if self._tree is not None:
            self.home.state_file.unlink(missing_ok=True)
            self._tree = None
        self._lock.release()

    def hurry(self) -> None:
        """End all grace: what has not stopped yet is killed now."""
        self._supervisor.hurry()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        began_s = time.monotonic()
        if self._database_url:
            check_database_url(self._database_url)
        await self._settle_in()
        self._socket_dir = private_socket_dir(self.home.path)
        postgres = await self._postgres(self._socket_dir)
        valkey = embedded_valkey(self.home.valkey_dir, self._socket_dir)
        tree = self._tree = self._plan(postgres, valkey)
        servers: list[Service] = [valkey.service(), *([postgres.service()] if postgres else [])]
        await self._supervisor.start(*(self._with_socket_dir(tree.bound(server)) for server in servers))
        await self._supervisor.run_to_end(tree.migrate())
        if self._has_a_pool_to_take_in():
            await self._supervisor.run_to_end(tree.starter_pool())
        await self._supervisor.start(tree.api(), tree.worker(), tree.trainer())
        if self._local_board:
            await self._supervisor.start(tree.agent())
        log.info("the farm is ready after %.1f s", time.monotonic() - began_s)

    def _has_a_pool_to_take_in(self) -> bool:
        """Whether the step of the starter pool has anything to do: where none is wanted and none ever was, it would
        only say so, and take a second."""
        wanted = {**inherited(), **self._env}.get(STARTER_POOL)
        return wanted != NO_STARTER_POOL or self.home.starter_pool_file.exists()

    async def _settle_in(self) -> None:
        """Take home and port. A taken port makes no new home; in an old one "a farm runs here" is what helps more."""
        if not self.home.path.exists():
            self._listener = listen(self._wanted_port)
        self.home.make()
        await asyncio.to_thread(self._lock.take)
        self.home.state_file.unlink(missing_ok=True)  # what a killed supervisor left
        self._listener = self._listener or listen(self._wanted_port)

    async def _postgres(self, socket_dir: Path) -> EmbeddedPostgres | None:
        if self._database_url:
            return None
        try:
            return await asyncio.to_thread(
                embedded_postgres,
                self.home.postgres_dir,
                postgres_socket_dir(socket_dir),
                copies=programs_dir_path(self.home.path),
            )
        except OSError as error:
            raise no_home(self.home.postgres_dir, error) from error

    def _with_socket_dir(self, server: Service) -> Service:
        """The server, its folder made anew before each start: what cleans temporary directories may have removed it."""

        def prepare() -> None:
            private_socket_dir(self.home.path)
            server.prepare()

        return replace(server, prepare=prepare)

    def _plan(self, postgres: EmbeddedPostgres | None, valkey: EmbeddedValkey) -> Tree:
        assert self._listener is not None
        assert self._lock.inherited is not None
        env = {
            **self._env,
            "DATABASE_URL": postgres.database_url() if postgres else str(self._database_url),
            "REDIS_URL": valkey.redis_url(),
            "BENCHFARM_DATA_DIR": str(self.home.data_dir),
        }
        return Tree(
            home=self.home,
            port=self._listener.getsockname()[1],
            listening_fd=self._listener.fileno(),
            lock_fd=self._lock.inherited,
            shared_env=env,
            cores=cores_for_services(),
        )

    def _running_tree(self) -> Tree:
        if self._tree is None:
            raise FarmError("the farm does not run")
        return self._tree

    def _write_state(self) -> None:
        """Replace farm.json in one step. A full disk must not take the farm down: the file is for onlookers."""
        if self._tree is None:
            return
        unfinished = self.home.state_file.with_suffix(".new")
        with contextlib.suppress(OSError):
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(self._state(self._tree)))
            unfinished.replace(self.home.state_file)

    def _state(self, tree: Tree) -> dict[str, Any]:
        services = {
            name: {"pid": child.pid, "state": child.state.value, "restarts": child.restarts}
            for name, child in self._supervisor.children.items()
        }
        return {
            "url": tree.url,
            "pid": os.getpid(),
            "admin_token_file": str(self.home.admin_token_file),
            "services": services,
        }


def check_database_url(url: str) -> None:
    """Raises FarmError for what cannot be a Postgres. The address itself is never told: it may hold a password."""
    scheme, found, _ = url.partition("://")
    if not found:
        raise FarmError("--database-url (or DATABASE_URL) is no address: it must begin with postgresql://")
    if scheme not in DATABASE_SCHEMES:
        raise FarmError(f"--database-url (or DATABASE_URL) must begin with postgresql://, not {scheme[:40]}://")


def listen(port: int) -> socket.socket:
    """The API's socket, bound to loopback before anything is started. Raises FarmError when the port is taken."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=CALLS_WAITING)
    except OverflowError:
        raise FarmError(f"{port} is no port: choose one from 1 to 65535, or 0 for any") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FarmError(f"port {port} is in use: choose another with --port, or --port 0 for any") from error
        raise FarmError(f"cannot listen on port {port} ({error.strerror}): choose another with --port") from error
