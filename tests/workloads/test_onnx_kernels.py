"""Kernel artifacts: correct against plain numpy, exact in cost, the same bytes every time."""

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import InputSpec, KernelWorkload, NormalFill, UploadedWorkload
from benchfarm_workloads.artifacts import Artifact, build
from benchfarm_workloads.columns import Config, Scalar, integer
from benchfarm_workloads.costs import ACTIVATION_FLOPS
from benchfarm_workloads.draws import draw, draw_mixed
from benchfarm_workloads.fills import filled
from benchfarm_workloads.kernels import kernel_type, kernel_types

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
]


def activate(act: Scalar, x: Array) -> Array:
    gate = np.clip(x / 6 + 0.5, 0, 1)
    results: dict[Scalar, Callable[[], Array]] = {
        "none": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "hsigmoid": lambda: gate,
        "hswish": lambda: x * gate,
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "swish": lambda: x / (1 + np.exp(-x)),
    }
    return results[act]()


def windows(x: Array, config: Config, fill: float) -> Array:
    """batch x channels x out x out x k x k views of the padded input."""
    k, s = integer(config, "k"), integer(config, "s")
    pad = (k - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))[:, :, ::s, ::s]


def expected(kind: str, config: Config, xs: list[Array], weights: dict[str, Array]) -> Array:
    """The kernel's meaning in plain numpy, float64."""
    return activate(config.get("act", "none"), LINEAR[kind](config, xs, weights))


def conv(config: Config, xs: list[Array], weights: dict[str, Array]) -> Array:
    y: Array = np.einsum("bchwij,ocij->bohw", windows(xs[0], config, 0.0), weights["y/weight"])
    return y + weights["y/bias"][:, None, None]


def dwconv(config: Config, xs: list[Array], weights: dict[str, Array]) -> Array:
    y: Array = np.einsum("bchwij,cij->bchw", windows(xs[0], config, 0.0), weights["y/weight"][:, 0])
    return y + weights["y/bias"][:, None, None]


def se(config: Config, xs: list[Array], weights: dict[str, Array]) -> Array:
    inner = xs[0].mean(axis=(2, 3)) @ weights["y/reduce/weight"][:, :, 0, 0].T + weights["y/reduce/bias"]
    outer = np.maximum(inner, 0) @ weights["y/expand/weight"][:, :, 0, 0].T + weights["y/expand/bias"]
    return xs[0] * activate(config["gate"], outer)[:, :, None, None]


LINEAR: dict[str, Callable[[Config, list[Array], dict[str, Array]], Array]] = {
    "conv-bn-act": conv,
    "dwconv-bn-act": dwconv,
    "fc": lambda config, xs, weights: xs[0] @ weights["y/weight"].T + weights["y/bias"],
    "maxpool": lambda config, xs, weights: windows(xs[0], config, -np.inf).max(axis=(4, 5)),
    "avgpool": lambda config, xs, weights: np.nanmean(windows(xs[0], config, np.nan), axis=(4, 5)),
    "global-avgpool": lambda config, xs, weights: xs[0].mean(axis=(2, 3), keepdims=True),
    "add-act": lambda config, xs, weights: xs[0] + xs[1],
    "se": se,
    "act": lambda config, xs, weights: xs[0],
    "concat": lambda config, xs, weights: np.concatenate(xs, axis=1),
}


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
    [output] = run(artifact)
    np.testing.assert_allclose(output, expected(kind, config, inputs, weights), rtol=1e-4, atol=1e-5)


def test_every_type_is_compared() -> None:
    assert {kind for kind, _ in SMALL} == {kind.name for kind in kernel_types()}


@pytest.mark.parametrize("kernel", draw_mixed(11, 40), ids=lambda kernel: kernel.type)
def test_costs_equal_what_the_file_holds(kernel: KernelWorkload) -> None:
    artifact = build(kernel)
    cost = kernel_type(kernel.type).cost(kernel.config)
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(artifact.onnx_bytes)).graph
    scalars = {tensor.name for tensor in graph.initializer if not tensor.dims}  # the bounds of relu6
    parameters = sum(math.prod(t.dims) for t in graph.initializer if t.name not in scalars)
    assert cost.parameters == parameters
    assert cost.input_bytes == 4 * sum(math.prod(spec.shape) for spec in artifact.inputs)
    assert cost.output_bytes == 4 * math.prod(dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim)
    if kernel.type in ("conv-bn-act", "dwconv-bn-act", "fc"):
        outputs = cost.output_bytes // 4
        weight = graph.initializer[0].dims
        multiply_adds = outputs * math.prod(weight[1:])
        assert cost.flops - 2 * multiply_adds == outputs * ACTIVATION_FLOPS[str(kernel.config["act"])]


@pytest.mark.parametrize("kernel", draw_mixed(5, 30), ids=lambda kernel: kernel.type)
def test_outputs_are_ordinary_numbers(kernel: KernelWorkload) -> None:
    [output] = run(build(kernel))
    assert np.isfinite(output).all()
    assert not ((output != 0) & (np.abs(output) < np.finfo(np.float32).tiny)).any()
    assert 1e-3 < output.std() < 10


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
