"""What the targets of the Makefile promise, with a stand-in for the programs that they would run for hours."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

STAND_IN = "#!/bin/sh\necho ran $2\n[ $2 != {fails} ]\n"


@pytest.mark.parametrize("fails", ["bench.chaos", "none"])
def test_bench_runs_every_program_and_fails_when_one_did(fails: str, root: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(fails=fails))
    python.chmod(0o755)
    command = ["make", "--old-file=.venv/.dev", "bench", f"BIN={tmp_path}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    ran = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ran ")]
    programs = sorted(path for path in (root / "bench").glob("*.py") if "__main__" in path.read_text())
    assert ran == [f"bench.{path.stem}" for path in programs], done.stderr
    assert (done.returncode != 0) == (fails != "none")


def test_the_types_of_every_folder_are_checked(root: Path) -> None:
    checked = re.search(r"^\t\$\(BIN\)/mypy (.+)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert checked is not None
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert sorted(checked[1].split()) == sorted(folder.name for folder in folders if any(folder.rglob("*.py")))
