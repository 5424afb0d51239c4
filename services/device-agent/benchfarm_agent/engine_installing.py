"""Environments of engines, made whole or not at all: a folder gets its name only when the engine in it has answered."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Final

from benchfarm_agent.engine_probe import probe_engine
from benchfarm_agent.files import DISK_FULL_ERRNOS, sync_folder
from benchfarm_core.boards import EngineReport
from benchfarm_core.errors import BenchfarmError, Conflict, InvalidRequest, NotFound
from benchfarm_engines.launch import launch_environment, runner_argv
from benchfarm_engines.registry import engine_names

LOCKS: Final = Path(__file__).with_name("locks")
OURS: Final = ("benchfarm_core", "benchfarm_engines")
"""What a runner and a converting child import. Linked, so that a newer agent finds its own there."""
NO_LIST: Final = (
    "there is no list with hashes for {name}: make an environment with it yourself (for torch: `pip install"
    " torch==2.13.0 numpy onnx`) and name its interpreter with --packages-of"
)
_WHERE: Final = """
import json, os, sys, sysconfig
standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
standard |= {os.path.join(each, "lib-dynload") for each in standard}
folders = [each for each in sys.path if os.path.isdir(each) and each not in standard]
print(json.dumps([list(sys.version_info[:2]), folders]))
"""
_ASK_S: Final = 30.0
_SHOWN_CHARS: Final = 300


class CannotInstall(BenchfarmError):
    """An environment could not be made; nothing of it is left. The text says why and what to do."""


def add(folder: Path, name: str, *, packages_of: Path | None = None) -> EngineReport:
    """Makes the engine's environment below `folder`; what the engine says about itself there.

    packages_of: an interpreter that has the engine already; its packages are used where they are. Raises InvalidRequest
    for an unknown engine or interpreter, Conflict where the environment exists or another is being made, CannotInstall.
    """
    lock = LOCKS / f"{known(name)}.txt"
    if packages_of is None and not lock.exists():
        raise InvalidRequest(NO_LIST.format(name=name), field="name")
    with _whole_or_nothing(folder, name) as part:
        venv.create(part, with_pip=False, symlinks=True)
        site = next(part.glob("lib/python*/site-packages"))
        if packages_of is None:
            _install(part, lock)
        else:
            (site / "packages-of.pth").write_text("".join(f"{path}\n" for path in _packages(packages_of)))
        _link_ours(site)
        report = _probed(name, part)
        why = _why_no_files(name, part) if report.available else report.reason
        if why:
            raise CannotInstall(f"{name} was installed and does not work here: {why}")
    return report


def remove(folder: Path, name: str) -> None:
    """Removes an environment. Raises InvalidRequest, NotFound, OSError."""
    path = folder / known(name)
    if not path.is_dir():
        raise NotFound(f"{name} has no environment of its own", field="name")
    part = folder / f".{name}.{secrets.token_hex(4)}"
    path.rename(part)  # from here on it is not used, whatever happens to the rest
    rmtree(part)


def known(name: str) -> str:
    """The name of an engine of the registry. Raises InvalidRequest."""
    if name not in engine_names():
        raise InvalidRequest(f"there is no engine {name[:60]!r}; there are {', '.join(engine_names())}", field="name")
    return name


def size_bytes(folder: Path) -> int:
    """What an environment takes on the disk."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))


@contextlib.contextmanager
def _whole_or_nothing(folder: Path, name: str) -> Iterator[Path]:
    """A folder that gets the engine's name when all went well, and is gone when it did not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            for left in folder.glob(".*.*"):  # of an earlier one that was killed
                rmtree(left, ignore_errors=True)
            if (folder / name).exists():
                raise Conflict(f"{name} has an environment already: remove it first", field="name")
            part = folder / f".{name}.{secrets.token_hex(4)}"
            try:
                yield part
                part.rename(folder / name)
                sync_folder(folder)
            finally:
                rmtree(part, ignore_errors=True)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise CannotInstall(f"the disk of {folder} is full; nothing was kept") from error
        raise CannotInstall(f"{folder} cannot be used: {error.strerror}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Conflict(f"another environment is being made in {folder}: wait for it") from error
    finally:
        os.close(descriptor)


def _install(part: Path, lock: Path) -> None:
    """The listed files and no others, by the agent's own pip: an engine's environment has none."""
    if find_spec("pip") is None:
        raise CannotInstall("the agent's own environment has no pip: `python -m ensurepip` brings it")
    argv = [sys.executable, "-m", "pip", "--python", str(part / "bin" / "python"), "install", "--quiet"]
    argv += ["--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*argv, "--require-hashes", "--requirement", str(lock)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "WARNING" not in line]
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise CannotInstall(f"the packages cannot be had; nothing was kept: {' '.join(said[-2:])[:_SHOWN_CHARS]}")


def _packages(python: Path) -> list[str]:
    """Where an interpreter's packages lie."""
    try:
        done = subprocess.run([python, "-I", "-c", _WHERE], capture_output=True, timeout=_ASK_S, check=True)
        version, folders = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InvalidRequest(f"{python} is no interpreter that answers: {error}", field="packages_of") from error
    if version != list(sys.version_info[:2]):
        mine = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise InvalidRequest(f"{python} is Python {'.'.join(map(str, version))}, not {mine}", field="packages_of")
    return [str(folder) for folder in folders]


def _link_ours(site: Path) -> None:
    for name in OURS:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (site / name).symlink_to(Path(spec.origin).resolve().parent, target_is_directory=True)


def _why_no_files(name: str, part: Path) -> str:
    """Why the engine's files cannot be made in its environment; empty where they can."""
    code = f"from benchfarm_engines.conversion import load_converter; load_converter({name!r})"
    argv = [str(part / "bin" / "python"), "-I", "-c", code]
    with tempfile.TemporaryDirectory() as scratch:
        environment = launch_environment(scratch)
        done = subprocess.run(argv, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1][:_SHOWN_CHARS] if done.returncode else ""


def _probed(name: str, part: Path) -> EngineReport:
    with tempfile.TemporaryDirectory() as scratch:
        return asyncio.run(probe_engine(runner_argv(str(part / "bin" / "python")), name, Path(scratch)))
