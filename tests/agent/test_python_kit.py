"""The Python runner's archive: what is in it, that it is made once, that a board runs it and notices a change."""

import asyncio
import fcntl
import json
import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import python_kit, runner_kits, ssh_way
from benchfarm_agent.board_watch import BoardWatch
from benchfarm_agent.board_ways import open_boards
from benchfarm_agent.boards.board_folder import BoardFolder
from benchfarm_agent.boards.interface import LaunchOrder
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.boards.remote_runner import MissingRunner, PythonKit
from benchfarm_agent.lab_file import LabFile, SshHost
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.python_kit import CannotPack, Interpreter, packed
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from tests.agent.conftest import LEASE_TOKEN
from tests.agent.ports.ssh_server import SshServer, ssh_server
from tests.agent.remote_boards import OWNER, local_shell, remote_board
from tests.agent.scripted_farm import true_soon

Run = Callable[[Any], Any]
OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = Interpreter(sys.executable, OWN, platform.machine(), "glibc")


@pytest.fixture
def tiny_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of an engine that needs no more than one small package."""
    folder = tmp_path / "locks"
    folder.mkdir()
    (folder / "onnxruntime.txt").write_text(f"typer=={version('typer')} \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(python_kit, "LOCKS", folder)


@pytest.mark.parametrize(
    ("line", "is_usable"),
    [
        ("/usr/bin/python3 3.11 aarch64 glibc", True),
        ("/usr/bin/python3 3.9 aarch64 glibc", True),
        ("/usr/bin/python3 3.8 aarch64 glibc", False),
        ("/usr/bin/python3 3.12 x86_64 musl", False),
    ],
)
def test_an_interpreter_is_taken_as_it_says(line: str, is_usable: bool) -> None:
    found = Interpreter.of(line)
    assert found is not None
    assert found.is_usable == is_usable


@pytest.mark.parametrize("line", ["", "python3 3.11 aarch64 glibc", "/p 4.11 a g", "/p 3.11 $(x) g", "/p 3.11 a"])
def test_nonsense_is_no_interpreter(line: str) -> None:
    assert Interpreter.of(line) is None


@pytest.mark.usefixtures("tiny_lock")
def test_it_is_made_once_and_holds_what_a_runner_needs(tmp_path: Path) -> None:
    one = packed(tmp_path / "kits", HERE, ("onnxruntime",))
    made_ns = one.path.stat().st_mtime_ns
    assert packed(tmp_path / "kits", HERE, ("onnxruntime",)) == one
    assert one.path.stat().st_mtime_ns == made_ns
    with tarfile.open(one.path) as tar:
        names = set(tar.getnames())
    assert {"start.py", "CHECK", "packages/benchfarm_engines/runner.py", "packages/typer/__init__.py"} <= names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert [path.name for path in (tmp_path / "kits").iterdir() if path.is_dir()] == []


def test_an_engine_without_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotPack, match=f"there is no list of packages for torch on Python {OWN}"):
        packed(tmp_path / "kits", HERE, ("torch",))


def test_an_older_python_has_lists_of_its_own() -> None:
    older = Interpreter("/usr/bin/python3", "3.9", "aarch64", "glibc")
    own, present = python_kit._lock("onnxruntime", older), python_kit._lock("onnxruntime", HERE)
    assert own != present
    assert "onnxruntime==1.19.2" in own.read_text()
    assert "numpy==2.0.2" in own.read_text()
    with pytest.raises(CannotPack, match=r"openvino on Python 3\.9: the engines of such a board are among"):
        python_kit._lock("openvino", older)


@pytest.mark.usefixtures("tiny_lock")
def test_a_board_runs_it_and_notices_what_changed(state: StateDir, running: Run, tmp_path: Path) -> None:
    archive = packed(state.runners, HERE, ("onnxruntime",))
    kit = PythonKit(archive.path, archive.check_sha256, python=sys.executable, engines=("onnxruntime",))
    port, root = local_shell(tmp_path / "calls"), tmp_path / "board"
    board = remote_board(port, running(read_board_facts(port)), state, str(root), kit)
    running(board.restore())
    (engine,) = running(board.describe()).engines
    assert engine.name == "onnxruntime", "it answers, with what the interpreter has"
    runner = next((root / "runner").glob("python-*/packages/benchfarm_engines/runner.py"))
    text = runner.read_text()
    runner.write_text("tampered = True\n")
    (root / "runner" / "python-of-an-older-version").mkdir()
    folder = BoardFolder(port, str(root), owner="agent1", is_shared=False)
    running(kit.ensure(port, folder))
    assert runner.read_text() == text
    assert len(list((root / "runner").iterdir())) == 1


@pytest.mark.usefixtures("tiny_lock")
def test_no_two_runners_measure_on_a_board_at_once(state: StateDir, running: Run, tmp_path: Path) -> None:
    """Also where the first one is of an agent that died, or that lost its way to the board."""
    archive = packed(state.runners, HERE, ("onnxruntime",))
    kit = PythonKit(archive.path, archive.check_sha256, python=sys.executable, engines=("onnxruntime",))
    port, root = local_shell(tmp_path / "calls"), tmp_path / "board"
    board = remote_board(port, running(read_board_facts(port)), state, str(root), kit)
    request = {"engine": "e", "threads": 1, "cores": [0], "visits": []}
    order = LaunchOrder(request, (), silence_s=20, lines_max=100)
    lines: list[bytes] = []

    async def lease() -> None:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        await board.launch(order, lines.append)

    running(lease())
    first = lines.copy()
    assert b"lock" not in first[0], "the request is none, but it was read"
    pid, owner, lease_token = (root / "running").read_text().split()
    assert (int(pid) > 0, owner, lease_token) == (True, OWNER, LEASE_TOKEN), "of a runner that is gone"
    with (root / "running").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        lines.clear()
        running(board.launch(order, lines.append))
    assert lines != first
    said = json.loads(lines[0])
    assert (said["event"], said["code"]) == ("failed", "engine_unavailable")
    assert said["detail"] == f"another runner holds this board's lock: {pid} {owner} {lease_token}"
    (engine,) = running(board.describe()).engines
    assert engine.name == "onnxruntime", "what asks an engine what it is waits for nobody"


def test_a_board_without_a_fitting_python_is_told_so(state: StateDir, running: Run, tmp_path: Path) -> None:
    port = local_shell(tmp_path / "calls")
    port._env = {**port._env, "PATH": str(_tools_without_python(tmp_path))}
    kit = running(runner_kits.python_kit(state, port, ("onnxruntime",)))
    assert isinstance(kit, MissingRunner)
    assert "needs Python 3.9 or newer with glibc, and has none" in kit.why


def test_a_board_without_a_runner_is_taken_up_when_there_is_one(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_kits, "LOOK_EVERY_S", 0.01)
    missing = MissingRunner(("ncnn",), "build one")
    found: list[Any] = [missing, missing, "a kit"]

    async def find() -> Any:
        return found.pop(0)

    async def away() -> str:
        await asyncio.sleep(0.2)
        return "unplugged"

    assert running(runner_kits.gone_or_mended(away(), find, missing)) == "there is a runner for it now"
    found[:] = [missing] * 100
    assert running(runner_kits.gone_or_mended(away(), find, missing)) == "unplugged"


@pytest.mark.usefixtures("tiny_lock")
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_board_over_ssh_is_listed_before_its_first_runner_is_there(
    state: StateDir, running: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, engine: str
) -> None:
    settings = Settings(url="http://127.0.0.1:1", state_dir=state.root)

    async def first(lab_file: LabFile) -> str:
        """What the engine says in the end of an agent's first look at the board."""
        packing = asyncio.Lock()
        monkeypatch.setattr(runner_kits, "_packing", packing)
        async with packing, open_boards(settings, state, lab_file) as watch:
            await true_soon(lambda: told(watch) == ssh_way.NOT_YET)
            seen: list[str] = []
            watch.on_change = lambda: seen.append(told(watch))
            assert watch.present()[0].report.board_model
            packing.release()
            await true_soon(lambda: told(watch) not in ("", ssh_way.NOT_YET))
            await packing.acquire()
            watch.on_change = lambda: None
            assert seen == [told(watch)], "it was not away for it"
            return told(watch)

    async def next_start(lab_file: LabFile) -> list[str]:
        async with open_boards(settings, state, lab_file) as watch:
            seen: list[str] = []
            watch.on_change = lambda: seen.append(told(watch))
            await true_soon(lambda: bool(watch.present()))
            return seen

    async def play() -> None:
        async with ssh_server(tmp_path / "server") as ssh:
            lab_file = lab_of(ssh, engine)
            said = await first(lab_file)
            if engine == "torch":
                assert "there is no list of packages for torch" in said
            else:
                assert len(list((root / "runner").iterdir())) == 1
                assert await next_start(lab_file) == [said], "a board that has one is listed with its engines"

    running(play())


