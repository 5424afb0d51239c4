"""Ten violations, planted one by one in a copy of the tree: each is caught by its own contract or rule."""

import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Plant:
    """A violation: text appended to a file (made when missing), and the words that must name it."""

    title: str
    path: str
    text: str
    caught_by: str
    named: str


PLANTS = [
    Plant(
        "core imports its user",
        "packages/core/benchfarm_core/jobs.py",
        "import benchfarm_store\n",
        "import contract",
        "Direction: core",
    ),
    Plant(
        "the API imports the worker",
        "services/api/benchfarm_api/__init__.py",
        "import benchfarm_worker\n",
        "import contract",
        "Direction: core",
    ),
    Plant(
        "core looks at the clock",
        "packages/core/benchfarm_core/leases.py",
        "import time\n",
        "import contract",
        "core decides without a clock",
    ),
    Plant(
        "the agent speaks SQL",
        "services/device-agent/benchfarm_agent/__init__.py",
        "import sqlalchemy\n",
        "import contract",
        "only store imports SQLAlchemy",
    ),
    Plant(
        "a route reads a table of the store",
        "services/api/benchfarm_api/__init__.py",
        "import benchfarm_store.tables\n",
        "import contract",
        "store.tables is private",
    ),
    Plant(
        "the API process opens a model, two imports away",
        "packages/workloads/benchfarm_workloads/kernels.py",
        "import onnx\n",
        "import contract",
        "the API process never imports",
    ),
    Plant(
        "an answer needs what trains, two imports away",
        "packages/predictor/benchfarm_predictor/kernels.py",
        "import benchfarm_predictor.training.platform_fit\n",
        "import contract",
        "the API process never imports",
    ),
    Plant(
        "an answer needs PyTorch",
        "packages/predictor/benchfarm_predictor/trees.py",
        "import torch\n",
        "import contract",
        "predictors are read and evaluated by numpy alone",
    ),
    Plant(
        "a drawer instead of a noun",
        "packages/store/benchfarm_store/utils.py",
        "x = 1\n",
        "house rule",
        "file-name",
    ),
    Plant(
        "a handler that swallows everything",
        "services/worker/benchfarm_worker/__init__.py",
        "try:\n    x = 1\nexcept Exception:\n    x = 2\n",
        "house rule",
        "broad-except",
    ),
    Plant(
        "a number without its unit",
        "packages/engines/benchfarm_engines/__init__.py",
        "def wait(timeout: float) -> None: ...\n",
        "house rule",
        "unit-suffix",
    ),
    Plant(
        "a setting read deep inside",
        "packages/store/benchfarm_store/__init__.py",
        "import os\n\nURL = os.environ['DATABASE_URL']\n",
        "house rule",
        "environment",
    ),
    Plant(
        "a function of 61 lines",
        "packages/client/benchfarm/__init__.py",
        "def long() -> int:\n" + "    x = 1\n" * 59 + "    return x\n",
        "house rule",
        "function-length",
    ),
    Plant(
        "SQL in a route",
        "services/api/benchfarm_api/__init__.py",
        "Q = 'select id from jobs'\n",
        "house rule",
        "sql-text",
    ),
]


@pytest.fixture(scope="module")
def copy(root, package_folders, tmp_path_factory):
    """The tree as far as the checks read it; what a test plants in it, it takes out again."""
    tree = tmp_path_factory.mktemp("copy")
    for folder in package_folders:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(folder, tree / folder.relative_to(root), ignore=ignored)
    shutil.copy(root / "pyproject.toml", tree)
    return tree


@contextmanager
def planted(plant, tree):
    path = tree / plant.path
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + plant.text)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


def contract_of(plant, tree):
    """The id of the one contract with the plant's words in its name."""
    contracts = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [found] = [contract["id"] for contract in contracts if plant.named in contract["name"]]
    return found


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.title)
def test_a_planted_violation_is_caught(plant, copy, root, lint_imports, record_property):
    with planted(plant, copy):
        if plant.caught_by == "import contract":
            done = lint_imports(copy, contract_of(plant, copy))
            said = [line for line in done.stdout.splitlines() if "BROKEN" in line]
        else:
            checker = root / "tests" / "architecture" / "house_rules.py"
            argv = [sys.executable, checker, copy]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
            said = done.stdout.splitlines()
    assert done.returncode != 0
    place = plant.path if plant.caught_by == "house rule" else ""
    caught = [line for line in said if plant.named in line and place in line]
    assert caught, done.stdout
    record_property("caught", f"{plant.title:<48} {plant.caught_by}: {caught[0].strip()}")


def test_ten_or_more_are_planted():
    assert len(PLANTS) >= 10
