"""Who of the suite may run beside whom: processes with the lock of `tests/quiet.py`, which says what it is for."""

import subprocess
import sys
from pathlib import Path

from tests.agent.agent_process import wait_until

HOLDER = """
import sys
from pathlib import Path
from tests.quiet import held

with held(Path(sys.argv[1]), alone=sys.argv[2] == "alone"):
    Path(sys.argv[3]).touch()
    sys.stdin.read()
"""


class Holder:
    """A process that holds the lock from when it may until it is let go."""

    def __init__(self, folder: Path, name: str, how: str) -> None:
        self.has_it = folder / name
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder / "lock"), how, str(self.has_it)], stdin=subprocess.PIPE
        )

    def waits(self) -> bool:
        """Whether the kernel has it wait for another process."""
        waiting = (line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line)
        return any(str(self._process.pid) in words for words in waiting)

    def let_go(self) -> None:
        wait_until(self.has_it.exists, "the lock is held")
        self._process.communicate()
        assert self._process.returncode == 0


def test_others_run_beside_each_other_and_nobody_beside_a_quiet_one(tmp_path: Path) -> None:
    one, other = Holder(tmp_path, "one", "beside"), Holder(tmp_path, "other", "beside")
    wait_until(lambda: one.has_it.exists() and other.has_it.exists(), "two share it")
    quiet = Holder(tmp_path, "quiet", "alone")
    wait_until(quiet.waits, "the quiet one waits for both")
    late = Holder(tmp_path, "late", "beside")
    wait_until(late.waits, "who comes later does not pass it")
    one.let_go()
    assert quiet.waits()
    assert late.waits()
    other.let_go()
    wait_until(quiet.has_it.exists, "the quiet one has it")
    assert late.waits()
    quiet.let_go()
    late.let_go()
