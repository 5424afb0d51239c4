"""The native runner keeps the contract of the Python runner, beside which it is held."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from benchfarm_agent.runner_lines import read_lines
from benchfarm_core.confine import left_open
from benchfarm_core.measurements import LaunchSamples
from benchfarm_engines.launch import runner_argv
from benchfarm_engines.native_build import BuiltRunner
from benchfarm_engines.ncnn_engine import ENGINE
from benchfarm_engines.ncnn_file import Blob, NcnnModel, pack_artifact
from tests.engines.catalogue import KERNELS, drawn_kernels
from tests.engines.conftest import (
    CORES,
    PROTOCOL,
    as_engine_opens,
    conv_graph,
    graph,
    launch_request,
    limits,
    normal,
)
from tests.engines.made_for import made_for
from tests.engines.native.conftest import answered
from tests.engines.test_ncnn_engine import IN_INT8, WITH_INT8_INSIDE, kernel
from tests.engines.test_pair_visit import pair_of

pytestmark = pytest.mark.timeout(1200)  # the first test waits for the build


def visits_of(workloads: dict[str, Any], *names: str, **changes: Any) -> list[dict[str, Any]]:
    return [workloads[name].visit(number, **changes) for number, name in enumerate(names)]


def samples_of(line: dict[str, Any]) -> LaunchSamples:
    assert line["outcome"] == "ok", line
    return LaunchSamples.model_validate(
        {"launch_no": 0, **{name: line[name] for name in LaunchSamples.model_fields if name in line}}
    )


def test_the_probe_is_that_of_the_python_runner(runner: BuiltRunner, tmp_path: Path) -> None:
    _, [ours] = answered([str(runner.path), "--probe", "ncnn"], tmp_path)
    _, [told] = answered([*runner_argv(), "--probe", "ncnn"], tmp_path)
    # in which precisions an option has an effect the farm knows by its name
    told["options"] = {
        name: {part: value for part, value in option.items() if part != "precisions"}
        for name, option in told["options"].items()
    }
    assert told.pop("by_difference") is True  # for which it has no visit, and so it does not say so
    assert ours == told
    assert ours["available"] is True


def test_a_probe_of_another_engine_is_an_answer_too(runner: BuiltRunner, tmp_path: Path) -> None:
    _, [said] = answered([str(runner.path), "--probe", "onnxruntime"], tmp_path)
    assert (said["engine"], said["available"]) == ("onnxruntime", False)


def test_a_launch_tells_everything_in_order(native: Any, workloads: dict[str, Any]) -> None:
    said = native(visits_of(workloads, "conv", "small", "two"))
    assert said.returncode == 0, said.stderr
    assert [line["event"] for line in said.lines] == ["ready", *["started", "done"] * 3, "end"]
    ready, end = said.lines[0], said.lines[-1]
    assert (ready["engine"], ready["precision"], ready["threads"], ready["threads_observed"]) == ("ncnn", "fp32", 1, 1)
    assert {"rlimits", "no_new_privs"} <= set(ready["confinement"])
    assert ready["affinity"] == CORES[-1:]
    assert 0 < ready["witness_cost_ns"] < 10_000_000
    assert end["wall_ms"] >= end["timed_ms"] + end["canary_ms"] + end["open_ms"] - 20  # counted in ticks of 10 ms
    assert end["timed_ms"] == pytest.approx(sum(line["timed_ms"] for line in said.done.values()))
    assert end["peak_rss_bytes"] > 1_000_000
    assert end["first_block_unix_s"] > 1.6e9
    assert list(said.home.rglob("*")) == []


def test_the_agent_reads_what_it_says(native: Any, workloads: dict[str, Any]) -> None:
    said = native(visits_of(workloads, "conv", "small", "two"))
    record = read_lines([json.dumps(line).encode() for line in said.lines], visits=[0, 1, 2], launch_no=0)
    assert record.garbage is None
    assert set(record.samples) == {0, 1, 2}
    assert record.end is not None


def test_samples_are_raw_and_complete(native: Any, workloads: dict[str, Any]) -> None:
    done = native(visits_of(workloads, "conv", "small")).done
    for line in done.values():
        samples = samples_of(line)
        assert 5 <= len(samples.blocks_ns) <= 100
        assert len(set(samples.lengths)) == 1
        assert set(line["canaries"]) == {"sgemm", "mobilenet"}
        for runs in line["canaries"].values():
            positions = [position for position, _ in runs]
            assert positions == sorted(positions)
            assert all(0 <= position <= len(samples.blocks_ns) for position in positions)
    assert done[1]["iterations"] > done[0]["iterations"] >= 1
    assert float(np.median(done[1]["blocks_ns"])) > 100_000


def both(
    native: Any, launch: Any, visits: list[dict[str, Any]], **changes: Any
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The `done` lines of the native and the Python runner."""
    ours, theirs = native(visits, **changes), launch(visits, engine="ncnn", **changes)
    assert set(ours.done) == set(theirs.done) == {visit["visit"] for visit in visits}, ours.stderr
    return [(ours.done[number], theirs.done[number]) for number in sorted(ours.done)]