@pytest.mark.usefixtures("tiny_lock")
def test_a_first_runner_that_was_broken_off_has_all_its_time_again(
    state: StateDir, running: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Not what is left to a board that is asked what it is: on a slow line that never suffices."""
    settings = Settings(url="http://127.0.0.1:1", state_dir=state.root)
    push = SshPort.push
    pushed_to: list[str] = []

    async def play() -> None:
        async with ssh_server(tmp_path / "server") as ssh, open_boards(settings, state, lab_of(ssh)) as watch:

            async def breaks_off_once(port: SshPort, local: Path, remote: str, **options: Any) -> None:
                pushed_to.append(told(watch))
                if len(pushed_to) == 1:
                    left_behind(root / "runner")
                    ssh.cut()
                    raise BoardUnreachable("the line is down")
                await push(port, local, remote, **options)

            monkeypatch.setattr(SshPort, "push", breaks_off_once)
            await true_soon(lambda: has_answered(watch))

    running(play())
    first, again = pushed_to
    assert first == ssh_way.NOT_YET
    assert "once more, since that was broken off: the line is down" in again, "listed meanwhile, and says why"
    assert len(list((root / "runner").iterdir())) == 1


@pytest.mark.usefixtures("tiny_lock")
def test_a_runner_that_is_not_whole_counts_as_none(running: Run, state: StateDir, tmp_path: Path, root: Path) -> None:
    """So the agent that comes after one that was killed gives it all its time, too."""
    settings = Settings(url="http://127.0.0.1:1", state_dir=state.root)
    left_behind(root / "runner")

    async def play() -> list[str]:
        async with ssh_server(tmp_path / "server") as ssh, open_boards(settings, state, lab_of(ssh)) as watch:
            seen: list[str] = []
            watch.on_change = lambda: seen.append(told(watch))
            await true_soon(lambda: has_answered(watch))
            return seen

    assert running(play())[0] == ssh_way.NOT_YET


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The agent's folder on a board over SSH, which has the tests' interpreter."""
    root = tmp_path / "root"
    monkeypatch.setattr(ssh_way, "ROOTS_ROOT", str(root))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return root


def told(watch: BoardWatch) -> str:
    """What the board tells of its engine; empty where it is not there."""
    engines = [one for present in watch.present() for one in present.report.engines]
    return engines[0].reason or "it answers" if engines else ""


def has_answered(watch: BoardWatch) -> bool:
    """Whether the engine on the board was asked what it can do."""
    return told(watch) != "" and not told(watch).startswith("its runner ")


def lab_of(ssh: SshServer, engine: str = "onnxruntime") -> LabFile:
    """A lab with this server as its only board, which it trusts."""
    ssh.be_known()
    to = ssh.target
    keys: dict[str, Any] = {"key_file": to.key_file, "known_hosts_file": to.known_hosts_file}
    host = SshHost(name="pi", host=to.host, port=to.port, user=to.user, engines=(engine,), **keys)
    return LabFile(local=False, ssh=(host,))


def left_behind(runner: Path) -> None:
    """What a transfer leaves that the board's end, or the agent's, has broken off."""
    (runner / "python-0123456789abcdef.part" / "packages").mkdir(parents=True)
    (runner / "kit.tar.gz.benchfarm-0123456789abcdef").write_bytes(b"part")


def _tools_without_python(folder: Path) -> Path:
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "setsid", "sleep", "cat", "head", "mkdir", "rm", "kill"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    return tools
