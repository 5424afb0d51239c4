"""An operator's `benchmark_model` on boards: put there by its hash, heard as a runner, refused what it cannot do.

No binary of LiteRT's is here: a script of ours stands in that says what TensorFlow's sources print.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.benchmark_kit import BenchmarkKit, BenchmarkLines
from benchfarm_agent.boards.interface import LaunchExit, LaunchOrder
from benchfarm_agent.boards.linux_facts import BoardFacts, read_board_facts
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.boards.remote_runner import MissingRunner
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.runner_lines import LaunchRecord, read_lines
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.correctness import BENCHMARK_MODEL
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import EngineSpec, Platform
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_engines.conversion import activations_for, files_of, has_converter
from tests.agent.conftest import LEASE_TOKEN
from tests.agent.ports.local_shell import LocalShellPort
from tests.agent.remote_boards import StandInKit, local_shell, remote_board
from tests.agent.scripted_farm import handed_in
from tests.agent.test_remote_board import lease_on, outcomes, released
from tests.peers.phones import Phone

Run = Callable[[Any], Any]
STAND_IN = Path(__file__).with_name("stand_in_benchmark_model.sh")
CORE = max(os.sched_getaffinity(0))
PHONE_ROOT = "/data/local/tmp/benchfarm"
NONE_BUILT = MissingRunner(("ncnn",), "build one")
BLOCK_NS = 2_010_000  # 40 inferences of 50.25 us


@pytest.fixture
def binary(tmp_path: Path) -> Callable[..., Path]:
    """Makes the operator's program, with a fault."""

    def make(fault: str = "none") -> Path:
        path = tmp_path / "benchmark_model"
        path.write_text(STAND_IN.read_text().replace("FAULT", fault))
        return path

    return make


@pytest.fixture
def port(tmp_path: Path) -> LocalShellPort:
    return local_shell(tmp_path / "calls")


@pytest.fixture
def make(
    port: LocalShellPort, running: Run, state: StateDir, tmp_path: Path, binary: Callable[..., Path]
) -> Callable[..., RemoteBoard]:
    """This host as a board with nothing but the operator's program."""
    facts: BoardFacts = running(read_board_facts(port))

    def board(fault: str = "none", **more: Any) -> RemoteBoard:
        more.setdefault("kit", NONE_BUILT)
        kit = more.pop("kit")
        return remote_board(port, facts, state, str(tmp_path / "board"), kit, tool=BenchmarkKit(binary(fault)), **more)

    return board


def order_of(folder: Path, *visits: int, **changes: Any) -> LaunchOrder:
    """A launch of files that the stand-in does not look into."""
    artifact = folder / "graph"
    artifact.write_bytes(b"TFL3")
    protocol = PROTOCOLS["kernel"].model_dump() | {"purpose": changes.pop("purpose", "latency")}
    fill = {"kind": changes.pop("fill", "normal"), "seed": 1}
    visit = {
        "artifact": str(artifact),
        "format": changes.pop("format", "tflite"),
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 4], "fill": fill}],
        **changes.pop("visit", {}),
    }
    request = {
        "engine": BENCHMARK_MODEL,
        "precision": "fp32",
        "threads": 1,
        "cores": changes.pop("cores", [CORE]),
        "protocol": protocol,
        "visits": [{"visit": number, **visit} for number in visits],
    }
    return LaunchOrder(request, (artifact, folder / "no-reference"), **{"silence_s": 20.0, "lines_max": 9, **changes})


def launched(board: RemoteBoard, order: LaunchOrder, running: Run) -> tuple[LaunchRecord, LaunchExit]:
    async def led() -> tuple[list[bytes], LaunchExit]:
        await board.restore()
        await board.prepare(LEASE_TOKEN)
        lines: list[bytes] = []
        return lines, await board.launch(order, lines.append)

    lines, ended = running(led())
    return read_lines(lines, visits=[one["visit"] for one in order.request["visits"]], launch_no=2), ended


