"""The runner around an engine that misbehaves: a real module, added to the registry by its one line."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchfarm_engines.launch import launch_environment
from tests.engines.conftest import PROTOCOL

ENGINE = '''
"""An engine that computes x + 0 and does on the side what its environment does not expect."""
import ctypes, os, socket, threading, time
from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, NodeTime, run_marked, unmarked
from benchfarm_engines.engine_options import Option

DEED = {deed!r}

opened = []

class Session:
    tells_means = False
    threads = 7 if DEED == "threads" else 1
    def __init__(self, request):
        self.request, self.runs = request, 0
        opened.append(self)
        self.number = len(opened)
        if DEED == "later threads" and self.number > 1:
            self.threads = 7
    def run(self):
        self.runs += 1
        if DEED == "garbage":
            ctypes.CDLL(None).puts(b'{{"event":"done","visit":0}} from native code')
            print("from Python")
        if DEED == "hang" and not self.request.beside_another:
            time.sleep(60)
        if DEED == "die" and not self.request.beside_another:
            os.abort()
        if DEED == "spin" and self.runs == 1:
            for _ in range(2):
                threading.Thread(target=burn, daemon=True).start()
        time.sleep(0.0002)
    def outputs(self):
        value = self.request.inputs["x"] + 0
        if DEED == "nan" and not self.request.beside_another:
            value.flat[0] = float("nan")
        if DEED == "later" and self.runs > 1 and self.number > 1:
            value += 1
        if DEED == "reopened" and self.number > 4:
            value += 1
        return [value]
    def profile(self, runs, mark=unmarked):
        nodes = [NodeTime("x", "Add", 1000, ("x",))]
        return [nodes] * run_marked(self.run, runs, mark)
    def computes_in(self):
        if DEED == "later precision" and self.number > 1:
            return "bf16"
        if DEED == "speechless" and self.number > 1:
            raise KeyError("runtimePrecision")
        if DEED == "second" and self.number % 2:
            return "bf16" if self.number > 1 else "fp32"
        return "bf16" if DEED == "precision" else "fp32"
    def close(self):
        pass

def burn():
    while True:
        pass

class Hostile:
    name, formats, profiles = "hostile", ("onnx",), True
    options = (Option("fast", "switch", False, "Does nothing."),)
    def version(self):
        return "1.0"
    def precisions(self):
        return ("fp32", "int8", "bf16")
    def open(self, request):
        if DEED == "reach" and not request.beside_another:
            raise EngineFailure(FailureCode.ENGINE_ERROR, "; ".join(reached()))
        return Session(request)

def reached():
    for name, action in {{
        "token": lambda: open({token!r}).read(),
        "loopback": lambda: socket.create_connection(("127.0.0.1", {port}), timeout=2),
        "unix": lambda: socket.socket(socket.AF_UNIX).connect({unix!r}),
        "program": lambda: os.execv("/bin/true", ["true"]),
        "parent": lambda: os.kill(os.getppid(), 0),
    }}.items():
        try:
            action()
            yield name + " reached"
        except OSError as error:
            yield name + " refused"
    yield "environment " + ",".join(sorted(os.environ))

ENGINE = Hostile()
'''

START = """
import sys
sys.path.append({folder!r})
from benchfarm_engines import registry
registry._MODULES["hostile"] = "hostile_engine"
from benchfarm_engines.runner import main
sys.exit(main([]))
"""


@pytest.fixture
def hostile(launch: Any, tmp_path: Path, batch_folder: Path) -> Any:
    """Launches the runner with a hostile engine that does one deed."""
    x = {"name": "x", "dtype": "float32", "shape": [2, 2], "fill": {"kind": "normal", "seed": 0}}
    reference = batch_folder / "identity.npz"
    np.savez(reference, out0=np.random.default_rng(0).standard_normal((2, 2), dtype=np.float32))
    artifact = batch_folder / "identity.onnx"
    artifact.touch()
    visit = {
        "visit": 0,
        "artifact": str(artifact),
        "format": "onnx",
        "inputs": [x],
        "gates": [{"reference": str(reference), "max_relative_l2": 1e-3}],
    }

    def run(
        deed: str, *, token: str = "", port: int = 0, unix: str = "", more: dict[str, Any] | None = None, **changes: Any
    ) -> Any:
        folder = tmp_path / "engine"
        folder.mkdir()
        (folder / "hostile_engine.py").write_text(ENGINE.format(deed=deed, token=token, port=port, unix=unix))
        canaries = {"sgemm": {"n": 64, "seed": 1}, "mobilenet": {"artifact": str(artifact), "inputs": [x]}}
        argv = [sys.executable, "-I", "-c", START.format(folder=str(folder))]
        beside = {key: value for key, value in visit.items() if key != "visit"} | {"opens_first": False}
        kinds = {"beside": beside, "sites": [{"name": "x", "visit": 0}]}
        added = {key: beside | value if key == "beside" else kinds[key] for key, value in (more or {}).items()}
        return launch([visit | added], argv=argv, engine="hostile", canaries=canaries, **changes)

    return run


def test_an_engine_is_one_module_and_one_line(hostile: Any) -> None:
    said = hostile("nothing")
    assert said.done[0]["outcome"] == "ok", said.stderr
    assert said.lines[0]["engine_version"] == "1.0"


def test_native_and_python_prints_go_to_stderr(hostile: Any) -> None:
    said = hostile("garbage")
    assert [line["event"] for line in said.lines] == ["ready", "started", "done", "end"]
    assert "from native code" in said.stderr
    assert "from Python" in said.stderr


def test_it_reaches_no_token_no_socket_no_program_and_no_parent(hostile: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    unix = str(tmp_path / "u")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(unix)
        listening.listen()
        detail = hostile("reach", token=str(token), port=tcp.getsockname()[1], unix=unix).done[0]["detail"]
    *deeds, environment = detail.split("; ")
    assert deeds == [f"{name} refused" for name in ("token", "loopback", "unix", "program", "parent")]
    assert set(environment.removeprefix("environment ").split(",")) <= {*launch_environment("/"), "LC_CTYPE"}


@pytest.mark.parametrize(
    ("deed", "code"),
    [("threads", "threads_not_obeyed"), ("spin", "threads_not_obeyed"), ("precision", "precision_not_obeyed")],
)
def test_promises_are_checked_after_the_first_open(hostile: Any, deed: str, code: str) -> None:
    said = hostile(deed, cores=sorted(os.sched_getaffinity(0)))
    assert (said.returncode, said.lines[-1]["event"], said.lines[-1]["code"]) == (3, "failed", code)


def test_nan_is_a_wrong_result(hostile: Any) -> None:
    line = hostile("nan").done[0]
    assert (line["code"], line["detail"]) == ("wrong_result", "output 0 holds NaN or Inf")


MEMORY = {**PROTOCOL, "purpose": "memory"}
PROFILE = {**PROTOCOL, "purpose": "profile"}


@pytest.mark.parametrize(
    "visit", [{}, {"more": {"beside": {}}}, {"more": {"sites": {}}}, {"protocol": PROFILE}], ids=str
)
def test_what_was_timed_is_checked_and_not_the_first_run_alone(hostile: Any, visit: dict[str, Any]) -> None:
    assert hostile("later", **visit).done[0]["code"] == "wrong_result"


@pytest.mark.parametrize("visit", [{"more": {"sites": {}}}, {"protocol": PROFILE}], ids=str)
def test_a_profile_takes_no_more_threads_than_it_was_given(hostile: Any, visit: dict[str, Any]) -> None:
    assert hostile("later threads", **visit).done[0]["code"] == "threads_not_obeyed"


def test_every_round_of_a_pair_is_checked(hostile: Any) -> None:
    assert hostile("reopened", more={"beside": {}}).done[0]["code"] == "wrong_result"


def test_a_b_side_with_options_of_its_own_is_asked_for_its_precision(hostile: Any) -> None:
    line = hostile("later precision", more={"beside": {"options": {"fast": True}}}).done[0]
    assert line["code"] == "precision_not_obeyed"


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_what_an_engine_has_in_fp32_alone_is_told_and_no_disobedience(hostile: Any, precision: str) -> None:
    line = hostile("nothing", precision=precision, protocol=MEMORY).done[0]
    assert (line["outcome"], line.get("effective_precision")) == ("ok", "fp32"), line


def test_a_b_side_in_fp32_is_told_and_no_disobedience(hostile: Any) -> None:
    line = hostile("nothing", more={"beside": {"precision": "bf16"}}, asks_precision=True).done[0]
    assert (line["outcome"], line["beside"]["effective_precision"]) == ("ok", "fp32"), line


def test_a_model_alone_in_its_process_is_asked_for_its_precision(hostile: Any) -> None:
    assert hostile("precision", protocol=MEMORY).done[0]["code"] == "precision_not_obeyed"


@pytest.mark.parametrize("protocol", [PROTOCOL, PROFILE], ids=["kernel", "profile"])
def test_another_precision_is_told_with_what_was_timed_and_no_failure(hostile: Any, protocol: dict[str, Any]) -> None:
    line = hostile("later precision", protocol=protocol, asks_precision=True).done[0]
    assert (line["outcome"], line["effective_precision"]) == ("ok", "bf16")


def test_a_precision_that_nobody_asks_for_is_not_told(hostile: Any) -> None:
    assert "effective_precision" not in hostile("later precision").done[0]


def test_an_engine_that_trips_over_the_question_has_measured_all_the_same(hostile: Any) -> None:
    line = hostile("speechless", asks_precision=True).done[0]
    assert line["outcome"] == "ok", line
    assert "effective_precision" not in line


def test_a_pair_tells_the_precision_of_both_sides_where_it_is_asked(hostile: Any) -> None:
    line = hostile("second", more={"beside": {}}, asks_precision=True).done[0]
    assert line["outcome"] == "ok", line
    assert {line["effective_precision"], line["beside"]["effective_precision"]} == {"fp32", "bf16"}


def test_a_pair_that_is_not_asked_tells_nothing(hostile: Any) -> None:
    line = hostile("second", more={"beside": {}}).done[0]
    assert line["outcome"] == "ok", line
    assert not {"effective_precision"} & {*line, *line["beside"]}


def test_an_engine_that_sleeps_is_a_timeout(hostile: Any) -> None:
    protocol = {
        "block_min_us": 200,
        "visit_ms": 5,
        "blocks_min": 3,
        "blocks_max": 100,
        "warmup_min_runs": 1,
        "warmup_min_ms": 0,
        "canary_every_ms": 5,
        "visit_timeout_s": 0.2,
    }
    assert hostile("hang", protocol=protocol).done[0]["code"] == "timeout"


def test_a_dead_runner_leaves_whole_lines(hostile: Any) -> None:
    said = hostile("die")
    assert said.returncode == -6
    assert [line["event"] for line in said.lines] == ["ready", "started"]


def test_stdout_is_taken_before_anything_else_can_print() -> None:
    code = (
        "from benchfarm_engines.runner import claim_stdout\n"
        "import ctypes, os\n"
        "lines = claim_stdout()\n"
        "ctypes.CDLL(None).puts(b'native'); print('python'); os.write(1, b'descriptor')\n"
        "lines.write({'event': 'end'})\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == {"event": "end"}
    assert all(word in done.stderr for word in ("native", "python", "descriptor"))
