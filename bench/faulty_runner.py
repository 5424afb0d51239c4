"""A runner with a fault in it: the real runner and the real engine, started in the place of an agent's own command.

Which fault, and what it meets, stands in a plan, a JSON file that the bench writes and removes; without one this is the
runner as it is. What the fault did is said in a file beside it, which is opened before the cage closes: so what a table
tells of a fault was seen from inside the process that had it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn

from benchfarm_engines import registry, runner

ROOT = Path(__file__).resolve().parents[1]
START = """
import sys
sys.path.append({root!r})
from bench.faulty_runner import main
sys.path.remove({root!r})
main({plan!r})
"""
DEED_IN_RUN: Final = 3
"""A workload's run that the fault meets: behind the gate's, while it warms up or is timed."""
DAY_S: Final = 86_400.0
MIB: Final = 2**20
SCRATCH_KIB: Final = 64
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Plan:
    """fault: a key of `DEEDS`. shape: of an input of the workload that meets it. said: where it says what it did."""

    fault: str
    shape: tuple[int, ...]
    said: str

    def write(self, path: Path) -> None:
        """To be met by the next launch."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)))
        part.rename(path)


def command(plan: Path) -> list[str]:
    """Starts a runner that looks for a plan at a path; an agent adds its own words."""
    return [sys.executable, "-I", "-c", START.format(root=str(ROOT), plan=str(plan))]


def main(plan_path: str) -> NoReturn:
    """Runs a launch or a probe, and ends the process as the runner does."""
    plan = _read(Path(plan_path))
    if plan is not None and len(sys.argv) == 1:  # a probe is told the truth
        _plant(plan)
    os._exit(runner.main(sys.argv[1:]))


def _read(path: Path) -> Plan | None:
    try:
        told = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return Plan(told["fault"], tuple(told["shape"]), told["said"])


def _plant(plan: Plan) -> None:
    say = _Said(Path(plan.said))
    if plan.fault == "clock":
        step_the_clock(say, say.lines)
    elif plan.fault == "full_disk":
        mount_small_scratch(say)
    load = registry.load_engine

    def load_with_fault(name: str) -> Any:
        return _Engine(load(name), plan, say)

    registry.load_engine = load_with_fault


class _Said:
    """Lines in a file that is open before the process may open no more. lines: those of earlier processes."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.lines = len(path.read_text().splitlines())

    def __call__(self, text: str) -> None:
        os.write(self._file, text.encode() + b"\n")


class _Engine:
    """The engine, whose sessions of one workload have the fault."""

    def __init__(self, engine: Any, plan: Plan, say: _Said) -> None:
        self._engine = engine
        self._plan = plan
        self._say = say

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def open(self, request: Any) -> Any:
        session = self._engine.open(request)
        shapes = {tuple(array.shape) for array in request.inputs.values()}
        if request.beside_another or self._plan.shape not in shapes:  # beside another: a canary
            return session
        return _Session(session, self._plan.fault, lambda: self._engine.open(request), self._say)


class _Session:
    """A session that does its deed once."""

    def __init__(self, session: Any, fault: str, open_again: Callable[[], Any], say: _Said) -> None:
        self._session = session
        self._fault = fault
        self._open_again = open_again
        self._say = say
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self) -> None:
        self._runs += 1
        if self._runs == DEED_IN_RUN:
            DEEDS[self._fault](self._say, self._open_again)
        self._session.run()

    def outputs(self) -> Any:
        found = self._session.outputs()
        if self._fault != "wrong_output":
            return found
        self._say("added 1 to every output")
        return [output + 1 for output in found]


Deed = Callable[[_Said, Callable[[], Any]], None]


def _nothing(_say: _Said, _open_again: Callable[[], Any]) -> None:
    """The fault is elsewhere: in the outputs, or in the clock."""


def _segfault(say: _Said, _open_again: Callable[[], Any]) -> None:
    say("read address 0")
    ctypes.string_at(0)


def _hang(say: _Said, _open_again: Callable[[], Any]) -> None:
    say("sleeps")
    while True:
        time.sleep(3600)  # wait: the runner's own alarm ends it


def _native_hang(say: _Said, _open_again: Callable[[], Any]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    say("waits for a signal that cannot come")
    while True:
        libc.pause()


def _out_of_memory(say: _Said, _open_again: Callable[[], Any]) -> None:
    held: list[bytes] = []
    try:
        _take_all(held)
    except MemoryError:
        taken = _taken(held)
        held.clear()  # to say it takes some, too
        say(taken)
        raise


def _engine_out_of_memory(say: _Said, open_again: Callable[[], Any]) -> None:
    held: list[bytes] = []
    try:
        _take_all(held)
    except MemoryError:
        say(_taken(held))
    sessions = []
    while True:  # each takes some of what is left, in the engine's own code
        sessions.append(open_again())


def _take_all(held: list[bytes]) -> NoReturn:
    """Address space, which is what the cage limits, in pieces of 64 MiB and then of 1, until the kernel gives no more.
    Untouched, so that the rest of the machine keeps its memory. Raises MemoryError."""
    for piece_bytes in (64 * MIB, MIB):
        while True:
            try:
                held.append(bytes(piece_bytes))
            except MemoryError:
                break
    held.pop()  # room for what has to be said, and for the first thing that the engine wants
    raise MemoryError


def _taken(held: list[bytes]) -> str:
    limit_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
    return f"the kernel refused more behind {sum(map(len, held)) // MIB} MiB of the cage's {limit_bytes // MIB} MiB"


def _garbage(say: _Said, _open_again: Callable[[], Any]) -> None:
    """Into the runner's own way out, which it has taken from descriptor 1."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:"):
            os.write(descriptor, b"\x00\xff no line\n")
            say("wrote bytes that are no line into the runner's pipe")


