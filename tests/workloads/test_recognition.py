"""Operators that look like a kernel of the catalogue and compute something else: listed, never taken for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchfarm_workloads import onnx_reading
from benchfarm_workloads.draws import draw
from benchfarm_workloads.fusing import FusionRules, fuse
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.operators import GraphIndex, graph_operators
from benchfarm_workloads.recognition import Part, recognised

Shape = Sequence[int]
IMAGE = (1, 4, 8, 8)
FLOAT = TensorProto.FLOAT


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return np.full(shape, 0.5, np.float32)


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), output.split(), name=output, **attributes)


def held(name: str, array: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    output: Shape | None = IMAGE,
    dtype: int = FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", dtype, output)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def parts_of(made: onnx.ModelProto) -> list[Part]:
    """As the inspection reads it and the farm answers for it."""
    weights = onnx_reading.weight_infos(made.graph)
    graph = onnx_reading.read(onnx_reading.with_shapes(made), weights).graph
    index = GraphIndex(graph)
    chains = fuse(graph_operators(graph), FusionRules()).kernels
    parts = [part for chain in chains for part in recognised(chain, index)]
    listed = [id(one) for part in parts for operator in part.operators for one in operator.nodes]
    assert sorted(listed) == sorted(map(id, graph.nodes))
    return [part for part in parts if not part.is_free]


def types_of(made: onnx.ModelProto) -> list[str | None]:
    return [part.type for part in parts_of(made)]


def conv(output: str = "y", inputs: Sequence[str] = ("x", "w"), **attributes: Any) -> onnx.NodeProto:
    return node("Conv", inputs, output, **{"pads": [1, 1, 1, 1], **attributes})


KERNEL = {"w": weight(4, 4, 3, 3)}


@pytest.mark.parametrize(
    ("factor", "form"), [(IMAGE, "image"), ((1, 4, 1, 1), "channel"), ((1, 1, 8, 8), None), ((1, 1, 1, 1), None)]
)
def test_a_mask_per_pixel_is_no_factor_per_channel(factor: Shape, form: str | None) -> None:
    [part] = parts_of(model([node("Mul", ["x", "m"], "y")], {"x": IMAGE, "m": factor}))
    assert (part.config or {}).get("form") == form
    assert (part.type == "mul") is (form is not None)


def test_a_product_with_a_stored_tensor_is_no_product_of_two() -> None:
    assert types_of(model([node("Mul", ["x", "w"], "y")], {"x": IMAGE}, {"w": weight(1, 4, 1, 1)})) == [None]
    assert types_of(model([node("Mul", ["x", "x"], "y")], {"x": IMAGE})) == [None]


def limits(low: float | None, high: float | None, where: str) -> onnx.ModelProto:
    given = {name: np.float32(number) for name, number in (("low", low), ("high", high)) if number is not None}
    if where == "attributes":
        named = {name: float(number) for name, number in zip(("min", "max"), given.values(), strict=False)}
        return model([node("Clip", ["x"], "y", **named)], {"x": IMAGE}, opset=9)
    clip = node("Clip", ["x", *(name if name in given else "" for name in ("low", "high"))], "y")
    arrays = {name: np.asarray(number) for name, number in given.items()}
    if where == "constants":
        return model([*(held(*each) for each in arrays.items()), clip], {"x": IMAGE})
    if where == "inputs":
        return model([clip], {"x": IMAGE, "low": (), "high": ()})
    return model([clip], {"x": IMAGE}, arrays)


@pytest.mark.parametrize(
    ("low", "high", "where", "found"),
    [
        (0, 6, "weights", "act"),
        (0, 6, "constants", "act"),
        (0, 6, "attributes", "act"),
        (0, 6, "inputs", None),
        (-1, 1, "weights", None),
        (0, 1, "constants", None),
        (0, 20, "attributes", None),
        (0, None, "weights", None),
        (None, 6, "weights", None),
    ],
)
def test_only_a_clip_from_0_to_6_is_relu6(low: float, high: float, where: str, found: str | None) -> None:
    assert types_of(limits(low, high, where)) == [found]


def test_a_convolution_keeps_its_kernel_where_another_clip_follows() -> None:
    bounds = {"low": np.asarray(-1, np.float32), "high": np.asarray(1, np.float32)}
    made = model([conv("c"), node("Clip", ["c", "low", "high"], "y")], {"x": IMAGE}, KERNEL | bounds)
    first, second = parts_of(made)
    assert first.config is not None
    assert (first.type, first.config["act"]) == ("conv-bn-act", "none")
    assert (second.type, second.operators[0].ops) == (None, ("Clip",))


@pytest.mark.parametrize("where", ["weights", "constants", "restored", "input", "computed", "bias"])
def test_a_weight_that_is_not_the_models_own_makes_another_kernel(where: str) -> None:
    own = {"w": KERNEL["w"]}
    restored: dict[str, np.ndarray[Any, Any]] = {"q": np.ones((4, 4, 3, 3), np.int8), "s": np.array(0.1, np.float32)}
    by_where = {
        "weights": model([conv()], {"x": IMAGE}, own),
        "constants": model([held("w", own["w"]), conv()], {"x": IMAGE}),
        "restored": model([node("DequantizeLinear", ["q", "s"], "w"), conv()], {"x": IMAGE}, restored),
        "input": model([conv()], {"x": IMAGE, "w": (4, 4, 3, 3)}),
        "computed": model([node("Neg", ["v"], "w"), conv()], {"x": IMAGE, "v": (4, 4, 3, 3)}),
        "bias": model([conv(inputs=["x", "w", "b"])], {"x": IMAGE, "b": (4,)}, own),
    }
    assert types_of(by_where[where])[-1] == ("conv-bn-act" if where in ("weights", "constants", "restored") else None)


@pytest.mark.parametrize(
    ("attributes", "mode"),
    [
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, "nearest"),
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}, None),
        ({"mode": "nearest"}, None),
        ({"mode": "linear"}, "bilinear"),
        ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, "bilinear"),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, None),
        ({"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, None),
        ({"mode": "linear", "antialias": 1}, None),
        ({"mode": "cubic"}, None),
    ],
)
def test_a_resize_with_other_coordinates_is_not_the_plain_one(attributes: dict[str, Any], mode: str | None) -> None:
    sizes = {"sizes": np.asarray([1, 4, 16, 16])}
    resize = node("Resize", ["x", "", "", "sizes"], "y", **attributes)
    [part] = parts_of(model([resize], {"x": IMAGE}, sizes, output=(1, 4, 16, 16), opset=18))
    assert (part.type, (part.config or {}).get("mode")) == (None if mode is None else "resize", mode)


def test_a_resize_of_old_files_has_other_coordinates() -> None:
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    out = (1, 4, 16, 16)
    for mode, found in (("nearest", "resize"), ("linear", None)):
        made = model([node("Resize", ["x", "s"], "y", mode=mode)], {"x": IMAGE}, scales, output=out, opset=10)
        assert types_of(made) == [found]


@pytest.mark.parametrize(
    ("op", "attributes", "found"),
    [
        ("Conv", {"pads": [1, 1, 1, 1]}, "conv-bn-act"),
        ("Conv", {"auto_pad": "SAME_UPPER", "pads": None}, "conv-bn-act"),
        ("Conv", {"pads": [2, 2, 0, 0]}, None),
        ("Conv", {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, None),
        ("MaxPool", {"pads": [0, 0, 2, 2], "kernel_shape": [3, 3]}, None),
        ("AveragePool", {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}, "avgpool"),
        ("AveragePool", {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "count_include_pad": 1}, None),
    ],
)
def test_a_window_laid_otherwise_is_another_kernel(op: str, attributes: dict[str, Any], found: str | None) -> None:
    given = {name: value for name, value in attributes.items() if value is not None}
    inputs = ["x", "w"] if op == "Conv" else ["x"]
    [part] = parts_of(model([node(op, inputs, "y", **given)], {"x": IMAGE}, KERNEL if op == "Conv" else {}))
    assert (part.type, part.config is not None) == (found, found is not None)


@pytest.mark.parametrize(
    ("attributes", "size", "found"),
    [
        ({"pads": [1, 1, 1, 1], "kernel_shape": [4, 4]}, 4, "deconv-bn-act"),
        ({"pads": [1, 1, 1, 1], "output_padding": [1, 1]}, 3, None),
        ({"pads": [2, 2, 2, 2], "output_padding": [2, 2], "strides": [4, 4]}, 4, None),
        ({"pads": [1, 1, 1, 1], "group": 2}, 4, None),
    ],
)
def test_a_transposed_convolution_of_another_kind(attributes: dict[str, Any], size: int, found: str | None) -> None:
    weights = {"w": weight(4, 4 // attributes.get("group", 1), size, size)}
    strides = attributes.get("strides", [2, 2])
    out = 8 * strides[0]
    made = node("ConvTranspose", ["x", "w"], "y", **{"strides": strides, **attributes})
    [part] = parts_of(model([made], {"x": IMAGE}, weights, output=(1, 4, out, out)))
    assert (part.type if part.config else None) == found


@pytest.mark.parametrize(
    ("attributes", "bias", "found"),
    [
        ({"transB": 1}, (4,), "fc"),
        ({}, (1, 4), "fc"),
        ({"transA": 1}, (4,), None),
        ({"alpha": 0.5}, (4,), None),
        ({"beta": 2.0}, (4,), None),
        ({}, (4, 4), None),
        ({}, (1,), None),
    ],
)
def test_a_product_with_factors_is_no_plain_layer(attributes: Any, bias: Shape, found: str | None) -> None:
    weights = {"w": weight(4, 4), "b": weight(*bias)}
    made = model([node("Gemm", ["x", "w", "b"], "y", **attributes)], {"x": (4, 4)}, weights, output=(4, 4))
    assert types_of(made) == [found]


def test_a_dense_layer_with_another_weight_or_bias() -> None:
    def of(bias: Shape, *shape: int) -> list[str | None]:
        nodes = [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"], "y")]
        weights = {"w": weight(*shape), "b": weight(*bias)}
        return types_of(model(nodes, {"x": (2, 4, 6)}, weights, output=(2, 4, 6)))

    assert of((6,), 6, 6) == ["linear"]
    assert of((1,), 6, 6) == [None]
    assert of((6,), 2, 6, 6) == [None]


def test_a_product_of_other_factors() -> None:
    def of(right: Shape, weights: Any = None) -> str | None:
        inputs = {"x": (2, 6, 6)} | ({} if weights else {"w": right})
        return types_of(model([node("MatMul", ["x", "w"], "y")], inputs, weights, output=(2, 6, 6)))[0]

    assert of((2, 6, 6)) == of((6, 6), {"w": weight(6, 6)}) == "matmul"
    assert of((1, 6, 6)) is of((6, 6)) is of((2, 6, 6), {"w": weight(2, 6, 6)}) is None
    turned = model([node("MatMul", ["w", "x"], "y")], {"x": (2, 6, 6)}, {"w": weight(2, 6, 6)}, output=(2, 6, 6))
    assert types_of(turned) == [None]


NORM = {name: np.ones(4, np.float32) for name in ("scale", "offset", "mean", "var")}


def test_what_makes_a_weight_or_a_limit_is_not_fused_with_its_reader() -> None:
    rules = FusionRules({("Conv", "Conv"): True, ("Conv", "Clip"): True})
    for reader in (conv("y", ["x", "c"]), node("Clip", ["x", "c"], "y")):
        made = model([conv("c", ["z", "w"]), reader], {"x": IMAGE, "z": (4, 4, 3, 3)}, KERNEL)
        graph = onnx_reading.read(onnx_reading.with_shapes(made), onnx_reading.weight_infos(made.graph)).graph
        assert [len(chain) for chain in fuse(graph_operators(graph), rules).kernels] == [1, 1]


@pytest.mark.parametrize("trains", [False, True])
def test_a_normalisation_in_training_belongs_to_no_convolution(trains: bool) -> None:
    outputs = "y m v" if trains else "y"
    norm = node("BatchNormalization", ["c", *NORM], outputs, training_mode=int(trains))
    found = types_of(model([conv("c"), norm], {"x": IMAGE}, KERNEL | NORM))
    assert found == (["conv-bn-act", None] if trains else ["conv-bn-act"])


def test_a_normalisation_by_given_numbers_belongs_to_no_convolution() -> None:
    norm = node("BatchNormalization", ["c", *NORM], "y")
    stored = {name: array for name, array in NORM.items() if name != "scale"}
    assert types_of(model([conv("c"), norm], {"x": IMAGE, "scale": (4,)}, KERNEL | stored)) == ["conv-bn-act", None]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32])
def test_numbers_of_other_types_are_other_kernels(dtype: int) -> None:
    [part] = parts_of(model([node("Add", ["x", "z"], "y")], {"x": IMAGE, "z": IMAGE}, dtype=dtype))
    assert part.type is None
    assert "float32" in part.reason


@pytest.mark.parametrize(("alpha", "found"), [(1 / 6, ["act"]), (None, [None, "mul"]), (0.25, [None, "mul"])])
def test_a_hard_sigmoid_of_another_slope_makes_no_hard_swish(alpha: float | None, found: list[str | None]) -> None:
    slope = {} if alpha is None else {"alpha": alpha}
    nodes = [node("HardSigmoid", ["x"], "h", **slope), node("Mul", ["x", "h"], "y")]
    assert types_of(model(nodes, {"x": IMAGE})) == found


def changed(kind: str, op: str, name: str, value: Any) -> list[Part]:
    """A kernel of the catalogue with one attribute, or one stored number, of one operator changed."""
    drawn = (onnx.load_from_string(build_kernel(kind, config)[0]) for config in draw(kind, 3, 8))
    made = next(each for each in drawn if op in [one.op_type for one in each.graph.node])
    target = next(each for each in made.graph.node if each.op_type == op)
    if name == "number":
        [tensor] = [each for each in made.graph.initializer if each.name in target.input and not each.dims]
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), tensor.name))
    else:
        kept = [each for each in target.attribute if each.name != name]
        del target.attribute[:]
        target.attribute.extend([*kept, helper.make_attribute(name, value)])
    return parts_of(made)


@pytest.mark.parametrize(
    ("kind", "op", "name", "value"),
    [
        ("gelu", "Div", "number", 1.0),
        ("gelu", "Add", "number", 2.0),
        ("attention", "Mul", "number", 0.7),
        ("attention", "Softmax", "axis", 2),
        ("channel-shuffle", "Transpose", "perm", [0, 1, 2, 3, 4]),
        ("softmax", "Softmax", "axis", 1),
        ("se", "HardSigmoid", "alpha", 0.2),
    ],
)
def test_a_pattern_with_another_number_in_it_is_another(kind: str, op: str, name: str, value: Any) -> None:
    assert kind not in [part.type for part in changed(kind, op, name, value)]


def test_a_softmax_of_old_files_runs_over_all_axes() -> None:
    shape = (2, 6, 6)
    for opset, found in ((13, "softmax"), (12, None)):
        assert types_of(model([node("Softmax", ["x"], "y")], {"x": shape}, output=shape, opset=opset)) == [found]


def test_the_mean_of_newer_files_names_its_axes_by_an_input() -> None:
    for axis, found in ((1, "reduce-mean"), (2, None)):
        mean = node("ReduceMean", ["x", "axes"], "y", keepdims=0)
        made = model([mean], {"x": (2, 6, 6)}, {"axes": np.asarray([axis])}, output=(2, 6), opset=18)
        assert types_of(made) == [found]


def test_a_gelu_by_tanh_is_another() -> None:
    for form, found in (("none", "gelu"), ("tanh", None)):
        made = model([node("Gelu", ["x"], "y", approximate=form)], {"x": (1, 6, 64)}, output=(1, 6, 64), opset=20)
        assert types_of(made) == [found]


def test_an_activation_behind_a_kernel_that_ends_with_none_is_a_part_of_its_own() -> None:
    nodes = [node("Add", ["x", "z"], "s"), node("Relu", ["s"], "y")]
    first, second = parts_of(model(nodes, {"x": (1, 6, 64), "z": (1, 6, 64)}, output=(1, 6, 64)))
    assert (first.type, first.config is not None, second.operators[0].family) == ("token-add", True, "Relu")


def test_a_dropout_of_training_is_no_view() -> None:
    for trains in (False, True):
        inputs = {"ratio": np.array(0.5, np.float32), "train": np.asarray(trains)}
        made = model([node("Dropout", ["x", *inputs], "y")], {"x": IMAGE}, inputs)
        assert types_of(made) == ([None] if trains else [])


def test_weights_in_constant_operators_are_parameters() -> None:
    floats = helper.make_node("Constant", [], ["f"], value_floats=[1.0, 2.0, 3.0])
    number = helper.make_node("Constant", [], ["n"], value_float=1.0)
    nodes = [held("w", KERNEL["w"]), floats, number, held("sizes", np.asarray([1, 4, 8, 8])), conv()]
    made = model(nodes, {"x": IMAGE}, {"b": weight(5)})
    assert onnx_reading.parameters(made) == 4 * 4 * 3 * 3 + 3 + 5
