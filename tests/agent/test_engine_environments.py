"""Engines' own environments with the real venv and the real pip: whole, or nothing that is ever used."""

import asyncio
import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchfarm_agent import engine_installing
from benchfarm_agent.commands import app
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.engine_probe import probe_engine
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.state_dir import StateDir

ENGINE = "onnxruntime"


def wheel_of_our_packages(folder: Path) -> str:
    """A wheel after whose installation this environment's packages can be imported; the line of a lock."""
    site = sysconfig.get_path("purelib")
    contents = {
        "everything.pth": f"{site}\n",
        "everything-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: everything\nVersion: 1.0\n",
        "everything-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(text)}\n"
    contents["everything-1.0.dist-info/RECORD"] = record + "everything-1.0.dist-info/RECORD,,\n"
    path = folder / "everything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in contents.items():
            wheel.writestr(name, text)
    return f"everything==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine's list, with one wheel that pip finds without a network."""
    wheels, locks = tmp_path / "wheels", tmp_path / "locks"
    wheels.mkdir()
    locks.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(engine_installing, "LOCKS", locks)
    path = locks / f"{ENGINE}.txt"
    path.write_text(wheel_of_our_packages(wheels))
    return path


@pytest.fixture
def command(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `agent engines ...` on a folder in which no agent runs."""
    root = state.root.with_name("lab")
    monkeypatch.setenv("BENCHFARM_AGENT_STATE_DIR", str(root))
    return lambda *words: CliRunner().invoke(app, ["engines", *words])


def left_in(state: StateDir) -> list[str]:
    folder = state.root.with_name("lab") / "engines"
    return sorted(path.name for path in folder.glob("*") if path.name != ".lock")


def test_an_environment_is_added_used_listed_and_removed(command: Any, state: StateDir, lock: Path) -> None:
    added = command("add", ENGINE)
    assert added.exit_code == 0, added.output
    assert "fp32" in added.output
    assert left_in(state) == [ENGINE]
    environments = EngineEnvironments(state.root.with_name("lab") / "engines")
    python = environments.python(ENGINE)
    assert python.startswith(str(state.root.with_name("lab")))
    code = "import sys, benchfarm_engines, numpy; print(sys.prefix)"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(Path(python).parent.parent)
    listed = command("list").output.splitlines()
    assert [" own, " in line for line in listed if line.split()[0] == ENGINE] == [True]
    assert sum("beside the agent" in line for line in listed) == len(listed) - 1
    assert command("add", ENGINE).exit_code == 3
    assert command("remove", ENGINE).exit_code == 0
    assert left_in(state) == []
    assert command("remove", ENGINE).exit_code == 3


def test_another_interpreters_packages_can_be_used(command: Any, state: StateDir) -> None:
    assert command("add", ENGINE, "--packages-of", sys.executable).exit_code == 0
    watch_children_without_threads()
    environments = EngineEnvironments(state.root.with_name("lab") / "engines")
    report = asyncio.run(probe_engine(environments.runner_argv(ENGINE), ENGINE, state.scratch))
    assert report.available


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["add", "undreamt"], 2, "there is no engine"),
        (["add", "torch"], 2, "there is no list with hashes for torch"),
        (["add", ENGINE, "--packages-of", "/bin/true"], 2, "no interpreter"),
        (["add", ENGINE, "--packages-of", "/nowhere/python"], 2, "no interpreter"),
        (["remove", "undreamt"], 2, "there is no engine"),
    ],
)
def test_what_cannot_be_leaves_nothing(command: Any, state: StateDir, words: list[str], code: int, says: str) -> None:
    answer = command(*words)
    assert answer.exit_code == code
    assert says in answer.output
    assert left_in(state) == []


def test_a_file_with_another_hash_is_not_installed(command: Any, state: StateDir, lock: Path) -> None:
    lock.write_text(lock.read_text().replace("sha256:", "sha256:0", 1)[:-2] + "\n")
    answer = command("add", ENGINE)
    assert (answer.exit_code, left_in(state)) == (3, [])
    assert "nothing was kept" in answer.output


def test_without_a_network_nothing_is_kept(
    command: Any, state: StateDir, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    answer = command("add", ENGINE)
    assert (answer.exit_code, left_in(state)) == (3, [])
    assert "cannot be had" in answer.output


def test_an_engine_that_does_not_work_is_not_kept(
    command: Any, state: StateDir, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_installing, "_install", lambda part, lock: None)
    answer = command("add", ENGINE)
    assert (answer.exit_code, left_in(state)) == (3, [])
    assert "does not work here" in answer.output


def test_an_addition_that_is_killed_is_never_used_and_cleared_by_the_next(
    command: Any, state: StateDir, lock: Path
) -> None:
    lab = state.root.with_name("lab")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that accepts and never answers
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        argv = [sys.executable, "-m", "benchfarm_agent", "engines", "add", "openvino", "--state-dir", str(lab)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        killed = subprocess.Popen(argv, env={**environment, "PIP_INDEX_URL": index}, start_new_session=True)
        silent.settimeout(30)
        silent.accept()[0].close()  # pip is at work
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert len(left_in(state)) == 1
    assert not EngineEnvironments(lab / "engines").has_own("openvino")
    assert command("add", ENGINE).exit_code == 0
    assert left_in(state) == [ENGINE]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_leaves_nothing(command: Any, state: StateDir, lock: Path) -> None:
    engines = state.root.with_name("lab") / "engines"
    engines.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(engines)], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        for filler in range(20):
            (engines / "filler").mkdir(exist_ok=True)
            try:
                (engines / "filler" / str(filler)).write_bytes(bytes(4096))
            except OSError:
                break
        answer = command("add", ENGINE)
        assert (answer.exit_code, left_in(state)) == (3, ["filler"])
        assert "full" in answer.output
    finally:
        subprocess.run(["umount", str(engines)], check=True)


def test_an_environment_that_a_running_agent_may_use_stays(state: StateDir) -> None:
    folder = state.engines / ENGINE
    folder.mkdir(parents=True)
    answer = CliRunner().invoke(app, ["engines", "remove", ENGINE, "--state-dir", str(state.root)])
    assert answer.exit_code == 3
    assert "stop it first" in answer.output
    assert folder.exists()


def test_two_additions_at_once_do_not_meet(command: Any, state: StateDir, lock: Path) -> None:
    folder = state.root.with_name("lab") / "engines"
    folder.mkdir(parents=True)
    with engine_installing._alone(folder):
        answer = command("add", ENGINE)
    assert answer.exit_code == 3
    assert "another environment is being made" in answer.output
