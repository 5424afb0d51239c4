"""ncnn: the catalogue and the zoo through its own files, int8 with int8 edges, and what it promises about threads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ncnn", reason="ncnn is not installed")

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest, Converted, activations_for
from benchfarm_engines.engine import EngineFailure, OpenRequest, Session
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.launch import launch_environment
from benchfarm_engines.ncnn_convert import CONVERTER
from benchfarm_engines.ncnn_engine import ENGINE
from benchfarm_engines.ncnn_file import Blob, NcnnModel, pack_artifact, read_artifact
from benchfarm_engines.quantise import quantise
from benchfarm_engines.sealed_file import seal
from benchfarm_engines.translation import to_workload
from benchfarm_engines.visit import artifact_inputs
from benchfarm_workloads.onnx_kernels import build_kernel
from tests.engines.catalogue import (
    CONV,
    KERNELS,
    MODELS,
    Graph,
    _as_read,
    convert,
    distance_after,
    drawn_kernels,
    model,
    opened,
    reference,
)
from tests.engines.test_ncnn_convert import FORMS

CONSTANT_FIRST = "constant on the left"

GATE = 1e-3
INT8_GATE = 5e-2


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_type_passes_the_gate(name: str, tmp_path: Path) -> None:
    for kernel in drawn_kernels(name, 3):
        assert distance_after(2, ENGINE, kernel, tmp_path) < GATE


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo_passes_the_gate(name: str, tmp_path: Path) -> None:
    assert distance_after(1, ENGINE, model(name), tmp_path) < GATE


@pytest.mark.parametrize(("off", "name"), [("winograd", "conv"), ("packing", "global-avgpool")])
def test_options_change_the_way_and_not_the_result(off: str, name: str, tmp_path: Path) -> None:
    graph, found = CONV if name == "conv" else drawn_kernels(name, 1)[0], []
    for options in ({}, {off: False}):
        with opened(ENGINE, graph, tmp_path, options=check_options(options, ENGINE.options)) as session:
            session.run()
            found.append(session.outputs()[0])
    assert 0 < relative_l2(found[1:], found[:1]) < GATE


IN_INT8: dict[str, dict[str, Any]] = {
    "conv-bn-act": {"hw": 13, "cin": 5, "cout": 7, "k": 3, "act": "swish"},
    "dwconv-bn-act": {"hw": 14, "cin": 16, "k": 5, "s": 2, "act": "relu6"},
    "group-conv": {"hw": 9, "cin": 32, "cout": 32, "k": 3, "groups": 2, "act": "swish"},
    "fc": {"cin": 100, "cout": 48, "act": "hswish"},
    "patch-embed": {"hw": 16, "cin": 3, "dim": 12, "k": 4},
}
"""Types that take and give int8; the group convolution is one that ncnn gets wrong with an fp32 output."""

WITH_INT8_INSIDE: dict[str, dict[str, Any]] = {
    "se": {"hw": 7, "cin": 32, "cmid": 8},
    "linear": {"seq": 7, "cin": 20, "cout": 24, "act": "gelu"},
    "attention": {"seq": 9, "heads": 3, "head_dim": 16},
    "matmul": {"m": 5, "k": 8, "n": 9, "form": "weight"},
}


def kernel(name: str, config: dict[str, Any], batch: int = 1) -> Graph:
    return _as_read(*build_kernel(name, {**config, "batch": batch}))


def in_int8(graph: Graph, edges: str = "int8") -> Converted:
    options = check_options({"edges": edges}, ENGINE.options)
    content, outside = quantise(graph[0], graph[1], {"edges": edges, "calibration_seed": 0}, activations_for("ncnn"))
    return CONVERTER.convert(ConversionRequest(content, "int8", options, graph[1], outside))


def int8_session(graph: Graph, made: Converted, folder: Path) -> Session:
    artifact = folder / "int8.ncnn"
    artifact.write_bytes(made.content)
    inputs = artifact_inputs(graph[1], made.edges)
    return ENGINE.open(OpenRequest(artifact, inputs, "int8", 1, check_options({}, ENGINE.options)))


def int8_distance(graph: Graph, made: Converted, folder: Path) -> float:
    session, wanted = int8_session(graph, made, folder), reference(graph)
    session.run()
    session.run()
    assert made.edges is not None
    found = to_workload(session.outputs(), made.edges.outputs, [each.shape for each in wanted])
    session.close()
    return relative_l2(found, wanted)


def edge_types(made: Converted) -> set[str]:
    assert made.edges is not None
    return {edge.dtype for edge in (*made.edges.inputs, *made.edges.outputs)}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", IN_INT8)
def test_int8_goes_in_and_comes_out(name: str, batch: int, tmp_path: Path) -> None:
    graph = kernel(name, IN_INT8[name], batch)
    made = in_int8(graph)
    assert edge_types(made) == {"int8"}
    assert 1e-4 < int8_distance(graph, made, tmp_path) < INT8_GATE


@pytest.mark.parametrize("name", [*IN_INT8, *WITH_INT8_INSIDE])
def test_int8_inside_with_fp32_edges(name: str, tmp_path: Path) -> None:
    graph = kernel(name, (IN_INT8 | WITH_INT8_INSIDE)[name])
    made = in_int8(graph, "fp32")
    assert edge_types(made) == {"float32"}
    session = int8_session(graph, made, tmp_path)
    assert session.computes_in() == "int8"
    session.close()
    assert 1e-4 < int8_distance(graph, made, tmp_path) < INT8_GATE


@pytest.mark.parametrize("name", WITH_INT8_INSIDE)
def test_layers_without_int8_inputs_keep_fp32_edges(name: str) -> None:
    assert edge_types(in_int8(kernel(name, WITH_INT8_INSIDE[name]))) == {"float32"}


@pytest.mark.parametrize("name", sorted(set(KERNELS) - set(IN_INT8) - set(WITH_INT8_INSIDE)))
def test_types_that_ncnn_has_in_fp32_alone_stay_fp32(name: str, tmp_path: Path) -> None:
    [graph] = drawn_kernels(name, 1)
    made = in_int8(graph)
    assert edge_types(made) == {"float32"}
    session = int8_session(graph, made, tmp_path)
    assert session.computes_in() == "fp32"
    session.close()
    assert int8_distance(graph, made, tmp_path) < INT8_GATE


def test_a_product_that_int8_does_not_know_is_refused() -> None:
    with pytest.raises(EngineFailure) as refused:
        in_int8(FORMS[CONSTANT_FIRST])
    assert (refused.value.code, refused.value.subject) == (FailureCode.PRECISION_NOT_OBEYED, "MatMul")


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"softmax of old", CONSTANT_FIRST}))
def test_every_form_computes_in_int8(name: str, tmp_path: Path) -> None:
    assert int8_distance(FORMS[name], in_int8(FORMS[name]), tmp_path) < INT8_GATE


def test_int8_models_stay_int8_between_layers(tmp_path: Path) -> None:
    graph = model("squeezenet")
    made = in_int8(graph)
    assert edge_types(made) == {"int8"}
    assert int8_distance(graph, made, tmp_path) < INT8_GATE
    lines = read_artifact(tmp_path / "int8.ncnn").param.splitlines()
    convolutions = [line for line in lines if line.startswith("Convolution ")]
    assert all("8=102" in line.split() or "8=2" in line.split() for line in convolutions)
    assert any("8=102" in line.split() for line in convolutions)


def test_threads_are_counted(tmp_path: Path) -> None:
    for threads in (1, 2, 1):
        with opened(ENGINE, CONV, tmp_path, threads=threads) as session:
            session.run()
            assert session.threads == threads


def test_inputs_live_as_long_as_the_session(tmp_path: Path) -> None:
    artifact = tmp_path / "conv"
    made = convert(ENGINE, CONV)
    artifact.write_bytes(made.content)
    inputs = artifact_inputs(CONV[1], made.edges)
    session = ENGINE.open(OpenRequest(artifact, inputs, "fp32", 1, check_options({}, ENGINE.options)))
    session.run()
    first = session.outputs()[0]
    for array in inputs.values():
        array[...] = 7
    session.run()
    assert np.array_equal(session.outputs()[0], first)
    session.close()


def refused(content: bytes, folder: Path, inputs: dict[str, np.ndarray] | None = None) -> EngineFailure:
    artifact = folder / "artifact"
    artifact.write_bytes(content)
    given = {"in0": np.zeros((32, 28, 28), np.float32)} if inputs is None else inputs
    with pytest.raises(EngineFailure) as caught:
        ENGINE.open(OpenRequest(artifact, given, "fp32", 1, check_options({}, ENGINE.options)))
    assert str(folder) not in caught.value.detail
    return caught.value


def test_damaged_files_never_reach_ncnn(tmp_path: Path) -> None:
    whole = convert(ENGINE, CONV).content
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (
        b"",
        b"7767517\n",
        whole[:middle],
        whole[:-1],
        flipped,
        seal(b"", {"param": 3}),
        seal(b"", {"inputs": []}),
    ):
        assert refused(content, tmp_path).code is FailureCode.INVALID_WORKLOAD


def test_layers_that_this_ncnn_lacks_are_named(tmp_path: Path) -> None:
    param = "7767517\n2 2\nInput l0 0 1 in0\nHologram l1 1 1 in0 out0\n"
    blob = Blob("in0", "float32", (32, 28, 28))
    found = refused(pack_artifact(NcnnModel(param, (blob,), (Blob("out0", "float32"),)), b""), tmp_path)
    assert (found.code, found.subject) == (FailureCode.UNSUPPORTED_OPERATOR, "Hologram")


def test_weights_that_end_too_early_are_refused(tmp_path: Path) -> None:
    artifact = tmp_path / "whole"
    artifact.write_bytes(convert(ENGINE, CONV).content)
    found = refused(pack_artifact(read_artifact(artifact), b"\0" * 64), tmp_path)
    assert found.code is FailureCode.CONVERSION_FAILED


@pytest.mark.parametrize(
    "inputs",
    [
        {"other": np.zeros((32, 28, 28), np.float32)},
        {"in0": np.zeros((32, 28, 28), np.float64)},
        {"in0": np.zeros((32, 28, 27), np.float32)},
        {"in0": np.zeros((1, 32, 28, 28), np.float32)},
    ],
)
def test_inputs_that_do_not_fit_are_invalid(inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    found = refused(convert(ENGINE, CONV).content, tmp_path, inputs)
    assert found.code is FailureCode.INVALID_WORKLOAD


CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np
from benchfarm_engines.engine import OpenRequest
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.ncnn_engine import ENGINE
from benchfarm_engines.task_threads import cpu_ns_by_thread
inputs = {"in0": np.ones((32, 28, 28), np.float32)}
session = ENGINE.open(OpenRequest(Path(sys.argv[1]), inputs, "fp32", 2, check_options({}, ENGINE.options)))
for _ in range(3):
    session.run()
before, begun_s = cpu_ns_by_thread(), time.perf_counter()
while time.perf_counter() - begun_s < 0.05:
    pass
*others, _ = sorted(ns - before.get(thread, 0) for thread, ns in cpu_ns_by_thread().items())
foreign = sorted({name.split(".")[0] for name in sys.modules} & {"onnx", "pydantic", "requests", "tqdm", "cv2"})
print(json.dumps({"foreign": foreign, "threads": session.threads, "spun_ms": sum(others) / 1e6}))
"""


def test_a_board_needs_ncnn_and_numpy_and_is_left_as_it_was(tmp_path: Path) -> None:
    """No file is written, no package beside these is imported, and the pool soon sleeps after a run."""
    home = tmp_path / "home"
    home.mkdir()
    artifact = tmp_path / "conv"
    artifact.write_bytes(convert(ENGINE, CONV).content)
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, str(artifact)],
        env=launch_environment(str(home)),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["foreign"], found["threads"]) == ([], 2)
    assert found["spun_ms"] < 4
    assert list(home.iterdir()) == []
