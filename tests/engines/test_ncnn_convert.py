"""ncnn's files: what ONNX says in its own way and ncnn in another, which layers are written, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("ncnn", reason="ncnn is not installed")

from onnx import TensorProto, helper, numpy_helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.ncnn_engine import ENGINE
from benchfarm_engines.ncnn_file import read_artifact
from tests.engines.catalogue import Graph, convert, distance_after, drawn_kernels, normal, refusal
from tests.engines.conftest import conv_graph

GATE = 1e-3
RANDOM = np.random.default_rng(5)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32) * 0.2


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    shapes: Sequence[Sequence[int]],
    constants: dict[str, Any] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> Graph:
    inputs = [(f"x{number}", TensorProto.FLOAT, shape) for number, shape in enumerate(shapes)]
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    specs = tuple(normal(shape, name=name, seed=number) for number, (name, _, shape) in enumerate(inputs))
    return model.SerializeToString(), specs


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(" "), output.split(" "), **attributes)


IMAGE = [1, 6, 11, 9]
TOKENS = [1, 5, 12]
WINDOW: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]}

FORMS = {
    "uneven conv": graph_of([node("Conv", "x0 w", dilations=[2, 3], **WINDOW)], [IMAGE], {"w": weights(4, 6, 3, 2)}),
    "uneven group conv": graph_of(
        [node("Conv", "x0 w b", group=3, **WINDOW)], [IMAGE], {"w": weights(9, 2, 3, 2), "b": weights(9)}
    ),
    "uneven deconv": graph_of(
        [node("ConvTranspose", "x0 w b", output_padding=[1, 0], **WINDOW)],
        [IMAGE],
        {"w": weights(6, 4, 3, 2), "b": weights(4)},
    ),
    "group deconv": graph_of([node("ConvTranspose", "x0 w", group=2, **WINDOW)], [IMAGE], {"w": weights(6, 4, 3, 2)}),
    "max pool rounded up": graph_of([node("MaxPool", "x0", ceil_mode=1, kernel_shape=[3, 2], strides=[3, 2])], [IMAGE]),
    "mean pool with padding": graph_of([node("AveragePool", "x0", count_include_pad=1, **WINDOW)], [IMAGE]),
    "global max": graph_of([node("GlobalMaxPool", "x0")], [IMAGE]),
    "pooled channels joined": graph_of(
        [node("GlobalAveragePool", "x0", "a"), node("GlobalMaxPool", "x0", "b"), node("Concat", "a b", axis=1)],
        [IMAGE],
    ),
    "pooled twice": graph_of(
        [node("GlobalAveragePool", "x0", "a"), node("Conv", "a w", "b"), node("GlobalAveragePool", "b")],
        [IMAGE],
        {"w": weights(4, 6, 1, 1)},
    ),
    "pooled and enlarged": graph_of(
        [node("GlobalAveragePool", "x0", "a"), node("Resize", "a   s", mode="linear")],
        [IMAGE],
        {"s": np.array([1, 6, 4, 5])},
    ),
    "scalars on the left": graph_of(
        [node("Sub", "c x0", "a"), node("Div", "a c")], [IMAGE], {"c": np.float32(1.5).reshape(())}
    ),
    "one number per channel": graph_of([node("Add", "x0 c")], [IMAGE], {"c": weights(6, 1, 1)}),
    "one number per column": graph_of([node("Mul", "x0 c")], [IMAGE], {"c": weights(9)}),
    "fewer axes": graph_of(
        [node("Reshape", "x1 s", "a"), node("Add", "x0 a")], [TOKENS, [1, 12]], {"s": np.array([1, 12])}
    ),
    "normalised": graph_of(
        [node("BatchNormalization", "x0 s b m v", epsilon=1e-3)],
        [IMAGE],
        {"s": weights(6), "b": weights(6), "m": weights(6), "v": np.abs(weights(6)) + 0.5},
    ),
    "dense, not transposed": graph_of([node("Gemm", "x0 w b")], [[1, 12]], {"w": weights(12, 7), "b": weights(7)}),
    "dense on maps": graph_of(
        [node("Flatten", "x0", "f"), node("Gemm", "f w", transB=1)], [IMAGE], {"w": weights(7, 594)}
    ),
    "rows of rows": graph_of([node("MatMul", "x0 w")], [[1, 3, 5, 12]], {"w": weights(12, 7)}),
    "products of stacks": graph_of([node("MatMul", "x0 x1")], [[1, 3, 5, 12], [1, 3, 12, 4]]),
    "constant on the left": graph_of([node("MatMul", "w x0")], [TOKENS], {"w": weights(1, 3, 5)}),
    "axes in another order": graph_of([node("Transpose", "x0", perm=[0, 3, 1, 2])], [IMAGE]),
    "four axes in another order": graph_of([node("Transpose", "x0", perm=[0, 3, 1, 4, 2])], [[1, 2, 3, 4, 5]]),
    "softmax over channels": graph_of([node("Softmax", "x0", axis=1)], [IMAGE]),
    "softmax of old": graph_of([node("Softmax", "x0")], [[1, 12]], opset=11),
    "means": graph_of([node("ReduceMean", "x0", axes=[2, 3], keepdims=1)], [IMAGE]),
    "largest": graph_of([node("ReduceMax", "x0", axes=[-1], keepdims=0)], [TOKENS]),
    "a part": graph_of(
        [node("Slice", "x0 s e a")],
        [IMAGE],
        {"s": np.array([1, -8]), "e": np.array([5, 10**9]), "a": np.array([1, -1])},
    ),
    "parts of unequal size": graph_of(
        [node("Split", "x0 s", "a b", axis=2), node("Relu", "a"), node("Neg", "b", "z")],
        [IMAGE],
        {"s": np.array([4, 7])},
        outputs=("y", "z"),
    ),
    "axes come and go": graph_of(
        [node("Unsqueeze", "x0 a", "u"), node("Squeeze", "u a", "v"), node("Relu", "v")],
        [TOKENS],
        {"a": np.array([2])},
    ),
    "one pixel made larger": graph_of(
        [node("Resize", "x0   s", mode="linear")], [[1, 6, 1, 1]], {"s": np.array([1, 6, 3, 2])}
    ),
    "corners": graph_of(
        [node("Resize", "x0   s", mode="linear", coordinate_transformation_mode="align_corners")],
        [IMAGE],
        {"s": np.array([1, 6, 22, 27])},
    ),
    "exporters' nearest": graph_of([node("Resize", "x0  k")], [IMAGE], {"k": np.array([1, 1, 2, 3], np.float32)}),
    "swish by hand": graph_of([node("Sigmoid", "x0", "s"), node("Mul", "s x0")], [IMAGE]),
    "sigmoid read twice": graph_of([node("Sigmoid", "x0", "s"), node("Mul", "s x0", "p"), node("Add", "p s")], [IMAGE]),
    "gelu, halved first": graph_of(
        [
            *(node("Mul", "x0 h", "a"), node("Div", "x0 r", "b"), node("Erf", "b", "c")),
            *(node("Add", "c o", "d"), node("Mul", "a d")),
        ],
        [TOKENS],
        {name: np.float32(value) for name, value in (("h", 0.5), ("r", 2**0.5), ("o", 1.0))},
    ),
    "an error function": graph_of([node("Erf", "x0")], [TOKENS]),
    "leaky": graph_of(
        [node("Conv", "x0 w", "c"), node("LeakyRelu", "c", alpha=0.2)], [IMAGE], {"w": weights(4, 6, 1, 1)}
    ),
    "read and given out": graph_of([node("Relu", "x0", "y"), node("Sigmoid", "y", "z")], [IMAGE], outputs=("z", "y")),
    "given out as it came": graph_of([node("Identity", "x0"), node("Neg", "x0", "z")], [IMAGE], outputs=("y", "z")),
    "constant padding": graph_of(
        [node("Pad", "x0 p v")], [IMAGE], {"p": np.array([0, 2, 1, 3, 0, 1, 2, 4]), "v": np.float32(0.5).reshape(())}
    ),
    "mirrored padding": graph_of(
        [node("Pad", "x0 p", mode="reflect")], [IMAGE], {"p": np.array([0, 0, 1, 3, 0, 0, 2, 4])}
    ),
    "padded rows": graph_of([node("Pad", "x0 p", mode="edge")], [TOKENS], {"p": np.array([0, 1, 2, 0, 3, 4])}),
    "slopes": graph_of([node("PRelu", "x0 s")], [IMAGE], {"s": weights(6, 1, 1)}),
    "elu and softplus": graph_of([node("Elu", "x0", "a", alpha=0.7), node("Softplus", "a")], [IMAGE]),
    "maps normalised": graph_of([node("InstanceNormalization", "x0 s b")], [IMAGE], {"s": weights(6), "b": weights(6)}),
    "depth to space": graph_of([node("DepthToSpace", "x0", blocksize=2)], [[1, 12, 5, 4]]),
    "columns to space": graph_of([node("DepthToSpace", "x0", blocksize=2, mode="CRD")], [[1, 12, 5, 4]]),
    "the first token": graph_of([node("Gather", "x0 i", axis=1)], [TOKENS], {"i": np.array(0)}),
    "the last column": graph_of([node("Gather", "x0 i", axis=-1)], [TOKENS], {"i": np.array([-1])}),
    "a token in front": graph_of([node("Concat", "t x0", axis=1)], [TOKENS], {"t": weights(1, 1, 12)}),
    "normalised after a convolution": graph_of(
        [node("Conv", "x0 w b", "c"), node("BatchNormalization", "c s b m v"), node("Relu", "y", "z")],
        [IMAGE],
        {"w": weights(4, 6, 3, 3), **{name: np.abs(weights(4)) + 0.1 for name in "sbmv"}},
        outputs=("z",),
    ),
    "a token for each input": graph_of(
        [
            *(node("Shape", "x0", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n first", "u")),
            *(node("Concat", "u rest", "w", axis=0), node("Expand", "t w", "e"), node("Concat", "e x0", axis=1)),
        ],
        [TOKENS],
        {"zero": np.array(0), "first": np.array([0]), "rest": np.array([1, 12]), "t": weights(1, 1, 12)},
    ),
    "a shape that is computed": graph_of(
        [
            *(node("Shape", "x0", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n first", "u")),
            *(node("Concat", "u rest", "t", axis=0), node("Reshape", "x0 t", "r"), node("Relu", "r")),
        ],
        [IMAGE],
        {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1, 9])},
    ),
    "a shape in a node": graph_of(
        [
            helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, -1, 9]))),
            node("Reshape", "x0 s", "a"),
            node("Relu", "a"),
        ],
        [IMAGE],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_computes_the_same(name: str, tmp_path: Path) -> None:
    assert distance_after(2, ENGINE, FORMS[name], tmp_path) < GATE


@pytest.mark.parametrize("name", FORMS)
def test_a_batch_computes_the_same(name: str, tmp_path: Path) -> None:
    content, specs = FORMS[name]
    if name in ("a shape in a node", "fewer axes", "a token in front"):
        pytest.skip("the graph itself says a batch of 1")
    model = onnx.load_model_from_string(content)
    for each in model.graph.input:
        each.type.tensor_type.shape.dim[0].dim_value = 3
    for each in model.graph.initializer:
        if name in ("pooled and enlarged", "one pixel made larger", "corners") and each.name == "s":
            each.CopyFrom(numpy_helper.from_array(np.array([3, *numpy_helper.to_array(each)[1:]]), "s"))
    batch = tuple(normal((3, *spec.shape[1:]), name=spec.name, seed=spec.fill["seed"]) for spec in specs)
    assert distance_after(2, ENGINE, (model.SerializeToString(), batch), tmp_path) < GATE


def test_numbers_of_rows_are_looked_up(tmp_path: Path) -> None:
    for batch in (1, 3):
        made = helper.make_graph(
            [node("Gather", "table x"), node("Relu", "y", "z")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.INT64, [batch, 5])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weights(20, 12), "table")],
        )
        content = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        tokens = InputSpec("x", "int64", (batch, 5), {"kind": "ints", "below": 20, "seed": 1})
        assert distance_after(2, ENGINE, (content, (tokens,)), tmp_path) < GATE


def test_inputs_may_be_named_in_another_order(tmp_path: Path) -> None:
    content, specs = graph_of([node("Sub", "x0 x1")], [TOKENS, TOKENS])
    assert distance_after(1, ENGINE, (content, specs[::-1]), tmp_path) < GATE


def test_numbers_of_another_type_are_refused(tmp_path: Path) -> None:
    content, _ = graph_of([node("Relu", "x0")], [TOKENS])
    model = onnx.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    wide = InputSpec("x0", "float64", tuple(TOKENS), {"kind": "normal", "seed": 0})
    found = refusal(ENGINE, (model.SerializeToString(), (wide,)), tmp_path)
    assert (found.code, found.subject) == (FailureCode.UNSUPPORTED_OPERATOR, "float64")


@pytest.mark.parametrize(
    ("kernel", "layers"),
    [
        ("conv-bn-act", {"Convolution"}),
        ("dwconv-bn-act", {"ConvolutionDepthWise"}),
        ("fc", {"InnerProduct"}),
        ("se", {"Split", "Pooling", "InnerProduct", "BinaryOp"}),
        ("channel-shuffle", {"ShuffleChannel"}),
        ("attention", {"Reshape", "Permute", "SDPA"}),
        ("gelu", {"GELU"}),
        ("linear", {"Gemm"}),
        ("softmax", {"Softmax"}),
        ("layernorm", {"LayerNorm"}),
    ],
)
def test_kernels_are_written_in_ncnn_s_own_layers(kernel: str, layers: set[str], tmp_path: Path) -> None:
    activations = {"Input", "ReLU", "Clip", "HardSwish", "Swish", "Sigmoid", "HardSigmoid", "GELU"}
    for number, each in enumerate(drawn_kernels(kernel, 4)):
        artifact = tmp_path / f"{number}"
        artifact.write_bytes(convert(ENGINE, each).content)
        lines = read_artifact(artifact).param.splitlines()[2:]
        assert {line.split()[0] for line in lines} - (activations - layers) == layers


def test_activations_are_part_of_the_layer_before(tmp_path: Path) -> None:
    for kind in ("Relu", "Sigmoid", "HardSwish", "LeakyRelu"):
        fused = graph_of([node("Conv", "x0 w", "c"), node(kind, "c")], [IMAGE], {"w": weights(4, 6, 1, 1)})
        artifact = tmp_path / kind
        artifact.write_bytes(convert(ENGINE, fused).content)
        assert read_artifact(artifact).param.splitlines()[1] == "2 2"


def test_the_same_request_gives_the_same_bytes() -> None:
    for kernel in (*drawn_kernels("conv-bn-act", 1), *drawn_kernels("attention", 1)):
        assert convert(ENGINE, kernel).content == convert(ENGINE, kernel).content


UNSUPPORTED = {
    "MatMul": graph_of([node("MatMul", "x0 w")], [TOKENS], {"w": weights(12)}),
    "AveragePool": graph_of([node("AveragePool", "x0", kernel_shape=[3, 3], ceil_mode=1)], [[1, 4, 2, 8]]),
    "MaxPool": graph_of([node("MaxPool", "x0", ceil_mode=1, **WINDOW)], [IMAGE]),
    "TopK": graph_of([node("TopK", "x0 k", "y i")], [[1, 9]], {"k": np.array([3])}),
    "CumSum": graph_of([node("CumSum", "x0 a")], [TOKENS], {"a": np.array(1)}),
    "Conv": graph_of([node("Conv", "x0 w")], [[1, 3, 8]], {"w": weights(4, 3, 3)}),
    "Resize": graph_of([node("Resize", "x0   s", mode="cubic")], [IMAGE], {"s": np.array([1, 6, 22, 18])}),
    "Gemm": graph_of([node("Gemm", "x0 w", alpha=0.5)], [[1, 4]], {"w": weights(4, 4)}),
    "Softmax": graph_of([node("Softmax", "x0", axis=1)], [IMAGE], opset=11),
}


@pytest.mark.parametrize("operator", UNSUPPORTED)
def test_what_ncnn_lacks_is_named(operator: str, tmp_path: Path) -> None:
    found = refusal(ENGINE, UNSUPPORTED[operator], tmp_path)
    assert (found.code, found.subject) == (FailureCode.UNSUPPORTED_OPERATOR, operator)


def test_a_single_row_is_not_interpolated(tmp_path: Path) -> None:
    graph = graph_of([node("Resize", "x0   s", mode="linear")], [[1, 6, 1, 9]], {"s": np.array([1, 6, 2, 18])})
    assert refusal(ENGINE, graph, tmp_path).subject == "Resize"


@pytest.mark.parametrize(
    "graph",
    [
        graph_of([node("Transpose", "x0", perm=[1, 0])], [[3, 5]]),
        graph_of([node("Concat", "x0 x1", axis=0)], [[1, 5], [1, 5]]),
        graph_of([node("Add", "x0 x1")], [[1, 5], [3, 5]]),
        graph_of([node("Relu", "x0")], [[7]]),
        graph_of([node("Reshape", "x0 s")], [[4, 6]], {"s": np.array([2, 12])}),
    ],
)
def test_a_batch_axis_that_does_not_stay_in_front_is_refused(graph: Graph, tmp_path: Path) -> None:
    found = refusal(ENGINE, graph, tmp_path)
    assert (found.code, found.subject) == (FailureCode.UNSUPPORTED_OPERATOR, "batch")


def test_files_that_are_no_model_are_invalid(tmp_path: Path) -> None:
    whole, inputs = conv_graph(8, 4), (normal([1, 8, 4, 4]),)
    for content in (b"hello, I am a text", whole[: len(whole) // 2], b""):
        assert refusal(ENGINE, (content, inputs), tmp_path).code is FailureCode.INVALID_WORKLOAD


def test_shapes_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    graph = graph_of([node("Conv", "x0 w")], [IMAGE], {"w": weights(4, 5, 3, 3)})
    assert refusal(ENGINE, graph, tmp_path).code is FailureCode.INVALID_WORKLOAD
    graph = graph_of([node("MatMul", "x0 w")], [TOKENS], {"w": weights(11, 3)})
    assert refusal(ENGINE, graph, tmp_path).code in (FailureCode.INVALID_WORKLOAD, FailureCode.CONVERSION_FAILED)
