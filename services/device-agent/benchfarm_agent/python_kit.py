"""The Python runner as one archive: our own modules, numpy and engines for one interpreter, and a list of all hashes.

    start.py                 holds the board's lock, puts `packages` before everything else and runs the runner
    packages/                benchfarm_core, benchfarm_engines, numpy, engines
    CHECK                    `sha256sum` lines of what is looked at again at each lease

What is the agent's own kind of interpreter gets the agent's own packages. For another the packages of the engines'
lists are fetched with their hashes, by the agent's own pip: the board needs no network. Engines and numpy have left
Python 3.9 and 3.10 behind, which boards still have: those get the last versions that had them, from lists of their own.
"""

import contextlib
import gzip
import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Final

from benchfarm_agent.engine_installing import LOCKS, OURS
from benchfarm_agent.files import write_whole
from benchfarm_agent.makers import made_by
from benchfarm_core.errors import BenchfarmError
from benchfarm_core.values import digest

FORMAT: Final = 2
OLDEST: Final = 9
"""The oldest Python 3 that runs the runner; `tests/engines/test_board_side.py` holds its modules to it."""
_PRESENT: Final = 11
_OLDER: Final = "python3.9"
"""The folder of the lists for what is older than the present ones."""
CHECKED_BYTES_MAX: Final = 2**20
"""Larger files are libraries of others: reading all of them takes a small board seconds at each lease."""
FETCH_S: Final = 600.0
_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)")
_LEFT_OUT: Final = frozenset({"__pycache__", "tests"})
_DISTRIBUTIONS: Final = {"litert": "ai-edge-litert"}
"""The packages of engines that have another name than their engine."""
_START: Final = """\
import fcntl
import json
import os
import runpy
import sys


def take_lock(path, lease):
    # held for as long as this process lives; the kernel lets go of it, so a file that nobody holds is stale
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError("another runner holds this board's lock: " + os.pread(held, 200, 0).decode("utf-8", "replace"))
    try:
        with open(lease) as file:
            words = file.read(200).split()
    except FileNotFoundError:
        words = []  # run by hand
    os.ftruncate(held, 0)
    os.pwrite(held, " ".join([str(os.getpid()), *words[:2]]).encode() + b"\\n", 0)


if sys.argv[1:2] == ["--lock"]:
    try:
        take_lock(sys.argv[2], sys.argv[3])
    except OSError as error:
        print(json.dumps({"event": "failed", "code": "engine_unavailable", "detail": " ".join(str(error).split())}))
        sys.exit(3)
    del sys.argv[1:4]

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "packages"))
runpy.run_module("benchfarm_engines.runner", run_name="__main__", alter_sys=True)
"""


class CannotPack(BenchfarmError):
    """The runner for an interpreter cannot be made here; the text says why and what to do."""

    default_code = "device_permanent"


@dataclass(frozen=True)
class Interpreter:
    """A Python on a board: its path there, its version such as 3.11, its machine and its C library."""

    path: str
    version: str
    machine: str
    libc: str

    @classmethod
    def of(cls, line: str) -> "Interpreter | None":
        """From ``/usr/bin/python3 3.11 aarch64 glibc``; None for anything else."""
        words = line.split()
        if len(words) != 4 or not words[0].startswith("/") or not re.fullmatch(r"3\.[0-9]{1,2}", words[1]):
            return None
        return cls(*words) if re.fullmatch(r"[a-z0-9_]{1,20}", words[2]) else None

    @property
    def minor(self) -> int:
        return int(self.version.partition(".")[2])

    @property
    def is_usable(self) -> bool:
        return self.minor >= OLDEST and self.libc == "glibc"

    @property
    def is_like_ours(self) -> bool:
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (self.version, self.machine) == (own, platform.machine()) and platform.libc_ver()[0] == "glibc"


@dataclass(frozen=True)
class Archive:
    """A packed runner, and the hash of its list of hashes, by which a board's copy is known."""

    path: Path
    check_sha256: str


def packed(folder: Path, interpreter: Interpreter, engines: tuple[str, ...]) -> Archive:
    """The archive below `folder`, made where it is not there yet. Raises CannotPack, OSError."""
    locks = [_lock(name, interpreter) for name in engines]
    made = [made_by("benchfarm_engines"), _core_digest(), *(lock.read_text() for lock in locks)]
    name = f"python-{digest([FORMAT, interpreter.version, interpreter.machine, engines, made], length=20)}"
    path, check = folder / f"{name}.tar.gz", folder / f"{name}.sha256"
    with contextlib.suppress(FileNotFoundError):
        if path.exists():
            return Archive(path, check.read_text())
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree = Path(scratch) / "kit"
        _fill(tree, interpreter, locks)
        check_text = _check_list(tree)
        (tree / "CHECK").write_text(check_text)
        _pack(tree, Path(scratch) / "kit.tar.gz")
        check_sha256 = hashlib.sha256(check_text.encode()).hexdigest()
        write_whole(check, check_sha256.encode())
        os.replace(Path(scratch) / "kit.tar.gz", path)
    return Archive(path, check_sha256)