def _chatter(say: _Said, _open_again: Callable[[], Any]) -> None:
    libc.puts(b'{"event":"done","visit":1,"outcome":"ok"}')
    libc.fflush(None)
    say("printed a result's line from native code")


def _full_disk(say: _Said, _open_again: Callable[[], Any]) -> None:
    target = Path(os.environ["HOME"]) / "scratch"  # environment: where the launch's scratch folder is
    try:
        target.write_bytes(bytes(MIB))
    except OSError as error:
        say(f"{error.strerror} behind {target.stat().st_size // 1024} KiB")
        raise


DEEDS: Final[Mapping[str, Deed]] = {
    "segfault": _segfault,
    "hang": _hang,
    "native_hang": _native_hang,
    "out_of_memory": _out_of_memory,
    "engine_out_of_memory": _engine_out_of_memory,
    "wrong_output": _nothing,
    "garbage": _garbage,
    "chatter": _chatter,
    "clock": _nothing,
    "full_disk": _full_disk,
}


def step_the_clock(say: Callable[[str], None], looks: int = 0) -> None:
    """Every look of this process at the wall clock sees another day: one ahead, one behind, in turn. looks: how many
    there were before, for most processes look once."""
    real, number = time.clock_gettime, count(looks)

    def stepped_s() -> float:
        offset_s = DAY_S if next(number) % 2 == 0 else -DAY_S
        say(f"saw the wall clock {offset_s:+.0f} s off")
        return real(time.CLOCK_REALTIME) + offset_s

    time.time = stepped_s
    time.time_ns = lambda: int(stepped_s() * 1e9)
    time.clock_gettime = lambda clock: stepped_s() if clock == time.CLOCK_REALTIME else real(clock)


def mount_small_scratch(say: Callable[[str], None]) -> None:
    """A disk of 64 KiB over the launch's scratch folder, in mounts of this process's own. Raises OSError."""
    home = os.environ["HOME"]  # environment: where the launch's scratch folder is
    as_root, uid, gid = os.geteuid() == 0, os.getuid(), os.getgid()
    _must(libc.unshare(CLONE_NEWNS if as_root else CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    if not as_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _must(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    options = f"size={SCRATCH_KIB}k,mode=1777".encode()
    _must(libc.mount(b"tmpfs", home.encode(), b"tmpfs", 0, options), "mount")
    seen = os.statvfs(home)
    say(f"its scratch disk has {seen.f_blocks * seen.f_frsize // 1024} KiB")


def _must(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
