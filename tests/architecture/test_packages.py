"""The deployables, each in a fresh environment of its own: what they bring along, and that they start."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

SERVER_ONLY = ["sqlalchemy", "celery", "fastapi", "psycopg2", "benchfarm_store", "benchfarm_api", "benchfarm_worker"]
ABSENT = {
    "client": ["torch", "numpy", "onnx", *SERVER_ONLY],
    "agent": ["torch", *SERVER_ONLY],
    "server": ["torch", "openvino", "benchfarm_engines", "benchfarm"],
}
STARTED = {
    "client": ["benchfarm --help", "benchfarm jobs submit --help"],
    "agent": [
        "benchfarm agent run --help",
        "python -m benchfarm_agent run --help",
        "python -I -m benchfarm_engines.runner --probe onnxruntime",
        "python -I -m benchfarm_engines.runner --probe openvino",
    ],
    "server": [
        "python -c import\tbenchfarm_api.main",
        "python -m benchfarm_worker --help",
        "python -m benchfarm_store --help",
    ],
}
NOBODY = "http://127.0.0.1:1"
FARM_AWAY_EXIT = 3
# OpenVINO asks for its telemetry package and works without it; we leave it out on purpose.
LEFT_OUT = "openvino-telemetry"


def needed(root: Path, dists: list[str]) -> list[Path]:
    """The folders of ``dists`` and of everything of ours below it, as their own files say."""
    projects = {}
    for path in [*root.glob("packages/*/pyproject.toml"), *root.glob("services/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        projects[project["name"]] = (path.parent, [_name(word) for word in project.get("dependencies", [])])
    wanted, folders = list(dists), {}
    while wanted:
        name = wanted.pop()
        if name in projects and name not in folders:
            folders[name], below = projects[name]
            wanted.extend(below)
    return sorted(folders.values())


def _name(requirement: str) -> str:
    for cut in "[<>=!~; ":
        requirement = requirement.partition(cut)[0]
    return requirement


def environment() -> dict[str, str]:
    """What a deployable may inherit: nothing that leads it back to this checkout or to somebody's farm."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "BENCHFARM_")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


def run(*argv: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """What the words come to; `more` of the environment."""
    return subprocess.run(
        argv, cwd=cwd, env=environment() | more, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(
    scope="module",
    params=[
        ("client", ["benchfarm"]),
        ("agent", ["benchfarm", "benchfarm-agent"]),
        ("server", ["benchfarm-api", "benchfarm-worker"]),
    ],
    ids=lambda param: param[0],
)
def fresh(request, root, tmp_path_factory):
    """A new environment with one deployable in it, installed by the set-up's own command. Returns (lock, bin)."""
    lock, dists = request.param
    home = tmp_path_factory.mktemp(lock)
    bin_folder = home / "venv" / "bin"
    made = run(sys.executable, "-m", "venv", home / "venv", cwd=home)
    assert made.returncode == 0, made.stderr
    folders = [path.relative_to(root) for path in needed(root, dists)]
    for folder in ["requirements", *folders]:  # building writes beside the sources, so it gets its own
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(root / folder, home / "tree" / folder, ignore=ignored)
    # compiled ahead, most of it would be what nobody imports here
    done = run("requirements/install", bin_folder / "python", lock, *folders, cwd=home / "tree", BENCHFARM_COMPILE="0")
    assert done.returncode == 0, done.stderr
    return lock, bin_folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_deployable_installs_alone_and_starts(fresh, tmp_path):
    lock, bin_folder = fresh
    probe = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    heavy = run(bin_folder / "python", "-c", probe, *ABSENT[lock], cwd=tmp_path)
    assert heavy.stdout.split() == []
    complaints = run(bin_folder / "python", "-m", "pip", "check", cwd=tmp_path).stdout.splitlines()
    assert [line for line in complaints if LEFT_OUT not in line and "No broken" not in line] == []
    for command in STARTED[lock]:
        program, *arguments = command.split(" ")
        done = run(bin_folder / program, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    WITHOUT_A_FARM[lock](bin_folder, tmp_path)


def client_without_a_farm(bin_folder: Path, folder: Path) -> None:
    """One line and the documented exit code; the verbs of what is not installed are named."""
    token = folder / "token"
    token.write_text("bft_x")
    away = run(bin_folder / "benchfarm", "--url", NOBODY, "--token-file", token, "boards", "list", cwd=folder)
    assert away.returncode == FARM_AWAY_EXIT, away.stdout + away.stderr
    assert len(away.stderr.strip().splitlines()) == 1
    absent = run(bin_folder / "benchfarm", "agent", "run", cwd=folder)
    assert absent.returncode == 127
    assert "pip install" in absent.stderr


def agent_without_a_farm(bin_folder: Path, folder: Path) -> None:
    """An enrolled agent says once that its farm is away, goes on trying, and ends on a signal."""
    folder.chmod(0o711)
    (folder / "state").mkdir()
    (folder / "state" / "identity.json").write_text('{"agent_id": "a_x", "token": "bft_x"}')
    command = [str(bin_folder / "benchfarm"), "agent", "run", "--url", NOBODY, "--state-dir", str(folder / "state")]
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        said = []
        for line in agent.stderr:
            said.append(json.loads(line)["message"])
            agent.send_signal(signal.SIGTERM)
    assert agent.returncode == 0
    assert said == [f"cannot reach the farm at {NOBODY}, trying again"]


WITHOUT_A_FARM: dict[str, Callable[[Path, Path], None]] = {
    "client": client_without_a_farm,
    "agent": agent_without_a_farm,
    "server": lambda bin_folder, folder: None,
}
