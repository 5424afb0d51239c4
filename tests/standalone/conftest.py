"""What the tests of the supervisor share: waiting for a condition, small services, and folders for other users."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import benchfarm_standalone

NOBODY = 65534

Eventually = Callable[[Callable[[], object], float], None]


@pytest.fixture
def eventually() -> Eventually:
    """Waits until the condition holds, and fails when it does not within the limit in seconds."""

    def wait(condition: Callable[[], object], limit_s: float = 20) -> None:
        give_up_at_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < give_up_at_s, "the condition did not come true in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """A folder of uid 65534 that it can reach; pytest's own lie below one that is closed to others."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder to another user")
    path = Path(tempfile.mkdtemp(prefix="bf-", dir="/tmp"))
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def nobodys_python() -> str:
    """A Python of this version that uid 65534 can start, or a skip with the reason."""
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{ours}", f"/usr/local/bin/{ours}"):
        with contextlib.suppress(OSError):
            argv = [candidate, "-c", ""]
            if not subprocess.run(argv, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/").returncode:
                return candidate
    pytest.skip(f"no {ours} can be started by other users: {sys.executable} lies below a closed folder")


@pytest.fixture
def as_nobody() -> dict[str, Any]:
    """Arguments of ``subprocess`` that run a program as uid 65534 with our packages and the third-party ones."""
    ours = Path(benchfarm_standalone.__file__).parent.parent
    third_party = Path(pytest.__file__).parent.parent
    env = {"PYTHONPATH": f"{ours}:{third_party}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "env": env}