QUICK = {**PROTOCOL, "visit_ms": 1, "blocks_min": 1, "warmup_min_runs": 1, "warmup_min_ms": 0, "block_min_us": 1}


def test_every_kernel_type_is_computed_as_in_python(native: Any, launch: Any, write_graph: Any) -> None:
    """Each passes the gate, or is refused for the same reason."""
    kernels = [write_graph(f"native-{name}", drawn_kernels(name, 1)[0]) for name in KERNELS]
    visits = [one.visit(number) for number, one in enumerate(kernels)]
    for name, (ours, theirs) in zip(KERNELS, both(native, launch, visits, protocol=QUICK), strict=True):
        assert ours["outcome"] == theirs["outcome"] == "ok", (name, ours, theirs)
        assert ours["gate_relative_l2"] < 1e-3, name


def test_int8_is_computed_as_in_python(native: Any, launch: Any, write_graph: Any) -> None:
    kinds = IN_INT8 | WITH_INT8_INSIDE
    kernels = [write_graph(f"native-int8-{name}", kernel(name, config)) for name, config in kinds.items()]
    visits = [one.visit(number, max_relative_l2=0.1) for number, one in enumerate(kernels)]
    asked = {"protocol": QUICK, "precision": "int8", "asks_precision": True}
    for name, (ours, theirs) in zip(kinds, both(native, launch, visits, **asked), strict=True):
        assert ours["outcome"] == theirs["outcome"] == "ok", (name, ours, theirs)
        assert ours["effective_precision"] == theirs["effective_precision"] == "int8", name
        assert ours["gate_relative_l2"] == pytest.approx(theirs["gate_relative_l2"], abs=2e-3), name


def test_a_batch_and_two_inputs(native: Any, workloads: dict[str, Any], write_graph: Any) -> None:
    three = write_graph("native-batch", kernel("conv-bn-act", IN_INT8["conv-bn-act"], batch=3))
    done = native([workloads["dynamic"].visit(0), three.visit(1), workloads["two"].visit(2)]).done
    assert [line["outcome"] for line in done.values()] == ["ok"] * 3, done


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_seeded_inputs_are_the_very_numbers_of_numpy(native: Any, write_graph: Any, seed: int) -> None:
    """A million of them: one more draw somewhere would shift all that follow."""
    content = graph([helper.make_node("Neg", ["x"], ["y"])], {"x": [1, 1000, 1000]}, ["y"])
    shape = [1, 1000, 1000]
    workload = write_graph(f"native-fill-{seed}", (content, _specs([normal(shape, seed=seed)])))
    line = native([workload.visit(0, max_relative_l2=1e-8)], protocol=QUICK).done[0]
    assert line["outcome"] == "ok", line


def _specs(documents: list[dict[str, Any]]) -> Any:
    from benchfarm_engines.launch_request import read_inputs

    return read_inputs(documents)


def test_two_threads_are_two(native: Any, workloads: dict[str, Any]) -> None:
    if len(CORES) < 2:
        pytest.skip("one core only")
    said = native(visits_of(workloads, "conv", "small"), threads=2, cores=CORES[:2])
    assert said.lines[0]["threads_observed"] == 2, said.lines
    assert [line["outcome"] for line in said.done.values()] == ["ok", "ok"]


