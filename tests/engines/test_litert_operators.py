"""Single operators in forms that the catalogue does not have, as uploads bring them, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from onnx import helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from tests.engines.catalogue import Graph, normal
from tests.engines.conftest import graph
from tests.engines.test_litert_convert import converted, distances, int8_distances, operators

node = helper.make_node
RNG = np.random.default_rng(1)
IMAGE, TOKENS, ROW = [1, 6, 9, 8], [2, 5, 12], [3, 7]


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def work(nodes: list[Any], shapes: dict[str, list[int]], constants: dict[str, Any] | None = None, *ends: str) -> Graph:
    inputs = tuple(normal(shape, name=name, seed=seed) for seed, (name, shape) in enumerate(shapes.items()))
    return graph(nodes, shapes, list(ends) or ["y"], constants), inputs


def one(op: str, shape: list[int], constants: dict[str, Any] | None = None, **attributes: Any) -> Graph:
    """An operator whose further inputs are constants, in order."""
    return work([node(op, ["x", *(constants or {})], ["y"], **attributes)], {"x": shape}, constants)


WINDOWS = {
    "conv without bias": one("Conv", IMAGE, {"w": real(4, 6, 3, 3)}),
    "conv, unlike pads": one("Conv", IMAGE, {"w": real(4, 6, 3, 3)}, pads=[0, 1, 2, 0], strides=[2, 1]),
    "conv, dilated": one("Conv", IMAGE, {"w": real(4, 6, 3, 3)}, dilations=[2, 2], pads=[2, 2, 2, 2]),
    "conv, same upper": one("Conv", IMAGE, {"w": real(4, 6, 3, 3)}, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv, same lower": one("Conv", IMAGE, {"w": real(4, 6, 2, 2)}, auto_pad="SAME_LOWER"),
    "conv, depth multiplier": one("Conv", IMAGE, {"w": real(12, 1, 3, 3), "b": real(12)}, group=6),
    "conv, oblong": one("Conv", IMAGE, {"w": real(4, 6, 1, 5)}, pads=[0, 2, 0, 2], strides=[1, 2]),
    "deconv, output padding": one(
        "ConvTranspose", IMAGE, {"w": real(6, 4, 3, 3)}, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
    ),
    "deconv, no padding": one("ConvTranspose", IMAGE, {"w": real(6, 4, 3, 3), "b": real(4)}, strides=[2, 2]),
    "maxpool, unlike pads": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "maxpool, rounded up": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "avgpool, unlike pads": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "avgpool, padding counted": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "avgpool, rounded up": one("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "global maxpool": one("GlobalMaxPool", IMAGE),
    "resize, corners": work(
        [node("Resize", ["x", "", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")],
        {"x": IMAGE},
        {"s": whole(1, 6, 20, 13)},
    ),
    "resize, nearest centres": work(
        [node("Resize", ["x", "", "k"], ["y"], mode="nearest")],
        {"x": IMAGE},
        {"k": np.array([1, 1, 2, 2], dtype=np.float32)},
    ),
    "batch normalisation": one(
        "BatchNormalization", IMAGE, {"s": real(6), "b": real(6), "m": real(6), "v": np.abs(real(6)) + 0.5}
    ),
    "pad": one("Pad", IMAGE, {"p": whole(0, 1, 2, 0, 0, 0, 1, 3)}),
    "pad with a value": one("Pad", IMAGE, {"p": whole(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(2.5)}),
    "pad, reflected": one("Pad", IMAGE, {"p": whole(0, 0, 1, 2, 0, 0, 2, 1)}, mode="reflect"),
    "depth to space": one("DepthToSpace", [1, 8, 3, 4], blocksize=2),
    "space to depth": one("SpaceToDepth", [1, 3, 4, 6], blocksize=2),
}
MOVERS = {
    "flatten of an image": one("Flatten", IMAGE),
    "flatten, fc": work(
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", "b"], ["y"])],
        {"x": IMAGE},
        {"w": real(6 * 72, 5), "b": real(5)},
    ),
    "transpose of an image": one("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "transpose, all reversed": one("Transpose", TOKENS),
    "image to tokens to image": work(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Reshape", ["c", "s"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
            node("LayerNormalization", ["t", "g"], ["n"]),
            node("Transpose", ["n"], ["u"], perm=[0, 2, 1]),
            node("Reshape", ["u", "i"], ["v"]),
            node("Conv", ["v", "w"], ["y"]),
        ],
        {"x": IMAGE},
        {"w": real(6, 6, 1, 1), "s": whole(1, 6, 72), "i": whole(1, 6, 9, 8), "g": real(6)},
    ),
    "reshape that mixes": one("Reshape", IMAGE, {"s": whole(2, 3, -1, 4)}),
    "squeeze": one("Squeeze", [1, 6, 1, 1], {"a": whole(2, 3)}),
    "unsqueeze": one("Unsqueeze", ROW, {"a": whole(0, 3)}),
    "concat of rows": work([node("Concat", ["x", "z", "x"], ["y"], axis=-2)], {"x": TOKENS, "z": [2, 3, 12]}),
    "concat with a constant": work([node("Concat", ["c", "x"], ["y"], axis=1)], {"x": TOKENS}, {"c": real(2, 1, 12)}),
    "split, unlike": work([node("Split", ["x", "s"], ["y", "z"], axis=1)], {"x": IMAGE}, {"s": whole(2, 4)}, "y", "z"),
    "split of query, key, value": work(
        [
            node("Reshape", ["x", "s"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
            node("Gather", ["t", "i0"], ["q"], axis=0),
            node("Gather", ["t", "i1"], ["k"], axis=0),
            node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
            node("MatMul", ["q", "kt"], ["y"]),
        ],
        {"x": [2, 5, 36]},
        {"s": whole(2, 5, 3, 4, 3), "i0": np.int64(0), "i1": np.int64(1)},
    ),
    "slice": one("Slice", IMAGE, {"b": whole(1, -6), "e": whole(4, 100), "a": whole(1, 3)}),
    "slice, strided": one("Slice", IMAGE, {"b": whole(0), "e": whole(9), "a": whole(2), "t": whole(2)}),
    "gather": one("Gather", TOKENS, {"i": whole(4, 0, -1)}, axis=1),
    "expand": one("Expand", [1, 6, 1, 1], {"s": whole(2, 6, 3, 4)}),
    "the input itself": one("Identity", TOKENS),
    "one tensor, two outputs": work(
        [node("Relu", ["x"], ["y"]), node("Identity", ["y"], ["z"])], {"x": IMAGE}, None, "y", "z"
    ),
}
KNOWN = {
    "flatten as exporters write it": work(
        [
            node("Constant", [], ["zero"], value_int=0),
            node("Constant", [], ["rest"], value_ints=[-1]),
            node("Constant", [], ["first"], value_ints=[0]),
            node("Relu", ["x"], ["r"]),
            node("Shape", ["r"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"]),
            node("Unsqueeze", ["batch", "first"], ["row"]),
            node("Concat", ["row", "rest"], ["wanted"], axis=0),
            node("Reshape", ["r", "wanted"], ["y"]),
        ],
        {"x": IMAGE},
    ),
    "weights that are turned first": work(
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])],
        {"x": TOKENS},
        {"w": real(4, 12)},
    ),
}
ARITHMETIC = {
    **{op: one(op, IMAGE) for op in "Relu Sigmoid Tanh HardSwish HardSigmoid Abs Neg Exp Floor Ceil Sin Cos".split()},
    "leaky relu": one("LeakyRelu", IMAGE, alpha=0.2),
    "elu": one("Elu", ROW),
    "prelu": one("PRelu", IMAGE, {"s": real(6, 1, 1)}),
    "clip": one("Clip", IMAGE, {"low": np.float32(-0.5), "high": np.float32(0.7)}),
    "clip from below": one("Clip", ROW, {"low": np.float32(0.1)}),
    "power": work([node("Abs", ["x"], ["a"]), node("Pow", ["a", "p"], ["y"])], {"x": ROW}, {"p": np.float32(1.5)}),
    "square": one("Pow", IMAGE, {"p": np.float32(2)}),
    "sqrt, log": work([node("Abs", ["x"], ["a"]), node("Sqrt", ["a"], ["s"]), node("Log", ["s"], ["y"])], {"x": ROW}),
    "reciprocal": one("Reciprocal", ROW),
    "sub of a channel": one("Sub", IMAGE, {"c": real(6, 1, 1)}),
    "constant over x": work([node("Div", ["c", "x"], ["y"])], {"x": ROW}, {"c": real(7)}),
    "image plus row": work([node("Add", ["x", "z"], ["y"])], {"x": IMAGE, "z": [8]}),
    "row of another rank first": work([node("Add", ["z", "x"], ["y"])], {"z": [9, 1], "x": IMAGE}),
    "image times gate": work([node("Mul", ["z", "x"], ["y"])], {"z": [1, 6, 1, 1], "x": IMAGE}),
    "maximum": work([node("Max", ["x", "z"], ["y"])], {"x": TOKENS, "z": TOKENS}),
    "reduce mean of an image": one("ReduceMean", IMAGE, axes=[2, 3], keepdims=0),
    "reduce sum": one("ReduceSum", IMAGE, {"a": whole(1)}, keepdims=1),
    "reduce max": one("ReduceMax", TOKENS, axes=[-1], keepdims=0),
    "softmax over channels": one("Softmax", IMAGE, axis=1),
    "softmax of scores": one("Softmax", [2, 3, 5, 5], axis=-1),
    "layer norm of two axes": one("LayerNormalization", TOKENS, {"g": real(5, 12), "b": real(5, 12)}, axis=1),
    "gelu, half first": work(
        [
            node("Mul", ["x", "r"], ["s"]),
            node("Erf", ["s"], ["e"]),
            node("Add", ["o", "e"], ["a"]),
            node("Mul", ["x", "h"], ["m"]),
            node("Mul", ["m", "a"], ["y"]),
        ],
        {"x": TOKENS},
        {"r": np.float32(0.5**0.5), "o": np.float32(1), "h": np.float32(0.5)},
    ),
    "hard swish in two": work(
        [node("HardSigmoid", ["x"], ["g"], alpha=1 / 6), node("Mul", ["x", "g"], ["y"])], {"x": IMAGE}
    ),
    "relu read twice": work(
        [node("Add", ["x", "x"], ["a"]), node("Relu", ["a"], ["r"]), node("Sub", ["r", "a"], ["y"])], {"x": IMAGE}
    ),
}
PRODUCTS = {
    "gemm, not transposed": one("Gemm", ROW, {"w": real(7, 4)}),
    "matmul of four axes": work([node("MatMul", ["x", "z"], ["y"])], {"x": [2, 3, 4, 5], "z": [2, 3, 5, 6]}),
    "matmul, batch broadcast": work([node("MatMul", ["x", "z"], ["y"])], {"x": [2, 4, 5], "z": [1, 5, 6]}),
    "matmul, constant stack": one("MatMul", TOKENS, {"w": real(2, 12, 3)}),
    "matmul, constant first": work([node("MatMul", ["c", "x"], ["y"])], {"x": TOKENS}, {"c": real(4, 5)}),
    "matmul, then relu": work([node("MatMul", ["x", "z"], ["m"]), node("Relu", ["m"], ["y"])], {"x": ROW, "z": [7, 3]}),
    "linear layer, relu": work(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["a"]), node("Relu", ["a"], ["y"])],
        {"x": TOKENS},
        {"w": real(12, 4), "b": real(4)},
    ),
}
ALL = WINDOWS | MOVERS | KNOWN | ARITHMETIC | PRODUCTS


@pytest.mark.parametrize("name", ALL)
def test_an_operator_computes_what_onnx_says(name: str, tmp_path: Path) -> None:
    assert max(distances(ALL[name], tmp_path)) < 1e-5


@pytest.mark.parametrize("name", ["flatten, fc", "image to tokens to image", "split of query, key, value", "prelu"])
def test_steps_go_along_with_the_data(name: str, tmp_path: Path) -> None:
    for edges in ("int8", "fp32"):
        for _, from_twin in int8_distances(ALL[name], tmp_path, edges=edges):
            assert from_twin < 2e-2


def test_flat_images_are_multiplied_where_they_lie() -> None:
    assert operators(converted(MOVERS["flatten, fc"]).content) == ["RESHAPE", "FULLY_CONNECTED"]


REFUSED = {
    "Erf": one("Erf", ROW),
    "ConvTranspose": one("ConvTranspose", IMAGE, {"w": real(6, 2, 3, 3)}, group=2),
    "ConvTranspose, sized": one(
        "ConvTranspose", IMAGE, {"w": real(6, 4, 3, 3)}, strides=[2, 2], output_shape=[IMAGE[2] * 2, IMAGE[3] * 2]
    ),
    "Gemm": one("Gemm", ROW, {"w": real(7, 4), "b": real(ROW[0], 4)}),
    "Conv": one("Conv", [1, 6, 9], {"w": real(4, 6, 3)}),
    "Resize": work(
        [node("Resize", ["x", "", "k"], ["y"], mode="cubic")],
        {"x": IMAGE},
        {"k": np.array([1, 1, 2, 2], dtype=np.float32)},
    ),
    "MaxPool": one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    "Slice": one("Slice", ROW, {"b": whole(6), "e": whole(0), "a": whole(1), "t": whole(-1)}),
    "LSTM": work(
        [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)],
        {"x": [3, 1, 2]},
        {"w": real(1, 8, 2), "r": real(1, 8, 2)},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_named(name: str) -> None:
    with pytest.raises(EngineFailure) as caught:
        converted(REFUSED[name])
    assert caught.value.code is FailureCode.UNSUPPORTED_OPERATOR
    assert caught.value.subject == name.partition(",")[0]
