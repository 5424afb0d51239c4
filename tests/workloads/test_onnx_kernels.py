"""Kernel artifacts: correct against plain numpy, exact in cost, the same bytes every time."""

import hashlib
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import InputSpec, KernelWorkload, NormalFill, UploadedWorkload
from benchfarm_workloads.artifacts import Artifact, build
from benchfarm_workloads.columns import Config
from benchfarm_workloads.costs import ACTIVATION_FLOPS
from benchfarm_workloads.draws import draw, draw_mixed
from benchfarm_workloads.fills import filled
from benchfarm_workloads.kernels import kernel_type, kernel_types
from tests.workloads.numpy_kernels import expected

Array = NDArray[Any]

SMALL: list[tuple[str, Config]] = [
    ("conv-bn-act", {"hw": 7, "cin": 3, "cout": 5, "k": 1, "s": 1, "act": "none", "batch": 2}),
    ("conv-bn-act", {"hw": 8, "cin": 4, "cout": 3, "k": 3, "s": 2, "act": "hswish", "batch": 1}),
    ("conv-bn-act", {"hw": 4, "cin": 2, "cout": 3, "k": 7, "s": 1, "act": "swish", "batch": 1}),
    ("dwconv-bn-act", {"hw": 9, "cin": 6, "k": 5, "s": 2, "act": "relu6", "batch": 2}),
    ("dwconv-bn-act", {"hw": 6, "cin": 3, "k": 3, "s": 1, "act": "none", "batch": 1}),
    ("fc", {"cin": 13, "cout": 7, "act": "relu", "batch": 3}),
    ("fc", {"cin": 13, "cout": 7, "act": "none", "batch": 1}),
    ("maxpool", {"hw": 9, "cin": 3, "k": 3, "s": 2, "batch": 2}),
    ("maxpool", {"hw": 8, "cin": 3, "k": 2, "s": 2, "batch": 1}),
    ("avgpool", {"hw": 9, "cin": 3, "k": 3, "s": 1, "batch": 2}),
    ("avgpool", {"hw": 7, "cin": 2, "k": 2, "s": 2, "batch": 1}),
    ("global-avgpool", {"hw": 5, "cin": 4, "batch": 2}),
    ("add-act", {"hw": 5, "cin": 3, "act": "relu", "batch": 2}),
    ("add-act", {"hw": 5, "cin": 3, "act": "none", "batch": 1}),
    ("se", {"hw": 5, "cin": 8, "cmid": 2, "gate": "hsigmoid", "batch": 2}),
    ("se", {"hw": 5, "cin": 8, "cmid": 4, "gate": "sigmoid", "batch": 1}),
    ("act", {"hw": 5, "cin": 3, "act": "relu", "batch": 1}),
    ("act", {"hw": 5, "cin": 3, "act": "relu6", "batch": 1}),
    ("act", {"hw": 5, "cin": 3, "act": "hswish", "batch": 1}),
    ("act", {"hw": 5, "cin": 3, "act": "sigmoid", "batch": 1}),
    ("act", {"hw": 5, "cin": 3, "act": "swish", "batch": 1}),
    ("concat", {"hw": 4, "cin1": 2, "cin2": 3, "cin3": 0, "cin4": 0, "batch": 2}),
    ("concat", {"hw": 4, "cin1": 2, "cin2": 3, "cin3": 1, "cin4": 4, "batch": 1}),
    ("group-conv", {"hw": 6, "cin": 6, "cout": 9, "k": 3, "s": 2, "groups": 3, "act": "relu", "batch": 2}),
    ("group-conv", {"hw": 5, "cin": 8, "cout": 4, "k": 1, "s": 1, "groups": 2, "act": "none", "batch": 1}),
    ("deconv-bn-act", {"hw": 5, "cin": 3, "cout": 4, "k": 2, "s": 2, "act": "relu", "batch": 2}),
    ("deconv-bn-act", {"hw": 4, "cin": 2, "cout": 3, "k": 4, "s": 2, "act": "none", "batch": 1}),
    ("deconv-bn-act", {"hw": 4, "cin": 2, "cout": 3, "k": 5, "s": 1, "act": "hswish", "batch": 1}),
    ("deconv-bn-act", {"hw": 3, "cin": 2, "cout": 2, "k": 7, "s": 3, "act": "none", "batch": 1}),
    ("mul", {"hw": 5, "cin": 3, "form": "image", "batch": 2}),
    ("mul", {"hw": 5, "cin": 3, "form": "channel", "batch": 2}),
    ("split", {"hw": 4, "cin": 6, "parts": 2, "batch": 2}),
    ("split", {"hw": 4, "cin": 8, "parts": 4, "batch": 1}),
    ("channel-shuffle", {"hw": 4, "cin": 6, "groups": 2, "batch": 2}),
    ("channel-shuffle", {"hw": 4, "cin": 12, "groups": 3, "batch": 1}),
    ("resize", {"hw": 4, "cin": 2, "scale": 3, "mode": "nearest", "batch": 1}),
    ("resize", {"hw": 4, "cin": 2, "scale": 2, "mode": "nearest", "batch": 2}),
    ("resize", {"hw": 4, "cin": 2, "scale": 2, "mode": "bilinear", "batch": 2}),
    ("resize", {"hw": 3, "cin": 2, "scale": 4, "mode": "bilinear", "batch": 1}),
    ("linear", {"seq": 5, "cin": 8, "cout": 6, "act": "none", "batch": 2}),
    ("linear", {"seq": 5, "cin": 8, "cout": 6, "act": "gelu", "batch": 1}),
    ("linear", {"seq": 5, "cin": 8, "cout": 6, "act": "relu", "batch": 1}),
    ("matmul", {"m": 5, "k": 8, "n": 6, "form": "weight", "batch": 2}),
    ("matmul", {"m": 5, "k": 8, "n": 6, "form": "input", "batch": 3}),
    ("attention", {"seq": 7, "heads": 3, "head_dim": 8, "batch": 2}),
    ("attention", {"seq": 9, "heads": 1, "head_dim": 5, "batch": 1}),
    ("layernorm", {"seq": 5, "dim": 24, "batch": 2}),
    ("gelu", {"seq": 5, "dim": 24, "batch": 2}),
    ("softmax", {"seq": 5, "dim": 24, "batch": 2}),
    ("token-add", {"seq": 5, "dim": 24, "batch": 2}),
    ("pos-embed", {"seq": 5, "dim": 24, "batch": 2}),
    ("reduce-mean", {"seq": 5, "dim": 24, "batch": 2}),
    ("patch-embed", {"hw": 12, "cin": 3, "dim": 8, "k": 4, "batch": 2}),
]