def native_pair(workloads: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The convolution beside the small one, whose file is the engine's own too."""
    visit = pair_of(workloads, "conv", "small", **changes)
    return visit | {"beside": visit["beside"] | made_for(ENGINE, workloads["small"]).part_of_visit()}


def test_a_pair_is_timed_in_turn(native: Any, workloads: dict[str, Any]) -> None:
    line = native([native_pair(workloads, opens_first=True)]).done[0]
    samples = samples_of(line)
    assert samples.beside is not None
    assert sum(samples.beside.rounds) == len(samples.blocks_ns)
    assert len(set(samples.lengths)) == 1
    assert samples.iterations < samples.beside.iterations
    refused = native([native_pair(workloads, options={"nothing": 1})]).done[0]
    assert (refused["outcome"], refused["code"]) == ("failed", "engine_error")


def test_memory_is_that_of_the_one_workload(native: Any, workloads: dict[str, Any]) -> None:
    said = native([workloads["conv"].visit(4)], protocol={**PROTOCOL, "purpose": "memory"})
    assert said.lines[0]["threads_observed"] == 0
    found = samples_of(said.done[4])
    assert found.memory is not None
    assert 0 < found.memory.base_pss_bytes < found.memory.loaded_pss_bytes <= found.memory.peak_pss_bytes
    assert found.canaries == {}
    assert sum(found.blocks_ns) / 1e6 == pytest.approx(found.open_ms + found.first_ms)


def test_a_profile_is_refused_as_by_python(native: Any, launch: Any, workloads: dict[str, Any]) -> None:
    visits, profile = [workloads["conv"].visit(0)], {**PROTOCOL, "purpose": "profile"}
    [(ours, theirs)] = both(native, launch, visits, protocol=profile)
    assert ours == theirs


# --- what a workload can do wrong: one typed failure, and the next visit is measured


def outcome_beside_a_good_one(native: Any, workloads: dict[str, Any], bad: dict[str, Any], **changes: Any) -> Any:
    said = native([bad, workloads["conv"].visit(7)], **changes)
    assert said.done[7]["outcome"] == "ok", said.lines
    assert said.lines[-1]["event"] == "end"
    line = said.done[bad["visit"]]
    assert line["outcome"] == "failed"
    assert str(workloads["conv"].artifact.parent) not in line["detail"]
    return line["code"]


def test_a_wrong_result_is_no_number(native: Any, workloads: dict[str, Any]) -> None:
    other = {**workloads["conv"].inputs[0], "fill": {"kind": "normal", "seed": 9}}
    bad = workloads["conv"].visit(1, inputs=[other])
    assert outcome_beside_a_good_one(native, workloads, bad) == "wrong_result"


def test_each_output_is_held_to_its_own_reference_as_by_python(
    native: Any, launch: Any, write_model: Any, references: Any, batch_folder: Path
) -> None:
    """A wrong output that is small beside the others is a wrong result all the same."""
    content = graph(
        [
            helper.make_node("Relu", ["x"], ["large"]),
            helper.make_node("Mul", ["x", "tiny"], ["small"]),
        ],
        {"x": [1, 4, 8, 8]},
        ["large", "small"],
        {"tiny": np.array(1e-5, np.float32)},
    )
    workload = write_model("two-outputs", content, [normal([1, 4, 8, 8])])
    [answer] = references([(workload.artifact, workload.inputs, workload.reference)])
    assert answer["ok"], answer
    made = made_for(ENGINE, workload).part_of_visit()
    [(ours, theirs)] = both(native, launch, [workload.visit(0, **made)])
    assert (ours["outcome"], theirs["outcome"]) == ("ok", "ok")
    with np.load(workload.reference) as kept:
        spoilt = batch_folder / "two-outputs-spoilt.npz"
        np.savez(spoilt, out0=kept["out0"], out1=-kept["out1"])
    bad = workload.visit(0, **made, gates=[{"reference": str(spoilt), "max_relative_l2": 1e-3}])
    [(ours, theirs)] = both(native, launch, [bad])
    assert (ours["code"], theirs["code"]) == ("wrong_result", "wrong_result")
    assert "of output 1 by itself" in ours["detail"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00", None])
def test_a_bad_reference_is_the_farms_fault(
    native: Any, workloads: dict[str, Any], batch_folder: Path, content: bytes | None
) -> None:
    garbage = batch_folder / "native-garbage.npz"
    garbage.unlink(missing_ok=True)
    if content is not None:
        garbage.write_bytes(content)
    bad = workloads["conv"].visit(1, gates=[{"reference": str(garbage), "max_relative_l2": 1e-3}])
    assert outcome_beside_a_good_one(native, workloads, bad) == "engine_error"


def test_a_damaged_reference_is_noticed(native: Any, workloads: dict[str, Any], batch_folder: Path) -> None:
    content = bytearray(workloads["conv"].reference.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = batch_folder / "native-damaged.npz"
    damaged.write_bytes(content)
    bad = workloads["conv"].visit(1, gates=[{"reference": str(damaged), "max_relative_l2": 1e-3}])
    assert outcome_beside_a_good_one(native, workloads, bad) == "engine_error"


def test_a_visit_that_takes_too_long_is_a_timeout(native: Any, workloads: dict[str, Any]) -> None:
    slow = {**PROTOCOL, "visit_ms": 60_000, "blocks_min": 100_000, "blocks_max": 100_000, "visit_timeout_s": 0.3}
    said = native(visits_of(workloads, "conv", "small"), protocol=slow)
    assert [line["code"] for line in said.done.values()] == ["timeout", "timeout"]
    assert said.lines[-1]["event"] == "end"


def test_an_input_larger_than_the_limit_is_out_of_memory(native: Any, workloads: dict[str, Any]) -> None:
    huge = {"name": "x", "dtype": "float32", "shape": [2**30, 4], "fill": {"kind": "normal", "seed": 0}}
    bad = workloads["conv"].visit(1, **made_for(ENGINE, workloads["conv"]).part_of_visit(), inputs=[huge])
    assert outcome_beside_a_good_one(native, workloads, bad) == "out_of_memory"


def artifact_visit(workloads: dict[str, Any], folder: Path, content: bytes) -> dict[str, Any]:
    """The conv workload with a file of our own in place of its artifact."""
    file = folder / "own.ncnn"
    file.write_bytes(content)
    edge = {"name": "in0", "dtype": "float32", "axes": [], "shape": [32, 28, 28], "scale": 0.0, "zero_point": 0}
    edges = {"inputs": [edge], "outputs": [{**edge, "name": "out0", "shape": []}]}
    visit: dict[str, Any] = workloads["conv"].visit(1)
    return visit | {"artifact": str(file), "format": "ncnn", "edges": edges}


def model_of(kind: str, weights: bytes = b"") -> bytes:
    param = f"7767517\n2 2\nInput l0 0 1 in0\n{kind} l1 1 1 in0 out0\n"
    return pack_artifact(NcnnModel(param, (Blob("in0", "float32", (32, 28, 28)),), (Blob("out0", "float32"),)), weights)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_workload"),
        (b"7767517\n", "invalid_workload"),
        (model_of("ReLU")[:-1], "invalid_workload"),
        (model_of("ReLU").replace(b"ReLU", b"Relu"), "invalid_workload"),
        (model_of("Hologram"), "unsupported_operator"),
        (model_of("LSTM"), "unsupported_operator"),
    ],
)
def test_bad_files_never_reach_ncnn(
    native: Any, workloads: dict[str, Any], tmp_path: Path, batch_folder: Path, content: bytes, code: str
) -> None:
    bad = artifact_visit(workloads, batch_folder, content)
    said = native([bad])
    assert said.done[1]["code"] == code, said.lines


@pytest.mark.parametrize("name", ["nowhere.ncnn", "."])
def test_a_missing_file_is_a_failed_visit(
    runner: BuiltRunner, workloads: dict[str, Any], batch_folder: Path, tmp_path: Path, name: str
) -> None:
    request = launch_request([], batch_folder, tmp_path, workloads["conv"]) | {"engine": "ncnn"}
    bad = artifact_visit(workloads, batch_folder, b"") | {"artifact": str(batch_folder / name)}
    status, lines = answered([str(runner.path)], tmp_path, json.dumps(as_engine_opens(request) | {"visits": [bad]}))
    assert (status, [line["code"] for line in lines if line["event"] == "done"]) == (0, ["engine_error"])


# --- what ends a launch


@pytest.mark.parametrize(
    "text", ["hello", "", "[]", "{", '{"contract": 2}', '{"contract": 1e999}', "[" * 100_000, '{"contract": 2} x']
)
def test_no_request_is_bad(runner: BuiltRunner, tmp_path: Path, text: str) -> None:
    status, lines = answered([str(runner.path)], tmp_path, text)
    assert (status, [line["code"] for line in lines]) == (3, ["bad_request"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"contract": 1}, "bad_request"),
        ({"threads": 0}, "bad_request"),
        ({"options": {"turbo": True}}, "bad_request"),
        ({"options": {"winograd": 1}}, "bad_request"),
        ({"precision": "bf16"}, "precision_not_obeyed"),
        ({"cores": [4095]}, "affinity_refused"),
        ({"cores": []}, "affinity_refused"),
    ],
)
def test_a_request_that_cannot_be_served(native: Any, changes: dict[str, Any], code: str) -> None:
    said = native([], **changes)
    assert (said.returncode, said.lines[-1]["code"]) == (3, code)


