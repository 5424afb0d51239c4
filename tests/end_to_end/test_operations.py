"""The operator's handbook: every command of it, in the order of reading, against real peers and a real farm."""

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm_core.boards import BoardState, Health
from benchfarm_core.views import ResultView
from benchfarm_standalone.farm_process import FarmProcess
from tests.agent.agent_process import wait_until
from tests.engines.native.cache import CACHE
from tests.engines.native.conftest import built
from tests.peers.phones import Phone
from tests.peers.sshd import SshHost

HANDBOOK = Path(__file__).parents[2] / "docs" / "operations.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BEGINNING = "An empty bench"
OWN_PROGRAM = "LiteRT's own `benchmark_model`"
SECTIONS = ("A phone", "A Raspberry Pi", "A PC", "An air-gapped box", OWN_PROGRAM)
STAND_IN = Path(__file__).parents[1] / "agent" / "stand_in_benchmark_model.sh"
ADDRESS = "http://127.0.0.1:8650"
ADMIN = "~/.local/state/benchfarm/admin.token"
STAYS = "benchfarm agent run "
GRADED = re.compile(r"\b[A-D], (verified|bounded|unpinned)\b")
COMMAND_S = 240.0
GRADED_S = 240.0
"""For how long a measurement is asked for anew: this machine may be busy with other tests."""
BUNDLES = 4
TABLE = "When something is wrong"
IN_TABLE = re.compile(r"`(benchfarm [^`]+)`")


def blocks() -> dict[str, list[tuple[str, str]]]:
    """By heading: the handbook's blocks in their order, each with its language."""
    parts = re.split(r"^## (.+)$", HANDBOOK.read_text(), flags=re.MULTILINE)
    return {name: BLOCK.findall(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


class Operator:
    """Reads sections and does what they say. replaced: what stands for the reader's own addresses and names."""

    def __init__(self, home: Path, farm: FarmProcess, client: Client) -> None:
        self.lab = home / "lab"
        self.replaced = {ADDRESS: farm.url, ADMIN: str(farm.home.admin_token_file)}
        self.kind = "local"
        self.by_hand: dict[str, Callable[[], None]] = {}
        self.said: list[str] = []
        self._client = client
        self._agent: subprocess.Popen[bytes] | None = None
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BENCHFARM_")},
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BENCHFARM_AGENT_GATE_FOREIGN_THREADS": "1000",  # tests run beside others
        }

    def read(self, section: str) -> None:
        for language, text in blocks()[section]:
            if language == "toml":
                (self.lab / "boards.toml").write_text(self._own(text))
            else:
                for line in text.splitlines():
                    self._do(line)

    def put_right(self) -> list[str]:
        """Does what the table of faults says, on a board that is quarantined; returns the commands."""
        (board,) = [board for board in self._client.boards() if board.kind == self.kind]
        self._client.set_board_health(board.id, Health.QUARANTINED, "a new fan")
        self.replaced |= {"trust NAME": "trust pi5 --boards ~/lab/boards.toml", "BOARD": board.id}
        table = HANDBOOK.read_text().partition(f"## {TABLE}\n")[2]
        commands = IN_TABLE.findall(table)
        for line in commands:
            self._run(line)
        assert self._client.board(board.id).health == Health.GOOD
        return commands

    def bundled(self) -> list[ResultView]:
        """What came out of bundles."""
        return [one for one in self._client.stored_results() if one.bundle_id is not None]

    def measured(self) -> list[ResultView]:
        """All results of the farm."""
        return list(self._client.stored_results())

    def stop(self) -> None:
        if self._agent is not None:
            self._agent.send_signal(signal.SIGTERM)
            assert self._agent.wait(60) == 0, self.agent_said()
            self._agent = None

    def agent_said(self) -> str:
        path = self.lab / "agent.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def _do(self, line: str) -> None:
        if (by_hand := self.by_hand.get(line.split(maxsplit=1)[0])) is not None:
            by_hand()
        elif line.startswith(STAYS):
            with (self.lab / "agent.log").open("ab") as log:
                self._agent = subprocess.Popen(["bash", "-c", f"exec {self._own(line)}"], env=self._env, stderr=log)
            wait_until(self._board_is_there, "the board is listed")
        else:
            self._run(line)

    def _run(self, line: str) -> None:
        until_s = time.monotonic() + GRADED_S
        while True:
            done = subprocess.run(
                ["bash", "-c", self._own(line)], env=self._env, capture_output=True, text=True, timeout=COMMAND_S
            )
            inconclusive = "inconclusive" in done.stdout and "--watch" in line
            too_early = "platform_none_matched" in done.stderr  # a board is listed before its engines have answered
            if not (inconclusive or too_early) or time.monotonic() > until_s:
                break
        self.said.append(done.stdout)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}{self.agent_said()}"

    def _own(self, text: str) -> str:
        for theirs, ours in self.replaced.items():
            text = text.replace(theirs, ours)
        return text

    def _board_is_there(self) -> bool:
        assert self._agent is not None
        assert self._agent.poll() is None, self.agent_said()
        boards = [board for board in self._client.boards() if board.kind == self.kind]
        online = [board for board in boards if board.state is not BoardState.OFFLINE]
        if online:
            self._env["MODEL"] = online[0].board_model
        return bool(online)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, farm_home: Callable[[Path], Path]) -> Iterator[FarmProcess]:
    """What the handbook's first command starts."""
    # on a busy machine some items are tried three times
    env = {"BENCHFARM_RETRY_S": "0.5"}
    with FarmProcess(farm_home(tmp_path_factory.mktemp("farm")), local_board=False, env=env) as farm:
        yield farm


