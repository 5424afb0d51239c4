"""Who of the suite may run beside whom: processes with the lock of `tests/quiet.py`, which says what it is for."""

import os
import subprocess
import sys
from pathlib import Path

from tests.agent.agent_process import wait_until
from tests.quiet import LOCK

HOLDER = """
import sys
from pathlib import Path
from tests.quiet import held

with held(Path(sys.argv[1]), alone=sys.argv[2] == "alone"):
    Path(sys.argv[3]).touch()
    sys.stdin.read()
"""


SUITE = """
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.quiet


def test_one():
    Path("one").touch()
    while not Path("go").exists():
        time.sleep(0.01)


def test_two():
    Path("two").touch()
"""


class Holder:
    """A process that holds the lock from when it may until it is let go."""

    def __init__(self, folder: Path, name: str, how: str, lock: Path = Path("lock")) -> None:
        self.has_it = folder / name
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder / lock), how, str(self.has_it)], stdin=subprocess.PIPE
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


def test_quiet_tests_that_follow_each_other_let_nobody_in_between(root: Path, tmp_path: Path) -> None:
    """Who got in would stay, and the second test would never begin."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = quiet: alone\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    environment = os.environ | {"PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.quiet", "-p", "no:cacheprovider"]
    suite = subprocess.Popen(argv, cwd=tmp_path, env=environment)
    wait_until((tmp_path / "one").exists, "the first test runs")
    late = Holder(tmp_path, "late", "beside", LOCK)
    wait_until(late.waits, "who comes between them waits")
    (tmp_path / "go").touch()
    try:
        assert suite.wait(30) == 0
    finally:
        suite.kill()
        late.let_go()
    assert (tmp_path / "two").exists()
