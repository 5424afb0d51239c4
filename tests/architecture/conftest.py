"""What the tests of the tree share: where it lies and how its tools are called."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def package_folders(root: Path) -> list[Path]:
    """The folder of each distribution."""
    return sorted(path.parent for part in ("packages", "services") for path in (root / part).glob("*/pyproject.toml"))


def tool(name: str) -> str:
    """The path of a command of this environment."""
    return str(Path(sys.executable).parent / name)


@pytest.fixture(scope="session")
def lint_imports(package_folders: list[Path], root: Path):
    """Run the import contracts, or those of some ids, on the tree at a folder; returns the finished process.

    The packages are taken from that folder, not from where this environment has them installed.
    """

    def run(tree: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
        folders = [str(tree / folder.relative_to(root)) for folder in package_folders]
        chosen = [f"--contract={contract}" for contract in contracts]
        return subprocess.run(
            [tool("lint-imports"), "--no-cache", *chosen],
            cwd=tree,
            env={"PYTHONPATH": ":".join(folders), "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the planted violations met."""
    caught = [
        str(value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "caught"
    ]
    if caught:
        terminalreporter.write_sep("-", f"{len(caught)} planted violations, each caught")
        for line in caught:
            terminalreporter.write_line(line)