def test_another_engine_is_not_available(native: Any) -> None:
    said = native([], engine="onnxruntime")
    assert (said.returncode, said.lines[0]["code"]) == (3, "engine_unavailable")


def test_a_canary_that_does_not_run_ends_the_launch(native: Any, batch_folder: Path) -> None:
    broken = batch_folder / "native-broken.ncnn"
    broken.write_text("no model")
    canaries = {"sgemm": {"n": 64, "seed": 1}, "mobilenet": {"artifact": str(broken), "inputs": [normal([1, 4])]}}
    said = native([], canaries=canaries)
    assert (said.returncode, said.lines[0]["code"]) == (3, "engine_unavailable")


def test_too_little_memory_for_the_canary_ends_the_launch(native: Any, batch_folder: Path, tmp_path: Path) -> None:
    said = native([], limits=limits(batch_folder, tmp_path, memory_bytes=1_000_000))
    assert (said.returncode, [line["code"] for line in said.lines]) == (3, ["engine_unavailable"])


def test_a_strangers_file_runs_where_the_cage_holds(
    native: Any, workloads: dict[str, Any], batch_folder: Path, tmp_path: Path
) -> None:
    said = native(visits_of(workloads, "small"), limits={**limits(batch_folder, tmp_path), "strict": True})
    if said.lines[0]["event"] == "failed":
        pytest.skip(said.lines[0]["detail"])
    assert not left_open(said.lines[0]["confinement"])
    assert said.done[0]["outcome"] == "ok", said.lines