def test_it_is_an_engine_of_its_own_by_its_hash(make: Callable[..., RemoteBoard], running: Run) -> None:
    board = make(kit=StandInKit())
    running(board.restore())
    report = running(board.describe())
    tool = report.engines[-1]
    assert [one.name for one in report.engines] == ["onnxruntime", "ncnn", BENCHMARK_MODEL]
    assert tool.version == hashlib.sha256(STAND_IN.read_text().replace("FAULT", "none").encode()).hexdigest()[:12]
    assert tuple(map(str, tool.precisions)) == ("fp32", "int8")
    assert tool.options is not None
    assert set(tool.options) == {"edges", "calibration_seed"}


def test_a_file_that_changed_since_the_start_is_no_engine(
    make: Callable[..., RemoteBoard], running: Run, tmp_path: Path
) -> None:
    board = make()
    (tmp_path / "benchmark_model").write_text("another one")
    running(board.restore())
    report = running(board.describe()).engines[-1]
    assert (report.name, report.available) == (BENCHMARK_MODEL, False)
    assert "not the one that was put there" in report.reason


def test_a_program_of_another_kind_is_told_with_its_words(
    port: LocalShellPort, running: Run, state: StateDir, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho what is that\n")
    facts = running(read_board_facts(port))
    board = remote_board(port, facts, state, str(tmp_path / "board"), NONE_BUILT, tool=BenchmarkKit(other))
    running(board.restore())
    (report,) = [one for one in running(board.describe()).engines if one.name == BENCHMARK_MODEL]
    assert (report.available, "what is that" in report.reason) == (False, True)


def check_samples(record: LaunchRecord) -> None:
    assert record.garbage is None
    assert record.ready is not None
    assert (record.ready.ungated, record.ready.affinity, record.ready.confinement) == (True, (CORE,), ())
    assert record.end is not None
    for samples in record.samples.values():
        assert (samples.iterations, samples.blocks_ns) == (40, (BLOCK_NS,) * 5)
        assert (samples.gate_relative_l2, samples.canaries, samples.warmup_runs) == (None, {}, 7)
        assert (samples.open_ms, samples.first_ms, samples.launch_no) == (1.718, 0.061, 2)


def test_a_process_is_a_block(make: Callable[..., RemoteBoard], running: Run, tmp_path: Path) -> None:
    record, ended = launched(make(), order_of(tmp_path, 7, 8), running)
    assert (ended.returncode, ended.cut) == (0, None)
    assert set(record.samples) == {7, 8}
    check_samples(record)
    assert sorted(path.name for path in (tmp_path / "board").iterdir() if "launch" not in path.name) == [
        *("files", "lock", "runner", "running", "tools")
    ]


def test_it_measures_on_a_phone(
    phone: Phone, peer_adb: Any, state: StateDir, running: Run, binary: Callable[..., Path], tmp_path: Path
) -> None:
    peer_adb.connect(phone.address)
    port: Port = AdbPort(peer_adb, phone.address)
    facts = running(read_board_facts(port))
    place = Place("adb", phone.address)
    tool = BenchmarkKit(binary())
    board = remote_board(port, facts, state, PHONE_ROOT, NONE_BUILT, place=place, tool=tool)
    record, ended = launched(board, order_of(tmp_path, 1), running)
    assert (ended.returncode, ended.cut) == (0, None), ended.stderr_tail
    assert set(record.samples) == {1}, record
    check_samples(record)
    running(board.restore())


def test_the_binary_is_looked_at_again_at_each_lease(
    make: Callable[..., RemoteBoard], running: Run, tmp_path: Path
) -> None:
    board = make()
    running(board.restore())
    running(board.prepare(LEASE_TOKEN))
    (placed,) = (tmp_path / "board" / "tools").iterdir()
    placed.write_text("#!/bin/sh\necho tampered\n")
    (placed.parent / "benchmark_model-of-yesterday").write_text("old")
    running(board.prepare(LEASE_TOKEN))
    assert placed.read_text() == (tmp_path / "benchmark_model").read_text()
    assert [path.name for path in placed.parent.iterdir()] == [placed.name]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("fails", "Failed to load model"), ("miscounts", "did not run as it was told: 5 blocks of [40, 41]")],
)
def test_what_goes_wrong_is_told_of_the_visit(
    make: Callable[..., RemoteBoard], running: Run, tmp_path: Path, fault: str, said: str
) -> None:
    record, ended = launched(make(fault), order_of(tmp_path, 7, 8), running)
    assert (ended.returncode, record.garbage) == (0, None)
    assert {one.code for one in record.failures.values()} == {FailureCode.ENGINE_ERROR}
    assert set(record.failures) == {7, 8}
    assert all(said in one.detail for one in record.failures.values()), record.failures


