"""An agent as its operator starts it, for tests: `python -m benchfarm_agent run` on a farm without a board."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

LIMIT_S = 60.0
POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> float:
    """Returns after how many seconds a condition held; fails when it does not within the limit."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began_s


class AgentProcess:
    """One agent; `start` may be called again after it has ended."""

    def __init__(self, url: str, state_dir: Path, log_file: Path) -> None:
        self.url = url
        self.state_dir = state_dir
        self.log_file = log_file
        self.ready_file = log_file.with_suffix(".ready")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, runner: tuple[str, ...] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Starts it, once the last one has ended, and returns at once. `runner`: its command, if not the real one."""
        if self.process is not None:
            self.process.wait(LIMIT_S)
        self.ready_file.unlink(missing_ok=True)
        settings = {
            "BENCHFARM_READY_FILE": str(self.ready_file),
            "BENCHFARM_AGENT_GATE_FOREIGN_THREADS": "1000",  # tests run beside others
            **({"BENCHFARM_AGENT_RUNNER_ARGV": json.dumps(runner)} if runner else {}),
            **(env or {}),
        }
        command = [
            sys.executable,
            "-m",
            "benchfarm_agent",
            "run",
            "--url",
            self.url,
            "--state-dir",
            str(self.state_dir),
        ]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([*command, *options], env={**os.environ, **settings}, stderr=log)

    def wait_ready(self) -> None:
        """Returns when the boards are registered."""
        wait_until(lambda: self.ready_file.exists() or self.ended() is not None, "the agent is ready")
        assert self.ended() is None, self.said()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def wait_ended(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code, once it has ended."""
        wait_until(lambda: self.ended() is not None, "the agent ends", limit_s)
        code = self.ended()
        assert code is not None
        return code

    def stop(self) -> None:
        """Ends it, however that may be."""
        if self.process is not None and self.ended() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def said(self) -> str:
        return self.log_file.read_text()[-3000:]

    def runners(self) -> set[int]:
        """Process ids of its runners, zombies left out."""
        assert self.process is not None
        return {pid for pid in children_of(self.process.pid) if not is_reference(pid)}


def children_of(parent: int) -> set[int]:
    """Living child processes."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def is_reference(pid: int) -> bool:
    return "benchfarm_engines.reference" in command_of(pid)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
