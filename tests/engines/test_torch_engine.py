"""PyTorch on the processor: the whole catalogue and the zoo. Off unless PyTorch is installed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from onnx import TensorProto, helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, OpenRequest
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.torch_convert import CONVERTER
from benchfarm_engines.torch_engine import ENGINE
from benchfarm_engines.torch_file import OPERATORS
from benchfarm_engines.torch_operators import BUILDERS
from benchfarm_engines.torch_session import TorchSession
from benchfarm_engines.visit import artifact_inputs
from tests.engines.catalogue import (
    CONV,
    KERNELS,
    MODELS,
    SMALL,
    convert,
    distance,
    distance_after,
    drawn_kernels,
    normal,
    opened,
    reference,
    refusal,
    small_model,
)
from tests.engines.conftest import graph

GATE = 1e-3


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_type_passes_the_gate(name: str, tmp_path: Path) -> None:
    for kernel in drawn_kernels(name, 2):
        assert distance_after(2, ENGINE, kernel, tmp_path) < GATE


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo_passes_the_gate(name: str, tmp_path: Path) -> None:
    assert distance_after(1, ENGINE, small_model(name), tmp_path) < GATE


def test_there_is_a_builder_for_each_operator_that_a_file_can_hold() -> None:
    assert BUILDERS.keys() == OPERATORS.keys()


def test_the_converter_tells_the_same_options() -> None:
    assert CONVERTER.options == ENGINE.options


def node(operator: str, *inputs: str, **attributes: Any) -> Any:
    return helper.make_node(operator, ["x", *inputs], ["y"], **attributes)


IMAGE = [1, 4, 7, 6]
ROW = [2, 3, 4]
WEIGHTS = {
    "w": np.random.default_rng(1).standard_normal((6, 2, 3, 2)).astype(np.float32),
    "square": np.random.default_rng(2).standard_normal((4, 4)).astype(np.float32),
    "row": np.linspace(-1, 1, 4, dtype=np.float32),
    "positive": np.linspace(0.5, 1, 4, dtype=np.float32),
    "starts": np.array([1, -2]),
    "ends": np.array([2**62, -1]),
    "axes": np.array([1, 2]),
    "steps": np.array([2, 1]),
    "one": np.array([1]),
    "shape": np.array([0, -1, 2]),
    "wide": np.array([5, 2, 3, 4]),
    "indices": np.array([[0, -1], [2, 1]]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "sizes": np.array([1, 4, 11, 5]),
    "low": np.array(-0.5, np.float32),
    "two": np.array(2, np.float32),
}
CUT_OFF = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
CASES: dict[str, tuple[list[int], Any]] = {
    "uneven pads": (IMAGE, node("Conv", "w", group=2, pads=[1, 0, 0, 1], strides=[2, 1], dilations=[1, 2])),
    "even pads": (IMAGE, node("Conv", "w", group=2, pads=[1, 1, 1, 1])),
    "max of uneven": (IMAGE, node("MaxPool", kernel_shape=[2, 2], pads=[1, 1, 0, 0], strides=[2, 2])),
    "max of wide pads": (IMAGE, node("MaxPool", kernel_shape=[3, 3], pads=[2, 2, 2, 2])),
    "mean with padding": (IMAGE, node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)),
    "gemm": ([3, 4], node("Gemm", "square", "row", alpha=0.5, beta=2.0, transA=0)),
    "batch norm": (IMAGE, node("BatchNormalization", "positive", "row", "row", "positive", epsilon=1e-3)),
    "clip below": (ROW, node("Clip", "low")),
    "hard sigmoid": (ROW, node("HardSigmoid", alpha=0.3, beta=0.4)),
    "prelu": (ROW, node("PRelu", "row")),
    "slice": ([2, 5, 4], node("Slice", "starts", "ends", "axes", "steps")),
    "gather": (ROW, node("Gather", "indices", axis=1)),
    "reshape": (ROW, node("Reshape", "shape")),
    "squeeze": ([2, 1, 4], node("Squeeze", "one")),
    "unsqueeze": (ROW, node("Unsqueeze", "axes")),
    "expand": ([3, 1], node("Expand", "wide")),
    "mean of all": (ROW, node("ReduceMean", keepdims=0)),
    "nearest by scales": (IMAGE, node("Resize", "", "scales", mode="nearest")),
    "nearest to sizes": (IMAGE, node("Resize", "", "", "sizes", mode="nearest", **CUT_OFF)),
    "corners": (IMAGE, node("Resize", "", "scales", mode="linear", coordinate_transformation_mode="align_corners")),
    "square": (ROW, node("Pow", "two")),
    "maximum": (ROW, node("Max", "row", "low")),
    "softplus": (ROW, node("Softplus")),
    "elu": (ROW, node("Elu", alpha=0.5)),
    "leaky": (ROW, node("LeakyRelu", alpha=0.2)),
    "log softmax": (ROW, node("LogSoftmax", axis=1)),
    "any order": (ROW, node("Transpose")),
    "flatten": (ROW, node("Flatten", axis=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_of_uploads_pass_the_gate(name: str, tmp_path: Path) -> None:
    shape, built = CASES[name]
    weights = {each: WEIGHTS[each] for each in built.input if each in WEIGHTS}
    assert distance_after(2, ENGINE, (graph([built], {"x": shape}, ["y"], weights), (normal(shape),)), tmp_path) < GATE


def test_sizes_that_a_graph_computes_become_constants(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    weights = {"one": np.array([1]), "rest": np.array([-1])}
    assert distance_after(1, ENGINE, (graph(nodes, {"x": ROW}, ["y"], weights), (normal(ROW),)), tmp_path) == 0


def test_casts_go_both_ways(tmp_path: Path) -> None:
    there = helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64)
    back = helper.make_node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT)
    assert distance_after(1, ENGINE, (graph([there, back], {"x": ROW}, ["y"]), (normal(ROW),)), tmp_path) == 0


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "cubic"},
        {"mode": "nearest", "nearest_mode": "floor"},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    ],
)
def test_uses_that_are_not_built_are_named(attributes: dict[str, str], tmp_path: Path) -> None:
    resize = graph([node("Resize", "", "scales", **attributes)], {"x": IMAGE}, ["y"], {"scales": WEIGHTS["scales"]})
    failure = refusal(ENGINE, (resize, (normal(IMAGE),)), tmp_path)
    assert (failure.code, failure.subject) == (FailureCode.UNSUPPORTED_OPERATOR, "Resize")


def test_shapes_that_cannot_be_are_a_failed_conversion(tmp_path: Path) -> None:
    impossible = graph([node("MatMul", "square")], {"x": [2, 3]}, ["y"], {"square": WEIGHTS["square"]})
    assert refusal(ENGINE, (impossible, (normal([2, 3]),)), tmp_path).code is FailureCode.CONVERSION_FAILED


def test_two_sessions_live_side_by_side(tmp_path: Path) -> None:
    with opened(ENGINE, CONV, tmp_path, beside_another=True) as first, opened(ENGINE, SMALL, tmp_path) as second:
        for _ in range(3):
            for session, each in ((first, CONV), (second, SMALL)):
                session.run()
                assert distance(session, each) < GATE
                assert session.computes_in() == "fp32"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_threads_are_what_was_asked_for(tmp_path: Path) -> None:
    for threads in (2, 1):
        with opened(ENGINE, CONV, tmp_path, threads=threads) as session:
            assert session.threads == threads


def test_outputs_are_copies(tmp_path: Path) -> None:
    with opened(ENGINE, CONV, tmp_path) as session:
        session.run()
        session.outputs()[0][...] = 0
        assert distance(session, CONV) < GATE


@pytest.mark.parametrize("damage", ["text", "cut", "flipped"])
def test_a_file_that_is_not_whole_is_refused(damage: str, tmp_path: Path) -> None:
    whole = convert(ENGINE, CONV).content
    flipped = whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]
    artifact = tmp_path / "damaged"
    artifact.write_bytes({"text": b"hello, I am a text", "cut": whole[:5000], "flipped": flipped}[damage])
    with pytest.raises(EngineFailure) as caught:
        ENGINE.open(OpenRequest(artifact, {}, "fp32", 1, {}))
    assert caught.value.code is FailureCode.INVALID_WORKLOAD


def test_inputs_that_do_not_fit_the_file_are_refused(tmp_path: Path) -> None:
    artifact = tmp_path / "small"
    artifact.write_bytes(convert(ENGINE, SMALL).content)
    right = np.zeros((1, 8, 4, 4), np.float32)
    for inputs in ({"other": right}, {"x": right.astype(np.float64)}, {"x": right[:, :4]}):
        with pytest.raises(EngineFailure) as caught:
            ENGINE.open(OpenRequest(artifact, inputs, "fp32", 1, {}))
        assert caught.value.code is FailureCode.INVALID_WORKLOAD


@pytest.mark.parametrize("name", KERNELS)
def test_half_precision_as_a_gpu_computes_it(name: str, tmp_path: Path) -> None:
    """The processor stands in for the GPU: same file, same weights and inputs in 16 bits."""
    [kernel] = drawn_kernels(name, 1)
    made = convert(ENGINE, kernel, "fp16")
    artifact = tmp_path / "half"
    artifact.write_bytes(made.content)
    inputs = artifact_inputs(kernel[1], made.edges)
    session = TorchSession(OpenRequest(artifact, inputs, "fp16", 1, {}), "cpu")
    session.run()
    assert session.computes_in() == "fp16"
    assert relative_l2(session.outputs(), reference(kernel)) < 1e-2
    session.close()