FILES = {
    "conv-bn-act": "076c4a914fcb",
    "dwconv-bn-act": "281bbf8ead8c",
    "fc": "5032be3fb0be",
    "maxpool": "46f91a7cac7a",
    "avgpool": "d133fb78e4ca",
    "global-avgpool": "a1fd82418ee4",
    "add-act": "1fa69ea1461a",
    "se": "9b2674b3cb46",
    "act": "fe8f9651c1a1",
    "concat": "a3a43409b4ec",
    "group-conv": "e11f28789e13",
    "deconv-bn-act": "ddd5d2c83290",
    "mul": "1a7376e482f6",
    "split": "5ac44748fe95",
    "channel-shuffle": "0c6950603323",
    "resize": "e210cc5f4449",
    "linear": "74259bfbd0bd",
    "matmul": "2c2dd998f8f6",
    "attention": "c919c0438d89",
    "layernorm": "0dcb2a3aca57",
    "gelu": "d3a2a107ca22",
    "softmax": "9e4a9a2b3fae",
    "token-add": "37bc192de126",
    "pos-embed": "21434cce76ec",
    "reduce-mean": "b474eaf17bd1",
    "patch-embed": "3eb1e3692e68",
}
"""Hashes of each type's first draw."""


def is_weight(tensor: onnx.TensorProto) -> bool:
    """No bound of relu6 (a scalar) and no shape (integers)."""
    return bool(tensor.dims) and tensor.data_type == onnx.TensorProto.FLOAT


def feeds_of(artifact: Artifact) -> dict[str, Array]:
    return {spec.name: filled(spec) for spec in artifact.inputs}


def run(artifact: Artifact) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact.onnx_bytes, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds_of(artifact))]


@pytest.mark.parametrize(("kind", "config"), SMALL)
def test_onnx_runtime_agrees_with_numpy(kind: str, config: Config) -> None:
    artifact = build(kernel_type(kind).workload(config))
    model = onnx.load_from_string(artifact.onnx_bytes)
    onnx.checker.check_model(model, full_check=True)
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    inputs = [x.astype(np.float64) for x in feeds_of(artifact).values()]
    for output, wanted in zip(run(artifact), expected(kind, config, inputs, weights), strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-5)


def test_every_type_is_compared() -> None:
    assert {kind for kind, _ in SMALL} == {kind.name for kind in kernel_types()}