def packages_below(
    tree: Path, interpreter: Interpreter, engines: tuple[str, ...], besides: Iterable[Path] = ()
) -> None:
    """The runner and its packages in a folder, with those of further lists. Raises CannotPack, OSError."""
    _fill(tree, interpreter, [*(_lock(name, interpreter) for name in engines), *besides])


def locked_version(engine: str, interpreter: Interpreter) -> str:
    """The version of an engine that such an interpreter gets. Raises CannotPack."""
    pins = [match for line in _lock(engine, interpreter).read_text().splitlines() if (match := _PIN.match(line))]
    return next(pin[2] for pin in pins if pin[1] == _DISTRIBUTIONS.get(engine, engine))


def _lock(engine: str, interpreter: Interpreter) -> Path:
    folder = LOCKS if interpreter.minor >= _PRESENT else LOCKS / _OLDER
    lock = folder / f"{engine}.txt"
    if not re.fullmatch(r"[a-z0-9_]+", engine) or not lock.exists():
        have = ", ".join(sorted(path.stem for path in folder.glob("*.txt")))
        which = f"{engine} on Python {interpreter.version}"
        raise CannotPack(f"there is no list of packages for {which}: the engines of such a board are among {have}")
    return lock


def _core_digest() -> str:
    return digest(
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(_own("benchfarm_core").glob("*.py"))]
    )


def _own(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent


def _fill(tree: Path, interpreter: Interpreter, locks: Iterable[Path]) -> None:
    packages = tree / "packages"
    packages.mkdir(parents=True)
    (tree / "start.py").write_text(_START)
    for name in OURS:
        own = _own(name)
        for path in own.glob("*.py"):
            _copy(path, packages / name / path.name)
    for lock in locks:
        ours = _distributions(lock) if interpreter.is_like_ours else None
        if ours is None:
            _fetch(lock, interpreter, packages)
        else:
            for one in ours:
                _copy_distribution(one, packages)


def _distributions(lock: Path) -> list[Distribution] | None:
    """The agent's own packages of a list; None where one is missing or of another version."""
    pins = [match for line in lock.read_text().splitlines() if (match := _PIN.match(line))]
    try:
        found = [distribution(pin[1]) for pin in pins]
    except PackageNotFoundError:
        return None
    same = all(one.version == pin[2] and one.files for one, pin in zip(found, pins, strict=True))
    return found if same else None


def _copy_distribution(one: Distribution, packages: Path) -> None:
    for file in one.files or ():
        if ".." not in file.parts and not _LEFT_OUT.intersection(file.parts[:-1]):
            _copy(Path(str(one.locate_file(file))), packages / str(file))


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(source, target)


def _fetch(lock: Path, interpreter: Interpreter, packages: Path) -> None:
    """Packages for another interpreter, with their hashes. Raises CannotPack."""
    if find_spec("pip") is None:
        raise CannotPack("the agent's own environment has no pip: `python -m ensurepip` brings it")
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    argv += ["--target", str(packages), "--only-binary", ":all:", "--implementation", "cp", "--upgrade"]
    argv += ["--python-version", interpreter.version, *_platforms(interpreter.machine)]
    try:
        done = subprocess.run(
            [*argv, "--require-hashes", "--requirement", str(lock)],
            capture_output=True,
            text=True,
            check=False,
            timeout=FETCH_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotPack(f"the packages for {lock.stem} did not come within {FETCH_S:.0f} s") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "WARNING" not in line]
        detail = f"{lock.stem} for Python {interpreter.version} on {interpreter.machine} cannot be had: "
        raise CannotPack(detail + " ".join(said[-2:])[:300])


def _platforms(machine: str) -> list[str]:
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(39, 16, -1)] + [f"manylinux2014_{machine}"]
    return [word for tag in tags for word in ("--platform", tag)]


def _check_list(tree: Path) -> str:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n"
        for path in _files(tree)
        if path.stat().st_size <= CHECKED_BYTES_MAX and path.suffix in (".py", ".so")
    ]
    return "".join(lines)


def _pack(tree: Path, target: Path) -> None:
    """The same bytes for the same files."""
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for path in _files(tree):
            entry = tarfile.TarInfo(str(path.relative_to(tree)))
            entry.size, entry.mode = path.stat().st_size, 0o644
            tar.addfile(entry, io.BytesIO(path.read_bytes()))


def _files(tree: Path) -> Iterator[Path]:
    return iter(sorted(path for path in tree.rglob("*") if path.is_file()))