def test_one_that_hangs_is_cut_and_blamed(make: Callable[..., RemoteBoard], running: Run, tmp_path: Path) -> None:
    record, ended = launched(make("hangs"), order_of(tmp_path, 7, 8, silence_s=1.0), running)
    assert ended.cut == "silent"
    assert record.running == 7


def test_another_runner_s_lock_is_kept(make: Callable[..., RemoteBoard], running: Run, tmp_path: Path) -> None:
    board = make()
    running(board.restore())
    with (tmp_path / "board" / "running").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        record, _ = launched(board, order_of(tmp_path, 7), running)
    assert record.failed == (FailureCode.ENGINE_UNAVAILABLE, "another runner holds this board's lock")


def test_a_core_that_it_cannot_have_is_told(make: Callable[..., RemoteBoard], running: Run, tmp_path: Path) -> None:
    record, _ = launched(make(), order_of(tmp_path, 7, cores=[4000]), running)
    assert record.failed is not None
    assert record.failed[0] == FailureCode.PIN_NOT_VERIFIED


@pytest.mark.parametrize(
    "changes",
    [
        {"fill": "ints"},
        {"strict": True},
        {"purpose": "memory"},
        {"format": "onnx"},
        {"visit": {"beside": {"visit": 1}}},
        {"visit": {"sites": [{"name": "a", "visit": 7}]}},
    ],
)
def test_what_it_cannot_do_is_refused_without_a_process(
    make: Callable[..., RemoteBoard], running: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    record, _ = launched(make("hangs"), order_of(tmp_path, 7, **changes), running)
    assert record.failures[7].code == FailureCode.CONVERSION_FAILED
    assert "this program" in record.failures[7].detail


def test_without_a_runner_and_without_the_program_there_is_no_lease(
    port: LocalShellPort, running: Run, state: StateDir, tmp_path: Path
) -> None:
    facts = running(read_board_facts(port))
    board = remote_board(port, facts, state, str(tmp_path / "board"), NONE_BUILT)
    with pytest.raises(TransientDeviceError, match="build one"):
        running(board.prepare(LEASE_TOKEN))


@pytest.mark.parametrize("line", [b"ended", b"started x", b"hello", b"done"])
def test_other_words_are_held_to_be_garbage(line: bytes) -> None:
    lines: list[bytes] = []
    request = {"cores": [0], "precision": "fp32", "threads": 1}
    hears = BenchmarkLines(lines.append, request, "1", {}, 5)
    for one in (b"cores 0", b"started 7", line):
        hears.hear(one)
    hears.hear(b"done 7")
    record = read_lines(lines, visits=[7], launch_no=0)
    assert record.garbage is not None or record.failures[7].code == FailureCode.ENGINE_ERROR


def test_its_files_are_litert_s() -> None:
    assert (files_of(BENCHMARK_MODEL), files_of("ncnn")) == ("litert", "ncnn")
    assert has_converter(BENCHMARK_MODEL)
    assert activations_for(BENCHMARK_MODEL) == activations_for("litert")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_whole_lease_with_files_of_our_converter(
    make: Callable[..., RemoteBoard],
    state: StateDir,
    grant: Callable[..., LeaseGrant],
    running: Run,
    binary: Callable[..., Path],
    precision: str,
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    asked = grant(2, engine=BENCHMARK_MODEL)
    engine = EngineSpec(name=BENCHMARK_MODEL, version=BenchmarkKit(binary()).version)
    platform: Platform = asked.platform.model_copy(update={"precision": precision, "engine": engine})
    calls = running(lease_on(make(), state, asked.model_copy(update={"platform": platform})))
    assert outcomes(calls) == {1: "ok", 2: "ok"}
    assert released(calls)["reason"] == "done"
    launches = [one for body in handed_in(calls) for one in body["launches"]]
    assert len(launches) == 3
    assert all(one["ungated"] and one["confinement"] == [] for one in launches), json.dumps(launches[0])