@pytest.mark.parametrize("kernel", draw_mixed(11, 40), ids=lambda kernel: kernel.type)
def test_costs_equal_what_the_file_holds(kernel: KernelWorkload) -> None:
    artifact = build(kernel)
    cost = kernel_type(kernel.type).cost(kernel.config)
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(artifact.onnx_bytes)).graph
    assert cost.parameters == sum(math.prod(tensor.dims) for tensor in graph.initializer if is_weight(tensor))
    assert cost.input_bytes == 4 * sum(math.prod(spec.shape) for spec in artifact.inputs)
    outputs = [[dim.dim_value for dim in output.type.tensor_type.shape.dim] for output in graph.output]
    assert cost.output_bytes == 4 * sum(math.prod(dims) for dims in outputs)
    if kernel.type in ("conv-bn-act", "dwconv-bn-act", "group-conv", "fc"):
        elements = cost.output_bytes // 4
        weight = graph.initializer[0].dims
        multiply_adds = elements * math.prod(weight[1:])
        assert cost.flops - 2 * multiply_adds == elements * ACTIVATION_FLOPS[str(kernel.config["act"])]


@pytest.mark.parametrize("kernel", draw_mixed(5, 60), ids=lambda kernel: kernel.type)
def test_outputs_are_ordinary_numbers(kernel: KernelWorkload) -> None:
    for output in run(build(kernel)):
        assert np.isfinite(output).all()
        assert not ((output != 0) & (np.abs(output) < np.finfo(np.float32).tiny)).any()
        assert 1e-3 < output.std() < 20


@pytest.mark.parametrize(("kind", "config"), SMALL)
def test_openvino_agrees_with_onnx_runtime(kind: str, config: Config) -> None:
    artifact = build(kernel_type(kind).workload(config))
    model = openvino.Core().read_model(artifact.onnx_bytes)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    results = compiled(feeds_of(artifact))
    for index, wanted in enumerate(run(artifact)):
        np.testing.assert_allclose(results[index], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [kind.name for kind in kernel_types()])
def test_everything_in_a_kernel_carries_its_name(name: str) -> None:
    """Profilers tell nodes by name: what belongs to one kernel of a model is found by it."""
    [config] = draw(name, 1, 1)
    graph = onnx.load_from_string(build(kernel_type(name).workload(config)).onnx_bytes).graph
    made = [*graph.node, *graph.initializer, *graph.output]
    assert all(each.name == "y" or each.name.startswith("y/") for each in made)
    assert [output.name for output in graph.output] == list(kernel_type(name).output_names("y", config))


def test_engines_make_one_operator_of_a_gelu(tmp_path: Path) -> None:
    """Both fuse this form of five operators: otherwise five passes over memory would be measured."""
    artifact = build(kernel_type("gelu").workload({"seq": 16, "dim": 64}))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(artifact.onnx_bytes, options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node] == ["Gelu"]
    compiled = openvino.compile_model(openvino.Core().read_model(artifact.onnx_bytes), "CPU")
    executed = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    assert len(set(executed) - {"Input", "Output"}) == len(executed) - 2 == 1


def test_a_kernel_is_built_in_milliseconds() -> None:
    """An agent builds thousands. The bound is wide: other tests share the machine."""
    kernels = [kernel for kernel in draw_mixed(9, 60) if kernel.type != "fc"]
    start = time.perf_counter()
    for kernel in kernels:
        build(kernel)
    assert (time.perf_counter() - start) / len(kernels) < 0.02


def test_the_same_configuration_gives_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib\n"
        "from benchfarm_workloads.artifacts import build\n"
        "from benchfarm_workloads.draws import draw_mixed\n"
        "print(hashlib.sha256(b''.join(build(k).onnx_bytes for k in draw_mixed(3, 20))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = hashlib.sha256(b"".join(build(kernel).onnx_bytes for kernel in draw_mixed(3, 20))).hexdigest()
    assert other.stdout.strip() == here


@pytest.mark.parametrize("name", [kind.name for kind in kernel_types()])
def test_a_types_file_never_changes(name: str) -> None:
    """References and times are stored by the workload's name: a change of its file is a new catalogue version."""
    [config] = draw(name, 0, 1)
    onnx_bytes = build(kernel_type(name).workload(config)).onnx_bytes
    assert hashlib.sha256(onnx_bytes).hexdigest()[:12] == FILES[name]


def test_another_configuration_gives_other_weights() -> None:
    first, second = draw("fc", 0, 2)
    assert build(kernel_type("fc").workload(first)).onnx_bytes != build(kernel_type("fc").workload(second)).onnx_bytes


def test_what_cannot_be_built_is_refused() -> None:
    kernel = kernel_type("fc").workload({"cin": 4, "cout": 4})
    with pytest.raises(InvalidRequest, match="catalogue_version=9"):
        build(kernel.model_copy(update={"catalogue_version": 9}))
    spec = InputSpec(name="x", dtype="float32", shape=(1,), fill=NormalFill())
    with pytest.raises(InvalidRequest, match="not generated"):
        build(UploadedWorkload(sha256="0" * 64, dims={}, inputs=(spec,)))
