"""The runner as the agent sees it: a real process, real engines, JSON in, JSON lines out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import benchfarm_core
from benchfarm_core.confine import left_open
from benchfarm_core.profilers import in_situ_by
from benchfarm_engines.conversion import has_converter
from benchfarm_engines.launch import launch_environment, runner_argv
from benchfarm_engines.registry import engine_names
from tests.engines.made_for import installed
from tests.old_kernel import OLD_KERNEL

X = {"name": "x", "dtype": "float32", "shape": [1, 4], "fill": {"kind": "normal", "seed": 0}}


def visits_of(workloads: dict[str, Any], *names: str, **changes: Any) -> list[dict[str, Any]]:
    return [workloads[name].visit(number, **changes) for number, name in enumerate(names)]


@pytest.fixture(params=engine_names())
def engine(request: pytest.FixtureRequest) -> str:
    return installed(request.param).name


@pytest.fixture(params=[name for name in engine_names() if not has_converter(name)])
def onnx_engine(request: pytest.FixtureRequest) -> str:
    """One that opens an uploaded file itself."""
    return installed(request.param).name


def test_a_launch_tells_everything_in_order(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    said = launch(visits_of(workloads, "conv", "small", "two"), engine=engine)
    assert said.returncode == 0, said.stderr
    expected = ["ready", *["started", "done"] * 3, "end"]
    assert [line["event"] for line in said.lines] == expected
    ready, end = said.lines[0], said.lines[-1]
    assert (ready["engine"], ready["precision"], ready["threads"], ready["threads_observed"]) == (engine, "fp32", 1, 1)
    assert {"rlimits", "no_new_privs"} <= set(ready["confinement"])
    assert len(ready["affinity"]) == 1
    assert 0 < ready["witness_cost_ns"] < 10_000_000
    assert end["wall_ms"] >= end["timed_ms"] + end["canary_ms"] + end["open_ms"]
    assert end["timed_ms"] == pytest.approx(sum(line["timed_ms"] for line in said.done.values()))
    assert end["peak_rss_bytes"] > 10_000_000
    assert end["first_block_unix_s"] > 1.6e9


def test_samples_are_raw_and_complete(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    done = launch(visits_of(workloads, "conv", "small"), engine=engine).done
    for line in done.values():
        blocks = len(line["blocks_ns"])
        assert 5 <= blocks <= 100
        assert blocks == len(line["delays_ns"]) == len(line["switches"])
        assert line["timed_ms"] == pytest.approx(sum(line["blocks_ns"]) / 1e6)
        for samples in line["canaries"].values():
            positions = [position for position, _ in samples]  # disturbed runs are left out
            assert positions == sorted(positions)
            assert all(0 <= position <= blocks for position in positions)
            assert all(ns > 0 for _, ns in samples)
        assert line["gate_relative_l2"] < 1e-3
    assert done[1]["iterations"] > done[0]["iterations"] >= 1


def test_a_block_lasts_as_long_as_asked(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    """Its length is fixed beforehand on the fastest run; a machine that gets faster in between may do so thrice."""
    medians_ns = [np.median(launch(visits_of(workloads, "small"), engine=engine).done[0]["blocks_ns"]) for _ in "123"]
    assert float(max(medians_ns)) >= 180_000


def test_the_samples_are_what_core_takes(launch: Any, workloads: dict[str, Any]) -> None:
    from benchfarm_core.measurements import LaunchSamples

    line = launch(visits_of(workloads, "conv")).done[0]
    fields = {name: line[name] for name in LaunchSamples.model_fields if name in line}
    assert LaunchSamples(launch_no=0, **fields).iterations == line["iterations"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_computes_in_the_precision_that_was_asked_for(
    launch: Any, workloads: dict[str, Any], precision: str
) -> None:
    said = launch(visits_of(workloads, "conv", max_relative_l2=3e-2), engine="openvino", precision=precision)
    if said.returncode == 3:
        assert said.lines == [
            {"event": "failed", "code": "precision_not_obeyed", "detail": "openvino has fp32 on this host"}
        ]
        pytest.skip("this processor has no bf16")
    error = said.done[0]["gate_relative_l2"]
    assert error < 1e-5 if precision == "fp32" else error > 1e-4


def test_two_threads_are_two(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    from os import sched_getaffinity

    cores = sorted(sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core only")
    said = launch(visits_of(workloads, "conv"), engine=engine, threads=2, cores=cores)
    assert said.lines[0]["threads_observed"] == 2
    assert said.lines[0]["affinity"] == cores
    assert said.done[0]["outcome"] == "ok"


def test_the_home_stays_empty_and_nothing_is_inherited(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    said = launch(visits_of(workloads, "conv"), engine=engine)
    assert said.done[0]["outcome"] == "ok"
    assert list(said.home.rglob("*")) == []


def test_a_cache_is_filled_once_and_used_again(launch: Any, workloads: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "home" / "cache"
    files = []
    for _ in range(2):
        said = launch(visits_of(workloads, "conv", "small"), engine="openvino", cache=str(cache))
        assert [line["outcome"] for line in said.done.values()] == ["ok", "ok"]
        files.append(sorted((file.name, file.stat().st_mtime_ns) for file in cache.iterdir()))
    assert files[0] == files[1]
    assert len(files[0]) == 2


# --- what a workload can do wrong: one typed failure, and the next visit is measured


def gates(reference: Path) -> list[dict[str, Any]]:
    return [{"reference": str(reference), "max_relative_l2": 1e-3}]


def outcome_beside_a_good_one(launch: Any, workloads: dict[str, Any], bad: dict[str, Any], **changes: Any) -> Any:
    said = launch([bad, workloads["conv"].visit(7)], **changes)
    assert said.done[7]["outcome"] == "ok", said.stderr
    assert said.lines[-1]["event"] == "end"
    line = said.done[bad["visit"]]
    assert line["outcome"] == "failed"
    assert len(line["detail"]) <= 300
    assert str(workloads["conv"].artifact.parent) not in line["detail"]
    return line["code"]


def test_the_last_line_tells_how_far_the_farthest_output_lay_from_its_twin(
    launch: Any, workloads: dict[str, Any]
) -> None:
    conv = workloads["conv"]
    own, far = gates(conv.reference), [{"reference": str(workloads["small"].reference), "max_relative_l2": 1e-3}]
    assert launch([conv.visit(0)]).lines[-1]["twin_relative_l2"] is None
    said = launch([conv.visit(0, gates=own * 2), conv.visit(1, gates=own + far)])
    assert [said.done[number]["outcome"] for number in (0, 1)] == ["ok", "failed"]
    assert said.lines[-1]["twin_relative_l2"] == pytest.approx(said.done[0]["gate_relative_l2"])


def test_a_wrong_result_is_no_number(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    bad = workloads["conv"].visit(1, inputs=[{**workloads["conv"].inputs[0], "fill": {"kind": "normal", "seed": 9}}])
    assert outcome_beside_a_good_one(launch, workloads, bad, engine=engine) == "wrong_result"


def test_another_shape_than_the_reference_is_a_wrong_result(launch: Any, workloads: dict[str, Any]) -> None:
    bad = workloads["conv"].visit(1, gates=gates(workloads["small"].reference))
    assert outcome_beside_a_good_one(launch, workloads, bad) == "wrong_result"


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00"])
def test_a_garbage_reference_is_the_farms_fault(
    launch: Any, workloads: dict[str, Any], batch_folder: Path, content: bytes
) -> None:
    garbage = batch_folder / "garbage.npz"
    garbage.write_bytes(content)
    bad = workloads["conv"].visit(1, gates=gates(garbage))
    assert outcome_beside_a_good_one(launch, workloads, bad) == "engine_error"


def test_a_visit_that_takes_too_long_is_a_timeout(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    request = launch([])  # for the protocol of the fixture
    assert request.returncode == 0
    slow = {
        "block_min_us": 200,
        "visit_ms": 60_000,
        "blocks_min": 100_000,
        "blocks_max": 100_000,
        "warmup_min_runs": 1,
        "warmup_min_ms": 0,
        "canary_every_ms": 1000,
        "visit_timeout_s": 0.3,
    }
    said = launch(visits_of(workloads, "conv", "small"), engine=engine, protocol=slow)
    assert [line["code"] for line in said.done.values()] == ["timeout", "timeout"]
    assert said.lines[-1]["event"] == "end"


def expanding_model(elements: int) -> bytes:
    shape = numpy_helper.from_array(np.array([elements // 4, 4], dtype=np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [shape],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


def test_an_output_larger_than_the_limit_is_out_of_memory(
    launch: Any, workloads: dict[str, Any], write_model: Any, onnx_engine: str
) -> None:
    model = write_model("huge", expanding_model(2**30), [X])
    bad = model.visit(1, gates=gates(workloads["two"].reference))
    assert outcome_beside_a_good_one(launch, workloads, bad, engine=onnx_engine) == "out_of_memory"


def test_an_input_larger_than_the_limit_is_out_of_memory(launch: Any, workloads: dict[str, Any]) -> None:
    bad = workloads["conv"].visit(1, inputs=[{**X, "shape": [2**30, 4]}])
    assert outcome_beside_a_good_one(launch, workloads, bad) == "out_of_memory"


def test_weights_outside_the_file_are_not_followed_to_a_token(
    launch: Any, workloads: dict[str, Any], write_model: Any, tmp_path: Path, onnx_engine: str
) -> None:
    token = tmp_path / "token"
    token.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    token.chmod(0o600)
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=str(token))
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [outside],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    bad = write_model("outside", content, [X]).visit(1, gates=gates(workloads["two"].reference))
    code = outcome_beside_a_good_one(launch, workloads, bad, engine=onnx_engine)
    assert code in {"engine_error", "conversion_failed", "invalid_workload"}


# --- what ends a launch: one line, exit status 3


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"contract": 1}, "bad_request"),
        ({"engine": "tvm"}, "engine_unavailable"),
        ({"precision": "int8"}, "precision_not_obeyed"),
        ({"options": {"path": "/etc"}}, "bad_request"),
        ({"cores": [4000]}, "affinity_refused"),
        ({"threads": 0}, "bad_request"),
        ({"canaries": {}}, "bad_request"),
    ],
)
def test_a_launch_that_cannot_go_on_says_why(launch: Any, changes: dict[str, Any], code: str) -> None:
    said = launch([], **changes)
    assert said.returncode == 3
    assert [(line["event"], line["code"]) for line in said.lines] == [("failed", code)]


BARRED = """
import sys
sys.path.append({core!r})
{old_kernel}os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program on a kernel that has neither Landlock nor namespaces nor filters, as far as it can tell."""


def cage(batch_folder: Path, tmp_path: Path, *, strict: bool) -> dict[str, Any]:
    """Limits of a runner that stays the user it is."""
    folders = {"readable": [str(batch_folder)], "writable": [str(tmp_path / "home")]}
    return {"memory_bytes": 3 * 1024**3, "cpu_s": 60, **folders, "network": False, "strict": strict}


@pytest.mark.parametrize("strict", [True, False])
def test_a_strangers_file_is_refused_where_no_cage_holds(
    launch: Any, workloads: dict[str, Any], batch_folder: Path, tmp_path: Path, strict: bool
) -> None:
    core = str(Path(benchfarm_core.__file__).parent.parent)
    argv = [sys.executable, "-I", "-c", BARRED.format(core=core, old_kernel=OLD_KERNEL), *runner_argv()]
    wanted = cage(batch_folder, tmp_path, strict=strict)
    said = launch(visits_of(workloads, "small"), argv=argv, limits=wanted)
    if strict:
        assert (said.returncode, said.lines[0]["code"]) == (3, "engine_unavailable")
        assert "files and network stay open" in said.lines[0]["detail"]
    else:
        assert not {"landlock", "netns", "seccomp"} & set(said.lines[0]["confinement"]), "the bars do not hold"
        assert said.done[0]["outcome"] == "ok"


def test_a_strangers_file_runs_where_the_cage_holds(
    launch: Any, workloads: dict[str, Any], batch_folder: Path, tmp_path: Path
) -> None:
    wanted = cage(batch_folder, tmp_path, strict=True)
    said = launch(visits_of(workloads, "small"), limits=wanted)
    if said.lines[0]["event"] == "failed":
        pytest.skip(said.lines[0]["detail"])
    assert not left_open(said.lines[0]["confinement"])
    assert said.done[0]["outcome"] == "ok", said.lines


def test_text_instead_of_a_request(tmp_path: Path) -> None:
    done = subprocess.run(
        runner_argv(), input="hello", env=launch_environment(str(tmp_path)), capture_output=True, text=True
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["code"] == "bad_request"


def test_a_canary_that_does_not_run_ends_the_launch(launch: Any, batch_folder: Path) -> None:
    broken = batch_folder / "broken.onnx"
    broken.write_text("no model")
    canaries = {"sgemm": {"n": 64, "seed": 1}, "mobilenet": {"artifact": str(broken), "inputs": [X]}}
    said = launch([], canaries=canaries)
    assert (said.returncode, said.lines[0]["code"]) == (3, "engine_unavailable")


def probe(engine: str, scratch: Path) -> str:
    argv, environment = [*runner_argv(), "--probe", engine], launch_environment(str(scratch))
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60).stdout


def test_a_probe_says_what_an_engine_is(tmp_path: Path, engine: str) -> None:
    found = json.loads(probe(engine, tmp_path))
    assert (found["engine"], found["available"], found["reason"]) == (engine, True, "")
    assert found["version"][0].isdigit()
    assert "fp32" in found["precisions"]
    assert all({"kind", "default", "meaning"} <= set(option) for option in found["options"].values())
    assert found["by_difference"] is (in_situ_by(engine, "fp32") == "difference")
    assert list(tmp_path.iterdir()) == []


def test_a_probe_of_an_unknown_engine_is_an_answer_too(tmp_path: Path) -> None:
    said = probe("tvm", tmp_path)
    assert json.loads(said)["available"] is False
    assert sys.executable not in said