@pytest.fixture
def operator(farm: FarmProcess, tmp_path: Path) -> Iterator[Operator]:
    """Whoever has read how an empty bench begins."""
    tmp_path.chmod(0o711)
    with Client(farm.url, farm.admin_token) as client:
        operator = Operator(tmp_path, farm, client)
        begins, *rest = blocks()[BEGINNING]
        assert begins == ("sh", "benchfarm up --boards none\n")
        for _, text in rest:
            for line in text.splitlines():
                operator._do(line)
        yield operator
        operator.stop()


def test_every_section_is_read_by_a_test() -> None:
    found = blocks()
    assert {name for name, parts in found.items() if parts} == {BEGINNING, *SECTIONS}
    assert all(language in ("sh", "toml") for parts in found.values() for language, _ in parts)


@pytest.mark.timeout(900)  # the first time the native runner has to be built
def test_a_phone(operator: Operator, phone: Phone) -> None:
    runner = built(platform.machine())
    (operator.lab / "agent").mkdir()
    (operator.lab / "agent" / "runners").symlink_to(CACHE)
    own_target = f"--target {platform.machine()} --compiler {'zig' if runner.compiler.startswith('zig') else 'host'}"
    operator.replaced |= {
        "--target aarch64": own_target,
        "adb = true": f'adb = ["{phone.address}"]\nshared_host = ["*"]',
    }
    operator.kind = "adb"
    operator.read("A phone")
    assert GRADED.search(operator.said[-1]), operator.said


def test_an_operators_own_program_on_a_phone_without_a_runner(operator: Operator, phone: Phone) -> None:
    (operator.lab / "benchmark_model").write_text(STAND_IN.read_text().replace("FAULT", "none"))
    operator.replaced |= {
        'abi = "aarch64"': f'abi = "{platform.machine()}"',
        "adb = true": f'adb = ["{phone.address}"]\nshared_host = ["*"]',
    }
    operator.kind = "adb"
    operator.read(OWN_PROGRAM)
    assert "C, unpinned" in operator.said[-1], operator.said
    found = [one.summary for one in operator.measured() if "/litert_benchmark_model-" in one.platform]
    assert [(one.grade, one.normalised_ms) for one in found] == [("C", None)]


def test_a_raspberry_pi(operator: Operator, ssh_host: SshHost) -> None:
    ssh = ssh_host.ssh
    operator.replaced |= {
        "local = false": 'local = false\nshared_host = ["*"]',
        'host = "pi5.lab"': f'host = "{ssh.host}"\nport = {ssh.port}',
        'user = "pi"': f'user = "{ssh.user}"',
    }
    operator.by_hand["ssh-copy-id"] = lambda: ssh_host.authorize((operator.lab / "pi.key.pub").read_text())
    operator.kind = "ssh"
    operator.read("A Raspberry Pi")
    assert GRADED.search(operator.said[-1]), operator.said
    commands = operator.put_right()
    told = operator.said[-len(commands) :]
    for line in ("benchfarm boards why BOARD", "benchfarm boards show BOARD"):
        assert "a new fan" in told[commands.index(line)]


def test_a_pc(operator: Operator) -> None:
    operator.read("A PC")
    assert GRADED.search(operator.said[-1]), operator.said


@pytest.mark.timeout(600)
def test_an_air_gapped_box(operator: Operator) -> None:
    target = f"linux-{platform.machine()}-cp3{sys.version_info[1]}"
    unreachable = "unshare -n " if os.geteuid() == 0 and shutil.which("unshare") else ""
    python = shlex.quote(sys.executable)
    operator.replaced |= {"linux-x86_64-cp311": target, "python3 ~/lab": f"{unreachable}{python} ~/lab"}
    for _ in range(BUNDLES):
        operator.read("An air-gapped box")
        assert not list(operator.lab.glob(".benchfarm-*"))
        if operator.bundled():
            break
        for file in (operator.lab / "box.bundle", *operator.lab.glob("*.results")):
            file.unlink()
    found = operator.bundled()
    assert [one.summary.grade for one in found], operator.said