def test_files_outside_the_cage_are_out_of_reach(
    native: Any, workloads: dict[str, Any], tmp_path: Path, batch_folder: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "own.ncnn").write_bytes(model_of("ReLU"))
    visit = artifact_visit(workloads, batch_folder, b"") | {"artifact": str(outside / "own.ncnn")}
    said = native([visit])
    if "landlock" not in said.lines[0]["confinement"]:
        pytest.skip("this kernel has no Landlock")
    assert said.done[1]["code"] == "engine_error"


# --- what an agent that is far away needs


def test_a_lock_admits_one_runner(native: Any, runner: BuiltRunner, workloads: dict[str, Any], tmp_path: Path) -> None:
    import fcntl

    lock = tmp_path / "lease-17"
    argv = [str(runner.path), "--lock", str(lock)]
    assert native(visits_of(workloads, "small"), argv=argv).done[0]["outcome"] == "ok"
    assert int(lock.read_text()) > 0  # of a runner that is gone: nobody holds it
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = native(visits_of(workloads, "small"), argv=argv)
    assert (said.returncode, said.lines[0]["code"]) == (3, "engine_unavailable")
    assert "lock" in said.lines[0]["detail"]


def test_a_limit_of_time_ends_whatever_runs(native: Any, runner: BuiltRunner, workloads: dict[str, Any]) -> None:
    slow = {**PROTOCOL, "visit_ms": 60_000, "blocks_min": 100_000, "blocks_max": 100_000, "visit_timeout_s": 60}
    said = native(visits_of(workloads, "conv"), protocol=slow, argv=[str(runner.path), "--limit-s", "0.7"])
    assert said.returncode == -9
    assert [line["event"] for line in said.lines] == ["ready", "started"]


@pytest.mark.parametrize("words", [["--limit-s", "soon"], ["--limit-s"], ["--lock"], ["--help"], ["--limit-s", "-1"]])
def test_a_wrong_command_line_is_a_bad_request(runner: BuiltRunner, tmp_path: Path, words: list[str]) -> None:
    status, [said] = answered([str(runner.path), *words], tmp_path)
    assert (status, said["code"]) == (3, "bad_request")


def test_the_binary_stands_alone(runner: BuiltRunner) -> None:
    content = runner.path.read_bytes()
    assert runner.size_bytes == len(content) <= 8 * 1024**2
    assert b"/lib64/ld-linux" not in content
    assert b".symtab" not in content  # stripped
    assert os.access(runner.path, os.X_OK)


def test_conv_of_threads_gives_the_same(native: Any, write_graph: Any) -> None:
    """A team of two computes what one thread does, also where loops are shorter than the team."""
    if len(CORES) < 2:
        pytest.skip("one core only")
    one = write_graph("native-team", (conv_graph(7, 9), _specs([normal([1, 7, 9, 9])])))
    said = native([one.visit(0)], threads=2, cores=CORES[:2])
    assert said.done[0]["gate_relative_l2"] < 1e-5
