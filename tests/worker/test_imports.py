"""What a worker's process loads before it knows what it is for."""

import subprocess
import sys


def test_no_worker_loads_numpy_before_its_threads_are_bounded() -> None:
    """numpy's libraries read how many threads they may have when they are loaded."""
    look = "import sys, benchfarm_worker.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
