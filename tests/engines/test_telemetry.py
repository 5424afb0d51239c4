"""Engines say nothing to anybody: none opens a socket, starts a program or leaves a file, whatever it is asked for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchfarm_engines.conversion import has_converter
from benchfarm_engines.launch import converting_argv, launch_environment, reference_argv, runner_argv
from benchfarm_engines.registry import engine_names
from tests.engines.conftest import MEMORY_BYTES
from tests.engines.made_for import installed
from tests.no_sockets import NO_SOCKETS

SILENCED = [sys.executable, "-I", "-c", NO_SOCKETS]
TRAPPED = ("pip", "pip3", "python", "python3", "curl", "wget", "sh", "uname", "lscpu")


@pytest.fixture(params=engine_names())
def engine(request: pytest.FixtureRequest) -> str:
    return installed(request.param).name


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with an empty home and programs that tell when they are started; afterwards nothing is there."""
    home, traps, sprung = tmp_path / "silent-home", tmp_path / "traps", tmp_path / "sprung"
    for folder in (home, traps, sprung):
        folder.mkdir()
    for name in TRAPPED:
        trap = traps / name
        trap.write_text(f'#!/bin/sh\n: > "{sprung}/{name}"\n')
        trap.chmod(0o755)
    before = list_of_packages()
    yield {**launch_environment(str(home)), "PATH": f"{traps}:/usr/bin:/bin"}
    assert list(home.rglob("*")) == []
    assert list(sprung.iterdir()) == []
    assert list_of_packages() == before


def list_of_packages() -> list[tuple[str, int]]:
    """What is installed here, and when that was changed last."""
    site = Path(os.__file__).parent / "site-packages"
    folders = {*map(Path, sys.path), site}
    return sorted(
        (str(entry), entry.stat().st_mtime_ns)
        for folder in folders
        if folder.name == "site-packages" and folder.is_dir()
        for entry in folder.iterdir()
        if entry.name.endswith(".dist-info")
    )


def said(argv: list[str], given: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*SILENCED, *argv],
        input=given,
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_socket_would_be_noticed(places: dict[str, str]) -> None:
    for code in ("import socket; socket.socket()", "import socket; socket.getaddrinfo('example.invalid', 80)"):
        done = subprocess.run([*SILENCED, sys.executable, "-I", "-c", code], env=places, capture_output=True)
        assert done.returncode == -signal.SIGSYS


def test_a_probe_is_silent(places: dict[str, str], engine: str) -> None:
    """It is the one child that nothing confines: what it is asked for is the engine's import."""
    (found,) = said([*runner_argv(), "--probe", engine], "", places)
    assert found["available"], found


def test_a_launch_is_silent(launch: Any, workloads: dict[str, Any], places: dict[str, str], engine: str) -> None:
    visits = [workloads[name].visit(number) for number, name in enumerate(("conv", "small"))]
    found = launch(visits, engine=engine, argv=[*SILENCED, *runner_argv()], environment=places)
    assert [line["outcome"] for line in found.done.values()] == ["ok", "ok"], found.stderr
    assert list(found.home.rglob("*")) == []


def test_files_are_made_in_silence(
    workloads: dict[str, Any], batch_folder: Path, places: dict[str, str], engine: str
) -> None:
    conv = workloads["conv"]
    question = {"precision": "fp32", "options": {}, "artifact": str(conv.artifact), "inputs": conv.inputs}
    folders: Any = {"readable": [str(batch_folder)], "writable": [str(batch_folder), places["HOME"]]}
    argv = converting_argv(memory_bytes=MEMORY_BYTES, cpu_s=60, **folders)
    made_for = [engine] if has_converter(engine) else []
    questions = [{**question, "engine": one, "out": str(batch_folder / "silent")} for one in (*made_for, None)]
    answers = said(argv, "".join(json.dumps(one) + "\n" for one in questions), places)
    assert [answer["ok"] for answer in answers] == [True] * len(questions), answers


def test_references_are_made_in_silence(workloads: dict[str, Any], batch_folder: Path, places: dict[str, str]) -> None:
    conv = workloads["conv"]
    question = {"artifact": str(conv.artifact), "inputs": conv.inputs, "out": str(batch_folder / "silent.npz")}
    folders: Any = {"readable": [str(batch_folder)], "writable": [str(batch_folder)]}
    (answer,) = said(reference_argv(memory_bytes=MEMORY_BYTES, cpu_s=60, **folders), json.dumps(question), places)
    assert answer["ok"]
