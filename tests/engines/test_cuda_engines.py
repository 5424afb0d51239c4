"""Engines on an NVIDIA GPU: elsewhere unavailable with the reason. Their files are made, and held, anywhere."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchfarm_core.confine import Limits
from benchfarm_core.failures import FailureCode
from benchfarm_engines.cuda_driver import CUDA_ENGINES, require_gpu, within_reach
from benchfarm_engines.cuda_evidence import read_gpu
from benchfarm_engines.engine import Engine, EngineUnavailable
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.launch import converting_argv, launch_environment, runner_argv
from benchfarm_engines.registry import engine_names, load_engine
from benchfarm_engines.visit import artifact_inputs
from tests.engines.catalogue import (
    KERNELS,
    Graph,
    convert,
    distance_after,
    drawn_kernels,
    normal,
    reference,
    refusal,
    small_model,
)
from tests.engines.conftest import MEMORY_BYTES, conv_graph, graph
from tests.engines.test_engine_interface import one_node

CUDA = sorted(CUDA_ENGINES)
GATE = {"fp32": 1e-3, "fp16": 1e-2}
MAKER = cast(Engine, SimpleNamespace(name="onnxruntime_cuda", options=()))  # what makes files needs no more of it


def missing_gpu() -> str:
    try:
        require_gpu()
    except EngineUnavailable as error:
        return str(error)
    return ""


without_gpu = pytest.mark.skipif(not missing_gpu(), reason="this host has an NVIDIA GPU")


@without_gpu
@pytest.mark.parametrize("name", CUDA)
def test_without_a_gpu_an_engine_says_why(name: str) -> None:
    assert name in engine_names()
    with pytest.raises(EngineUnavailable, match="NVIDIA driver"):
        load_engine(name)


@without_gpu
@pytest.mark.parametrize("name", CUDA)
def test_the_probe_says_why(name: str, tmp_path: Path) -> None:
    argv = [*runner_argv(), "--probe", name]
    done = subprocess.run(argv, env=launch_environment(str(tmp_path)), capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == {"engine": name, "available": False, "reason": missing_gpu()}
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_or_another_is_told_apart() -> None:
    with pytest.raises(EngineUnavailable, match=r"no NVIDIA driver: libnot-there\.so is not found"):
        require_gpu("libnot-there.so")
    with pytest.raises(EngineUnavailable, match=r"libc\.so\.6 is no NVIDIA driver"):
        require_gpu("libc.so.6")


def test_a_launch_reaches_the_driver_for_an_engine_on_a_gpu_alone() -> None:
    limits = Limits(memory_bytes=2**30, cpu_s=1, readable=("/given",))
    assert within_reach(limits, "onnxruntime") is limits
    for name in CUDA:
        wider = within_reach(limits, name)
        assert {"/given", "/proc/driver/nvidia"} <= set(wider.readable)
        assert set(wider.devices) == {str(path) for path in Path("/dev").glob("nvidia*")}


def test_there_is_no_evidence_of_a_gpu_without_its_library() -> None:
    assert read_gpu("libnot-there.so") is None
    assert read_gpu("libc.so.6") is None


@pytest.mark.parametrize("name", CUDA)
@pytest.mark.parametrize("precision", GATE)
def test_on_a_gpu_every_kernel_type_passes_the_gate(name: str, precision: str, tmp_path: Path) -> None:
    try:
        engine = load_engine(name)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    for kernel in (each for kind in KERNELS for each in drawn_kernels(kind, 1)):
        assert distance_after(2, engine, kernel, tmp_path, precision=precision) < GATE[precision]


def on_the_processor(each: Graph, precision: str) -> float:
    """The distance of the file that a GPU would open, opened by the processor: the graph's arithmetic is the same."""
    made = convert(MAKER, each, precision)
    session = ort.InferenceSession(made.content, providers=["CPUExecutionProvider"])
    outputs = session.run(None, artifact_inputs(each[1], made.edges))
    assert {output.dtype.name for output in outputs} == {"float16" if precision == "fp16" else "float32"}
    return relative_l2(list(outputs), reference(each))


@pytest.mark.parametrize("name", KERNELS)
def test_a_file_in_half_precision_computes_the_same(name: str) -> None:
    for kernel in drawn_kernels(name, 1):
        assert 0 <= on_the_processor(kernel, "fp16") < GATE["fp16"]


def test_a_model_in_half_precision_computes_the_same() -> None:
    assert on_the_processor(small_model("squeezenet"), "fp16") < GATE["fp16"]


def test_open_dimensions_are_bound_and_fp32_stays() -> None:
    dynamic: Graph = (conv_graph(8, 8, "N"), (normal([2, 8, 8, 8]),))
    assert on_the_processor(dynamic, "fp32") < 1e-6
    made = onnx.load_from_string(convert(MAKER, dynamic).content)
    assert [each.dim_value for each in made.graph.input[0].type.tensor_type.shape.dim] == [2, 8, 8, 8]


def test_constants_and_casts_are_halved_and_scales_are_not() -> None:
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 2.0, 2.0]),
        helper.make_node("Mul", ["x", "half"], ["m"]),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["c", "", "scales"], ["y"], mode="nearest", nearest_mode="floor"),
    ]
    image: Graph = (graph(nodes, {"x": [1, 2, 3, 3]}, ["y"]), (normal([1, 2, 3, 3]),))
    assert on_the_processor(image, "fp16") < GATE["fp16"]


def test_weights_beyond_half_precision_stay_finite() -> None:
    far = np.array([1e9, -1e9, 0, 1], np.float32)
    add = graph([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [1, 4]}, ["y"], {"w": far})
    made = onnx.load_from_string(convert(MAKER, (add, (normal([1, 4]),)), "fp16").content)
    weights = numpy_helper.to_array(made.graph.initializer[0])
    assert weights.dtype == np.float16
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("name", CUDA)
def test_the_converting_child_needs_no_gpu(name: str, tmp_path: Path) -> None:
    (tmp_path / "conv").write_bytes(conv_graph(8, 4))
    question = {
        "engine": name,
        "precision": "fp16",
        "options": {},
        "artifact": str(tmp_path / "conv"),
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 8, 4, 4], "fill": {"kind": "normal", "seed": 0}}],
        "out": str(tmp_path / "made"),
    }
    argv = converting_argv(memory_bytes=MEMORY_BYTES, cpu_s=60, readable=[], writable=[str(tmp_path)])
    environment = launch_environment(str(tmp_path))
    done = subprocess.run(argv, input=json.dumps(question), env=environment, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    assert answer["edges"]["inputs"][0]["dtype"] == "float16"
    assert (tmp_path / "made").stat().st_size == answer["size_bytes"]


def test_what_cannot_be_made_is_typed(tmp_path: Path) -> None:
    x = (normal([1, 4]),)
    assert refusal(MAKER, (b"hello, I am a text", x), tmp_path).code is FailureCode.INVALID_WORKLOAD
    failure = refusal(MAKER, (one_node("Foo", "my.domain"), x), tmp_path)
    assert (failure.code, failure.subject) == (FailureCode.UNSUPPORTED_OPERATOR, "Foo")
