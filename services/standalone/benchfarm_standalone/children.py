"""A process of the farm as a value, and the two ways to start it: supervised, or alone for tests and tools."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchfarm_standalone import launch
from benchfarm_standalone.errors import ServiceFailed
from benchfarm_standalone.logs import open_log
from benchfarm_standalone.probes import Probe
from benchfarm_standalone.processes import kill_group
from benchfarm_standalone.settings import inherited

PROBE_EVERY_S = 0.02


def always() -> bool:
    """The probe of a service that is usable as soon as it runs."""
    return True


def nothing() -> None:
    """The preparation of a service that needs none."""


@dataclass(frozen=True)
class Service:
    """One process to run: how to start it, how to know that it is usable, and how to end it.

    ``stop_signal`` asks for an orderly end; what is left of the process group after ``grace_s`` gets SIGKILL. The same
    signal reaches the process when its supervisor dies. ``identity`` and ``cores`` (none: all) are launch.py's.
    ``prepare`` runs before every start, so also before a restart, and may raise FarmError.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Probe = always
    ready_within_s: float = 30
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10
    pass_fds: tuple[int, ...] = ()
    identity: str = "self"
    cores: tuple[int, ...] = ()
    prepare: Callable[[], None] = nothing

    def launch_argv(self) -> list[str]:
        """The command that the supervisor runs: launch.py first, which then becomes ``argv``."""
        cores = ",".join(str(core) for core in self.cores) or "all"
        program = shutil.which(self.argv[0]) or self.argv[0]
        wrapper = (sys.executable, "-I", "-S", str(Path(launch.__file__).resolve()))
        return [*wrapper, str(os.getpid()), str(int(self.stop_signal)), self.identity, cores, program, *self.argv[1:]]

    def full_env(self) -> dict[str, str]:
        """Our own environment with the service's additions on top."""
        return {**inherited(), **self.env}


async def spawn(service: Service, log_file: Path) -> asyncio.subprocess.Process:
    """Start the process in a session, and so a process group, of its own; output goes to ``log_file``."""
    log = open_log(log_file)
    try:
        return await asyncio.create_subprocess_exec(
            *service.launch_argv(),
            env=service.full_env(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=service.pass_fds,
            start_new_session=True,
        )
    finally:
        os.close(log)


@contextlib.contextmanager
def run_alone(service: Service, log_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run one service without a supervisor until the block ends: for test fixtures and tools.

    Raises ServiceFailed when it ends early or is not ready in time. The kernel sends the service its stop signal when
    the *thread* that entered the block ends, so enter it from a thread that stays.
    """
    log_file = log_dir / f"{service.name}.log"
    service.prepare()
    log = open_log(log_file)
    try:
        process = subprocess.Popen(
            service.launch_argv(),
            env=service.full_env(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=service.pass_fds,
            start_new_session=True,
        )
    finally:
        os.close(log)
    try:
        _wait_until_ready(service, process, log_file)
        yield process
    finally:
        _end(service, process)


def _wait_until_ready(service: Service, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    give_up_at_s = time.monotonic() + service.ready_within_s
    while not service.ready():
        if process.poll() is not None:
            raise ServiceFailed(service.name, f"ended with {process.returncode} before it was ready", log_file)
        if time.monotonic() > give_up_at_s:
            raise ServiceFailed(service.name, f"was not ready within {service.ready_within_s:g} s", log_file)
        time.sleep(PROBE_EVERY_S)


def _end(service: Service, process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(service.stop_signal)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(service.grace_s)
    kill_group(process.pid)
    process.wait()
